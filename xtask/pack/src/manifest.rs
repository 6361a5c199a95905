//! The image's manifest: the model, and the format of every matrix.

use rill::image::layout::Format;
use rill::image::{Chat, Ffn, Layer, Manifest, ManifestError, Mixer};

use crate::Options;
use crate::checkpoint::{self, Checkpoint};
use crate::matrix::format_for;
use crate::model::push;

/// The manifest of a checkpoint packed with `options`.
pub fn of(
    checkpoint: &Checkpoint,
    chat: Chat,
    options: &Options,
) -> Result<Manifest, ManifestError> {
    let mut manifest = checkpoint.model.frame(chat)?;
    manifest.embedding = format_for([checkpoint.embedding.stored], options.embedding);
    manifest.head =
        checkpoint.head.as_ref().map(|head| format_for([head.stored], options.embedding));
    for layer in &checkpoint.layers {
        push(&mut manifest, formats_of(layer, options.dense))?;
    }
    let experts = || {
        checkpoint.layers.iter().flat_map(|layer| match &layer.ffn {
            checkpoint::Ffn::Dense(_) => &[][..],
            checkpoint::Ffn::Moe { experts, .. } => experts,
        })
    };
    let gate_up = experts().flat_map(|e| &e.gate_up).map(|part| part.stored);
    manifest.page_gate_up = format_for(gate_up, options.experts);
    manifest.page_down = format_for(experts().map(|e| e.down.stored), options.experts);
    manifest.check()?;
    Ok(manifest)
}

fn formats_of(layer: &checkpoint::Layer, dense: Format) -> Layer {
    let joint = |parts: &[checkpoint::Part]| format_for(parts.iter().map(|p| p.stored), dense);
    let single = |part: &checkpoint::Part| format_for([part.stored], dense);
    Layer {
        mixer: match &layer.mixer {
            checkpoint::Mixer::Conv { in_proj, out_proj, .. } => {
                Mixer::Conv { in_proj: single(in_proj), out_proj: single(out_proj) }
            }
            checkpoint::Mixer::Attention { qkv, out_proj, .. } => {
                Mixer::Attention { qkv: joint(qkv), out_proj: single(out_proj) }
            }
        },
        ffn: match &layer.ffn {
            checkpoint::Ffn::Dense(ffn) => {
                Ffn::Dense { gate_up: joint(&ffn.gate_up), down: single(&ffn.down) }
            }
            checkpoint::Ffn::Moe { .. } => Ffn::Moe,
        },
    }
}
