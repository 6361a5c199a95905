//! The model in f32, layer by layer over many texts at once: what calibration and the comparison of an
//! image with its source need. Only the layer under way is in RAM.
//!
//! Every value is the same on every machine and for any number of threads.

mod math;
mod mixer;
mod moe;
mod tiles;

use std::ops::Range;

use rill::image::{
    FfnTensors, LayerTensors, Manifest, MatrixExtent, MixerTensors, PageShape, Resident, Shape,
    page_shape,
};

pub use self::math::dot;
use self::math::{rms_norm, swiglu};
use self::mixer::{HeadNorms, attend, convolve};
use self::moe::route;
pub use self::moe::{Routed, gather};
pub use self::tiles::{Lanes, Tiles, products};
use crate::checkpoint::{Checkpoint, Ffn, Mixer, Part, Swiglu};
use crate::matrix::{Joint, MatrixError, Weave, numbers};

/// A checkpoint, and how its matrices lie in an image.
pub struct Net<'c> {
    /// The checkpoint.
    pub checkpoint: &'c Checkpoint,
    /// Its sizes, those of feed-forward parts padded.
    pub shape: Shape,
    /// The matrices of each layer.
    pub layers: Vec<LayerTensors>,
    /// The token embedding.
    pub embedding: MatrixExtent,
    /// The output head, or the embedding where that is it.
    pub head: MatrixExtent,
    /// The experts.
    pub page: Option<PageShape>,
}

/// A matrix of the resident section.
pub struct Dense<'a> {
    parts: Vec<&'a Part>,
    weave: Weave,
    /// Where it lies in the image.
    pub place: &'a MatrixExtent,
}

impl Dense<'_> {
    /// What it is made of.
    pub fn joint(&self) -> Joint<'_> {
        Joint { parts: &self.parts, weave: self.weave, shape: self.place.shape }
    }

    /// Its values for these inputs.
    fn supplied<S: Supply>(&self, supply: &mut S, inputs: &[f32]) -> Result<Tiles, S::Error> {
        supply.dense(&self.joint(), self.place, inputs)
    }
}

/// Where the matrices come from that a layer multiplies its inputs with.
pub trait Supply {
    /// Why there is none.
    type Error: From<MatrixError>;

    /// A matrix of the resident section, which will be multiplied with `inputs` (n, cols).
    fn dense(
        &mut self,
        joint: &Joint<'_>,
        place: &MatrixExtent,
        inputs: &[f32],
    ) -> Result<Tiles, Self::Error>;

    /// How many experts [`Self::experts`] takes at a time.
    fn together(&self) -> usize;

    /// The outputs of some experts, the first of them number `first` of its layer and page number `page`
    /// of the image, for the rows of `inputs` that are routed to each: (n, hidden) of each.
    fn experts(
        &mut self,
        page: usize,
        first: usize,
        experts: &[Swiglu],
        routed: &[Routed],
        inputs: &[f32],
    ) -> Result<Vec<Vec<f32>>, Self::Error>;
}

impl<'c> Net<'c> {
    /// The net of a checkpoint as an image with this manifest has it.
    pub fn new(checkpoint: &'c Checkpoint, manifest: &Manifest) -> Self {
        let mut layers = Vec::new();
        let (top, _) = Resident::of(manifest, |_, tensors| layers.push(tensors));
        let head = top.head.unwrap_or_else(|| top.embedding.clone());
        let (shape, page) = (manifest.shape, page_shape(manifest));
        Self { checkpoint, shape, layers, embedding: top.embedding, head, page }
    }

    /// The embeddings of tokens: (n, hidden).
    pub fn embed(&self, ids: &[u32]) -> Result<Vec<f32>, MatrixError> {
        let part = &self.checkpoint.embedding;
        let mut rows = vec![0.0; ids.len() * part.cols];
        for (row, &id) in rows.chunks_exact_mut(part.cols).zip(ids) {
            let id = id as usize;
            self.checkpoint.files.read(part, id..id + 1)?.decode(id, row);
        }
        Ok(rows)
    }

    /// The first page of a layer's experts.
    pub fn first_page(&self, layer: usize) -> usize {
        let before = &self.checkpoint.layers[..layer];
        let experts = before.iter().map(|layer| match &layer.ffn {
            Ffn::Dense(_) => 0,
            Ffn::Moe { experts, .. } => experts.len(),
        });
        experts.sum()
    }

