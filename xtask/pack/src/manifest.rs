//! The image's manifest: the model, and the format of every matrix.

use std::cell::RefCell;
use std::fmt;

use rill::image::layout::Format;
use rill::image::{Chat, Ffn, Layer, Manifest, ManifestError, Mixer};

use crate::checkpoint::{self, Checkpoint};
use crate::matrix::is_exact;
use crate::model::push;
use crate::stored::Stored;

/// A matrix that has a format of its own, or all matrices that share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The token embedding, which may be the output head too.
    Embedding,
    /// An output head of its own.
    Head,
    /// A matrix of a layer in the resident section.
    Dense {
        /// The layer.
        layer: usize,
        /// Which of them.
        which: Which,
    },
    /// Gate and up of all experts.
    GateUp,
    /// Down of all experts.
    Down,
}

/// A matrix of a layer in the resident section. As numbers: its place in `Net::dense`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The mixer's input projection.
    Input,
    /// Its output projection.
    Output,
    /// Gate and up of a dense feed-forward part.
    GateUp,
    /// Its down.
    Down,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => write!(f, "embedding"),
            Self::Head => write!(f, "output head"),
            Self::Dense { layer, which } => {
                let name = match which {
                    Which::Input => "mixer input",
                    Which::Output => "mixer output",
                    Which::GateUp => "dense gate and up",
                    Which::Down => "dense down",
                };
                write!(f, "layer {layer} {name}")
            }
            Self::GateUp => write!(f, "experts' gate and up"),
            Self::Down => write!(f, "experts' down"),
        }
    }
}

/// The manifest of a checkpoint. `format` is asked for each matrix's, by the encodings of its tensors.
pub fn of(
    checkpoint: &Checkpoint,
    chat: Chat,
    format: &dyn Fn(Slot, &[Stored]) -> Format,
) -> Result<Manifest, ManifestError> {
    let mut manifest = checkpoint.model.frame(chat)?;
    manifest.embedding = format(Slot::Embedding, &[checkpoint.embedding.stored]);
    manifest.head = checkpoint.head.as_ref().map(|head| format(Slot::Head, &[head.stored]));
    for (index, layer) in checkpoint.layers.iter().enumerate() {
        let of_dense = |which, parts: &[checkpoint::Part]| {
            let stored: Vec<Stored> = parts.iter().map(|part| part.stored).collect();
            format(Slot::Dense { layer: index, which }, &stored)
        };
        push(&mut manifest, formats_of(layer, &of_dense))?;
    }
    let experts = || {
        checkpoint.layers.iter().flat_map(|layer| match &layer.ffn {
            checkpoint::Ffn::Dense(_) => &[][..],
            checkpoint::Ffn::Moe { experts, .. } => experts,
        })
    };
    let gate_up: Vec<Stored> = experts().flat_map(|e| &e.gate_up).map(|part| part.stored).collect();
    manifest.page_gate_up = format(Slot::GateUp, &gate_up);
    let down: Vec<Stored> = experts().map(|expert| expert.down.stored).collect();
    manifest.page_down = format(Slot::Down, &down);
    manifest.check()?;
    Ok(manifest)
}

/// The smallest manifest of a checkpoint, all int4, and where int8 would keep more.
pub fn smallest(
    checkpoint: &Checkpoint,
    chat: Chat,
) -> Result<(Manifest, Vec<Slot>), ManifestError> {
    let free = RefCell::new(Vec::new());
    let manifest = of(checkpoint, chat, &|slot, stored| {
        if stored.iter().any(|&stored| !is_exact(stored, Format::Q4)) {
            free.borrow_mut().push(slot);
        }
        Format::Q4
    })?;
    Ok((manifest, free.into_inner()))
}

fn formats_of(
    layer: &checkpoint::Layer,
    format: &dyn Fn(Which, &[checkpoint::Part]) -> Format,
) -> Layer {
    use std::slice::from_ref;
    Layer {
        mixer: match &layer.mixer {
            checkpoint::Mixer::Conv { in_proj, out_proj, .. } => Mixer::Conv {
                in_proj: format(Which::Input, from_ref(in_proj)),
                out_proj: format(Which::Output, from_ref(out_proj)),
            },
            checkpoint::Mixer::Attention { qkv, out_proj, .. } => Mixer::Attention {
                qkv: format(Which::Input, qkv),
                out_proj: format(Which::Output, from_ref(out_proj)),
            },
        },
        ffn: match &layer.ffn {
            checkpoint::Ffn::Dense(ffn) => Ffn::Dense {
                gate_up: format(Which::GateUp, &ffn.gate_up),
                down: format(Which::Down, from_ref(&ffn.down)),
            },
            checkpoint::Ffn::Moe { .. } => Ffn::Moe,
        },
    }
}
