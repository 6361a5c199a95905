//! The image's manifest: the model, and the format of every matrix.

use rill::image::layout::{BLOCK, Format};
use rill::image::{Chat, Ffn, Layer, MAX_LAYERS, Manifest, ManifestError, Mixer, Shape};

use crate::Options;
use crate::checkpoint::{self, Checkpoint, Model};
use crate::matrix::format_for;

/// The shape with feed-forward widths padded to whole blocks.
pub fn padded(shape: &Shape) -> Result<Shape, ManifestError> {
    let pad = |width: u32, name| {
        width.checked_next_multiple_of(BLOCK as u32).ok_or(ManifestError::Field(name))
    };
    Ok(Shape {
        dense_ff: pad(shape.dense_ff, "dense_ff")?,
        expert_ff: pad(shape.expert_ff, "expert_ff")?,
        ..*shape
    })
}

/// Checks the bounds of every number of a model, before anything is sized by them.
pub fn check(model: &Model) -> Result<(), ManifestError> {
    let any = Format::Q8;
    let mut manifest = frame(model, Chat::default())?;
    for (index, &attention) in model.attention.iter().enumerate() {
        let mixer = if attention {
            Mixer::Attention { qkv: any, out_proj: any }
        } else {
            Mixer::Conv { in_proj: any, out_proj: any }
        };
        let ffn = if index < model.dense_layers {
            Ffn::Dense { gate_up: any, down: any }
        } else {
            Ffn::Moe
        };
        push(&mut manifest, Layer { mixer, ffn })?;
    }
    manifest.check()
}

/// The manifest of a checkpoint packed with `options`.
pub fn of(
    checkpoint: &Checkpoint,
    chat: Chat,
    options: &Options,
) -> Result<Manifest, ManifestError> {
    let mut manifest = frame(&checkpoint.model, chat)?;
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

/// A manifest without layers.
fn frame(model: &Model, chat: Chat) -> Result<Manifest, ManifestError> {
    let mut name = heapless::String::new();
    for letter in model.name.chars() {
        // A longer name is cut; it is only shown.
        if name.push(letter).is_err() {
            break;
        }
    }
    Ok(Manifest {
        name,
        shape: padded(&model.shape)?,
        layers: heapless::Vec::<_, MAX_LAYERS>::new(),
        embedding: Format::Q8,
        head: None,
        page_gate_up: Format::Q4,
        page_down: Format::Q4,
        chat,
        sampling: model.sampling,
    })
}

fn push(manifest: &mut Manifest, layer: Layer) -> Result<(), ManifestError> {
    manifest.layers.push(layer).map_err(|_| ManifestError::Field("layers"))
}