    /// The matrices of a layer in the resident section: the mixer's input and output, and those of a dense
    /// feed-forward part.
    pub fn dense(&self, layer: usize) -> Vec<Dense<'_>> {
        let (tensors, parts) = (&self.layers[layer], &self.checkpoint.layers[layer]);
        let dense = |parts: Vec<_>, place| Dense { parts, weave: Weave::Stack, place };
        let mut all = match (&tensors.mixer, &parts.mixer) {
            (
                MixerTensors::Conv { in_proj: to, out_proj: from, .. },
                Mixer::Conv { in_proj, out_proj, .. },
            ) => vec![dense(vec![in_proj], to), dense(vec![out_proj], from)],
            (
                MixerTensors::Attention { qkv: to, out_proj: from, .. },
                Mixer::Attention { qkv, out_proj, .. },
            ) => vec![dense(qkv.iter().collect(), to), dense(vec![out_proj], from)],
            _ => unreachable!("the manifest was made from this checkpoint"),
        };
        if let (FfnTensors::Dense { gate_up, down }, Ffn::Dense(ffn)) = (&tensors.ffn, &parts.ffn) {
            let parts = ffn.gate_up.iter().collect();
            all.push(Dense { weave: Weave::Interleave, ..dense(parts, gate_up) });
            all.push(dense(vec![&ffn.down], down));
        }
        all
    }

    /// Takes `rows` (n, hidden), the tokens of `texts`, through a layer.
    pub fn layer<S: Supply>(
        &self,
        index: usize,
        rows: &mut [f32],
        texts: &[Range<usize>],
        supply: &mut S,
    ) -> Result<(), S::Error> {
        let (parts, dense) = (&self.checkpoint.layers[index], self.dense(index));
        let normed = self.normed(&parts.operator_norm, rows)?;
        let tiles = dense[0].supplied(supply, &normed)?;
        let projected = tiles.apply(&normed);
        drop(normed);
        let mixed = self.mix(&parts.mixer, &projected, tiles.rows(), texts)?;
        drop(projected);
        add(rows, &dense[1].supplied(supply, &mixed)?.apply(&mixed));
        drop(mixed);
        let normed = self.normed(&parts.ffn_norm, rows)?;
        match &parts.ffn {
            Ffn::Dense(_) => {
                let inner = gated(&dense[2].supplied(supply, &normed)?, &normed);
                drop(normed);
                let down = dense[3].supplied(supply, &inner)?;
                add(rows, &down.apply(&inner));
            }
            Ffn::Moe { router, bias, experts } => {
                let router = numbers(&self.checkpoint.files, router)?;
                let bias = bias.as_ref().map(|part| numbers(&self.checkpoint.files, part));
                let bias = bias.transpose()?;
                let routed = route(&self.shape, &router, bias.as_deref(), &normed);
                let (page, together) = (self.first_page(index), supply.together().max(1));
                for first in (0..experts.len()).step_by(together) {
                    let some = first..experts.len().min(first + together);
                    let (experts, routed) = (&experts[some.clone()], &routed[some]);
                    let outputs = supply.experts(page + first, first, experts, routed, &normed)?;
                    for (outputs, routed) in outputs.iter().zip(routed) {
                        self.scatter(rows, outputs, routed);
                    }
                }
            }
        }
        Ok(())
    }

    /// Mixes tokens: from rows of `width` after the input projection to those before the output
    /// projection.
    fn mix(
        &self,
        mixer: &Mixer,
        projected: &[f32],
        width: usize,
        texts: &[Range<usize>],
    ) -> Result<Vec<f32>, MatrixError> {
        let files = &self.checkpoint.files;
        match mixer {
            Mixer::Conv { taps, .. } => {
                // B, C and x fill whole tile rows: the hidden width is a multiple of 32.
                Ok(convolve(&self.shape, &numbers(files, taps)?, projected, texts))
            }
            Mixer::Attention { q_norm, k_norm, .. } => {
                let norms =
                    HeadNorms { query: numbers(files, q_norm)?, key: numbers(files, k_norm)? };
                Ok(attend(&self.shape, &norms, projected, width, texts))
            }
        }
    }

    /// Rows after the final norm.
    pub fn finish(&self, rows: &[f32]) -> Result<Vec<f32>, MatrixError> {
        self.normed(&self.checkpoint.norm, rows)
    }

    /// The token embedding.
    pub fn embedding(&self) -> Dense<'_> {
        let parts = vec![&self.checkpoint.embedding];
        Dense { parts, weave: Weave::Stack, place: &self.embedding }
    }

    /// The output head.
    pub fn head(&self) -> Dense<'_> {
        let part = self.checkpoint.head.as_ref().unwrap_or(&self.checkpoint.embedding);
        Dense { parts: vec![part], weave: Weave::Stack, place: &self.head }
    }

    fn normed(&self, part: &Part, rows: &[f32]) -> Result<Vec<f32>, MatrixError> {
        Ok(rms_norm(rows, &numbers(&self.checkpoint.files, part)?, self.shape.norm_eps))
    }

    fn hidden(&self) -> usize {
        self.shape.hidden as usize
    }

    /// Adds the weighed outputs of an expert to the rows that they belong to.
    fn scatter(&self, rows: &mut [f32], outputs: &[f32], routed: &Routed) {
        let hidden = self.hidden();
        let tokens = routed.tokens.iter().zip(&routed.weights);
        for ((&token, weight), output) in tokens.zip(outputs.chunks_exact(hidden)) {
            let row = &mut rows[token * hidden..][..hidden];
            row.iter_mut().zip(output).for_each(|(x, y)| *x += weight * y);
        }
    }
}

/// Rows of a wide product that are in RAM at once.
const STEP: usize = 1024;

/// `silu(gate x) * (up x)` of interleaved gate and up: (n, rows / 2).
pub fn gated(gate_up: &Tiles, inputs: &[f32]) -> Vec<f32> {
    let (rows, mut inner) = (gate_up.rows(), Vec::new());
    inner.reserve_exact(inputs.len() / gate_up.cols() * rows / 2);
    for inputs in inputs.chunks(STEP * gate_up.cols()) {
        for row in gate_up.apply(inputs).chunks_exact(rows) {
            for pair in row.as_chunks::<32>().0 {
                let (gate, up) = pair.split_at(16);
                inner.extend(gate.iter().zip(up).map(|(&gate, &up)| swiglu(gate, up)));
            }
        }
    }
    inner
}

fn add(rows: &mut [f32], more: &[f32]) {
    rows.iter_mut().zip(more).for_each(|(x, y)| *x += y);
}
