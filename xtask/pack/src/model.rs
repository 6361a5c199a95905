//! What a model is, in the image's words, whatever it was read from.

use rill::image::layout::{BLOCK, Format};
use rill::image::{Chat, Ffn, Layer, MAX_LAYERS, Manifest, ManifestError, Mixer, Sampling, Shape};

/// What the model is, in the image's words.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// What it is called.
    pub name: String,
    /// Its sizes; the widths of the feed-forward parts are not padded yet.
    pub shape: Shape,
    /// For each layer whether it attends (or convolves).
    pub attention: Vec<bool>,
    /// How many layers at the front have a dense feed-forward part.
    pub dense_layers: usize,
    /// Whether the output head is the embedding.
    pub tied: bool,
    /// Sampling its makers advise.
    pub sampling: Sampling,
    /// Tokens that end an answer.
    pub stops: Vec<u32>,
}

impl Model {
    /// Checks the bounds of every number of a model, before anything is sized by them.
    pub(crate) fn check(&self) -> Result<(), ManifestError> {
        let any = Format::Q8;
        let mut manifest = self.frame(Chat::default())?;
        for (index, &attention) in self.attention.iter().enumerate() {
            let mixer = if attention {
                Mixer::Attention { qkv: any, out_proj: any }
            } else {
                Mixer::Conv { in_proj: any, out_proj: any }
            };
            let ffn = if index < self.dense_layers {
                Ffn::Dense { gate_up: any, down: any }
            } else {
                Ffn::Moe
            };
            push(&mut manifest, Layer { mixer, ffn })?;
        }
        manifest.check()
    }

    /// A manifest without layers.
    pub(crate) fn frame(&self, chat: Chat) -> Result<Manifest, ManifestError> {
        let mut name = heapless::String::new();
        for letter in self.name.chars() {
            // A longer name is cut; it is only shown.
            if name.push(letter).is_err() {
                break;
            }
        }
        Ok(Manifest {
            name,
            shape: padded(&self.shape)?,
            layers: heapless::Vec::<_, MAX_LAYERS>::new(),
            embedding: Format::Q8,
            head: None,
            page_gate_up: Format::Q4,
            page_down: Format::Q4,
            chat,
            sampling: self.sampling,
        })
    }
}

/// Adds a layer to a manifest.
pub(crate) fn push(manifest: &mut Manifest, layer: Layer) -> Result<(), ManifestError> {
    manifest.layers.push(layer).map_err(|_| ManifestError::Field("layers"))
}

/// The shape with feed-forward widths padded to whole blocks.
fn padded(shape: &Shape) -> Result<Shape, ManifestError> {
    let pad = |width: u32, name| {
        width.checked_next_multiple_of(BLOCK as u32).ok_or(ManifestError::Field(name))
    };
    Ok(Shape {
        dense_ff: pad(shape.dense_ff, "dense_ff")?,
        expert_ff: pad(shape.expert_ff, "expert_ff")?,
        ..*shape
    })
}
