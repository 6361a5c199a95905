//! The always-used weights, as views of the resident section.

use bytemuck::cast_slice;

use crate::arena::{Arena, ArenaFull};
use crate::image::{
    Extent, FfnTensors, LayerTensors, Manifest, MatrixExtent, MixerTensors, Resident,
};
use crate::kernels::Matrix;

/// The weights of one layer.
#[derive(Debug, Clone, Copy)]
pub struct LayerWeights<'a> {
    /// (hidden,).
    pub operator_norm: &'a [f32],
    /// What mixes tokens.
    pub mixer: MixerWeights<'a>,
    /// (hidden,).
    pub ffn_norm: &'a [f32],
    /// What transforms each token.
    pub ffn: FfnWeights<'a>,
}

/// The weights of a mixer.
#[derive(Debug, Clone, Copy)]
pub enum MixerWeights<'a> {
    /// Gated short convolution.
    Conv(ConvWeights<'a>),
    /// Grouped-query attention.
    Attention(AttentionWeights<'a>),
}

/// The weights of a gated short convolution.
#[derive(Debug, Clone, Copy)]
pub struct ConvWeights<'a> {
    /// Number among the convolution layers: finds its state.
    pub index: usize,
    /// (3 hidden, hidden).
    pub in_proj: Matrix<'a>,
    /// (conv_width, hidden), oldest tap first.
    pub taps: &'a [f32],
    /// (hidden, hidden).
    pub out_proj: Matrix<'a>,
}

/// The weights of grouped-query attention.
#[derive(Debug, Clone, Copy)]
pub struct AttentionWeights<'a> {
    /// Number among the attention layers: finds its keys and values.
    pub index: usize,
    /// ((heads + 2 kv_heads) head_dim, hidden).
    pub qkv: Matrix<'a>,
    /// (head_dim,).
    pub q_norm: &'a [f32],
    /// (head_dim,).
    pub k_norm: &'a [f32],
    /// (hidden, heads head_dim).
    pub out_proj: Matrix<'a>,
}

/// The weights of a feed-forward part.
#[derive(Debug, Clone, Copy)]
pub enum FfnWeights<'a> {
    /// One SwiGLU for all.
    Dense {
        /// Interleaved, (2 dense_ff, hidden).
        gate_up: Matrix<'a>,
        /// (hidden, dense_ff).
        down: Matrix<'a>,
    },
    /// A router before a bank of pages.
    Moe(RouterWeights<'a>),
}

/// The weights of a router.
#[derive(Debug, Clone, Copy)]
pub struct RouterWeights<'a> {
    /// Number among the MoE layers.
    pub bank: usize,
    /// `[tile row][hidden][16]`.
    pub weights: &'a [f32],
    /// (experts,): added to the scores when choosing.
    pub bias: &'a [f32],
}

/// All always-used weights.
#[derive(Debug)]
pub struct Weights<'a> {
    /// (vocab, hidden).
    pub embedding: Matrix<'a>,
    /// (vocab, hidden): the embedding itself when tied.
    pub head: Matrix<'a>,
    /// (hidden,).
    pub norm: &'a [f32],
    /// First to last.
    pub layers: &'a [LayerWeights<'a>],
}

impl<'a> Weights<'a> {
    /// Bytes that [`Weights::new`] takes from its arena.
    pub fn bytes(manifest: &Manifest) -> usize {
        Arena::cost::<LayerWeights<'_>>(manifest.layers.len())
    }

    /// Views `resident`, the resident section as the image has it.
    pub fn new(
        manifest: &Manifest,
        resident: &'a [u8],
        arena: &mut Arena<'a>,
    ) -> Result<Self, ArenaFull> {
        let mut view = View { resident, convs: 0, attentions: 0, banks: 0 };
        let (tensors, mut walk) = Resident::begin(manifest);
        let layers = arena.build(manifest.layers.len(), |index| {
            Ok(view.layer(&walk.next_layer(manifest, index)))
        })?;
        let embedding = view.matrix(&tensors.embedding);
        let head = tensors.head.as_ref().map_or(embedding, |head| view.matrix(head));
        Ok(Self { embedding, head, norm: view.floats(&tensors.norm), layers })
    }
}

struct View<'a> {
    resident: &'a [u8],
    convs: usize,
    attentions: usize,
    banks: usize,
}

impl<'a> View<'a> {
    fn layer(&mut self, layer: &LayerTensors) -> LayerWeights<'a> {
        LayerWeights {
            operator_norm: self.floats(&layer.operator_norm),
            mixer: match &layer.mixer {
                MixerTensors::Conv { in_proj, taps, out_proj } => MixerWeights::Conv(ConvWeights {
                    index: next(&mut self.convs),
                    in_proj: self.matrix(in_proj),
                    taps: self.floats(taps),
                    out_proj: self.matrix(out_proj),
                }),
                MixerTensors::Attention { qkv, q_norm, k_norm, out_proj } => {
                    MixerWeights::Attention(AttentionWeights {
                        index: next(&mut self.attentions),
                        qkv: self.matrix(qkv),
                        q_norm: self.floats(q_norm),
                        k_norm: self.floats(k_norm),
                        out_proj: self.matrix(out_proj),
                    })
                }
            },
            ffn_norm: self.floats(&layer.ffn_norm),
            ffn: match &layer.ffn {
                FfnTensors::Dense { gate_up, down } => {
                    FfnWeights::Dense { gate_up: self.matrix(gate_up), down: self.matrix(down) }
                }
                FfnTensors::Moe { router, bias } => FfnWeights::Moe(RouterWeights {
                    bank: next(&mut self.banks),
                    weights: self.floats(router),
                    bias: self.floats(bias),
                }),
            },
        }
    }

    fn matrix(&self, matrix: &MatrixExtent) -> Matrix<'a> {
        Matrix { shape: matrix.shape, bytes: &self.resident[matrix.extent.clone()] }
    }

    fn floats(&self, extent: &Extent) -> &'a [f32] {
        cast_slice(&self.resident[extent.clone()])
    }
}

fn next(counter: &mut usize) -> usize {
    *counter += 1;
    *counter - 1
}
