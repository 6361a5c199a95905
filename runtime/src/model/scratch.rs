//! Working memory of one batch.

use super::product::Grain;
use crate::arena::{Arena, ArenaFull};
use crate::image::layout::{TILE_ROWS, align_up};
use crate::image::{Manifest, page_shape, sum_chunks};

/// Buffers for a batch of tokens; each is overwritten layer by layer.
#[derive(Debug)]
pub struct Scratch<'a> {
    /// The residual stream, (tokens, hidden).
    pub x: &'a mut [f32],
    /// Its norm, (tokens, hidden).
    pub normed: &'a mut [f32],
    /// (tokens, 3 hidden) of a convolution, (tokens, qkv rows) of an attention, or
    /// (tokens x top_k, hidden) of the experts.
    pub wide: &'a mut [f32],
    /// What goes into an output projection, (tokens, hidden or heads x head_dim).
    pub inner: &'a mut [f32],
    /// The columns that a convolution looks back on, (conv_width - 1, hidden).
    pub window: &'a mut [f32],
    /// Quantised activations of `normed` or `inner`.
    pub quants: &'a mut [i32],
    /// Quantised activations gathered for the experts, (tokens x top_k, hidden).
    pub gathered: &'a mut [i32],
    /// Quantised activations between gate-up and down.
    pub middle: &'a mut [i32],
    /// Cosine and sine of each position's rotation, (tokens, head_dim).
    pub rotation: &'a mut [f32],
    /// Router scores, (tokens, experts padded to 16).
    pub scores: &'a mut [f32],
    /// Chosen experts in router order, (tokens, top_k).
    pub chosen: &'a mut [u16],
    /// Their weights, (tokens, top_k).
    pub weights: &'a mut [f32],
    /// Tokens of each expert, expert by expert.
    pub by_expert: &'a mut [u32],
    /// The row of `wide` for each element of `by_expert`: token x top_k + rank.
    pub rows: &'a mut [u32],
    /// Sums of the chunks of the same part of every page of a bank.
    pub sums: &'a mut [u64],
}

/// Lengths of the buffers for one token, in the order of [`Scratch`].
struct Lens {
    hidden: usize,
    wide: usize,
    inner: usize,
    quants: usize,
    gathered: usize,
    middle: usize,
    rotation: usize,
    scores: usize,
    top_k: usize,
}

impl Lens {
    fn new(manifest: &Manifest) -> Self {
        let s = &manifest.shape;
        let [hidden, heads, kv_heads, head_dim, top_k] =
            [s.hidden, s.heads, s.kv_heads, s.head_dim, s.top_k].map(|x| x as usize);
        let inner = hidden.max(heads * head_dim);
        let middle = Grain::Fine
            .words(1, s.dense_ff as usize)
            .max(Grain::Plain.words(top_k, s.expert_ff as usize));
        Self {
            hidden,
            wide: (3 * hidden).max((heads + 2 * kv_heads) * head_dim).max(top_k * hidden),
            inner,
            quants: Grain::Fine.words(1, inner),
            gathered: Grain::Plain.words(top_k, hidden),
            middle,
            rotation: head_dim,
            scores: align_up(s.experts as usize, TILE_ROWS),
            top_k,
        }
    }
}

/// Values of the columns that a convolution looks back on.
fn window(manifest: &Manifest) -> usize {
    (manifest.shape.conv_width as usize - 1) * manifest.shape.hidden as usize
}

/// Sums that a bank may need at once.
fn sums(manifest: &Manifest) -> usize {
    let chunks = page_shape(manifest).map_or(0, |page| {
        sum_chunks(page.down_at()).max(sum_chunks(page.bytes() - page.down_at()))
    });
    manifest.shape.experts as usize * chunks
}

impl<'a> Scratch<'a> {
    /// Bytes for batches of up to `tokens`.
    pub fn bytes(manifest: &Manifest, tokens: usize) -> usize {
        let lens = Lens::new(manifest);
        let floats = [
            lens.hidden,
            lens.hidden,
            lens.wide,
            lens.inner,
            lens.quants,
            lens.gathered,
            lens.middle,
            lens.rotation,
            lens.scores,
            lens.top_k,
            lens.top_k,
            lens.top_k,
        ];
        floats.iter().map(|len| Arena::cost::<f32>(len * tokens)).sum::<usize>()
            + Arena::cost::<u16>(lens.top_k * tokens)
            + Arena::cost::<f32>(window(manifest))
            + Arena::cost::<u64>(sums(manifest))
    }

    /// Takes its memory.
    pub fn new(
        manifest: &Manifest,
        tokens: usize,
        arena: &mut Arena<'a>,
    ) -> Result<Self, ArenaFull> {
        let lens = Lens::new(manifest);
        Ok(Self {
            x: arena.zeros(lens.hidden * tokens)?,
            normed: arena.zeros(lens.hidden * tokens)?,
            wide: arena.zeros(lens.wide * tokens)?,
            inner: arena.zeros(lens.inner * tokens)?,
            window: arena.zeros(window(manifest))?,
            quants: arena.zeros(lens.quants * tokens)?,
            gathered: arena.zeros(lens.gathered * tokens)?,
            middle: arena.zeros(lens.middle * tokens)?,
            rotation: arena.zeros(lens.rotation * tokens)?,
            scores: arena.zeros(lens.scores * tokens)?,
            chosen: arena.zeros(lens.top_k * tokens)?,
            weights: arena.zeros(lens.top_k * tokens)?,
            by_expert: arena.zeros(lens.top_k * tokens)?,
            rows: arena.zeros(lens.top_k * tokens)?,
            sums: arena.zeros(sums(manifest))?,
        })
    }
}
