//! The model: a batch of tokens in, the residual stream of its last layer out.
//!
//! The path of a token, in reading order: [`weights`] (what is in RAM), [`batch`] (which rows belong to
//! whom), [`product`] (matrix products over cores), [`conv`] and [`attention`] (what mixes tokens, over
//! [`state`] and [`kv`]), [`router`] and [`moe`] (the experts), and [`Model::forward`] here, which
//! strings them together.

pub mod attention;
pub mod batch;
pub mod checked;
pub mod conv;
pub mod kv;
pub mod moe;
pub mod product;
pub mod router;
pub mod scratch;
pub mod state;
pub mod weights;

use core::ops::Range;

use self::batch::{Kind, Mark, Rows, Run};
use self::kv::KvPool;
use self::moe::{MoeLayer, Next};
use self::product::{Activations, Cores, Grain, Write, gate_up, project};
use self::scratch::Scratch;
use self::weights::{FfnWeights, LayerWeights, MixerWeights, Weights};
use crate::experts::{Cache, Lookahead, PageError};
use crate::image::Shape;
use crate::kernels::Kernels;
use crate::seams::{Parallel, World, for_each_chunk};

/// Why a batch was not computed: its tokens are still to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incomplete {
    /// A page cannot be had.
    Page(PageError),
    /// Whoever hears events wants it to end.
    Stopped,
}

impl From<PageError> for Incomplete {
    fn from(error: PageError) -> Self {
        Self::Page(error)
    }
}

/// A model in RAM, but for the pages that are not.
pub struct Model<'a> {
    /// Sizes and constants.
    pub shape: Shape,
    /// The table of functions.
    pub kernels: &'static Kernels,
    /// The always-used weights.
    pub weights: Weights<'a>,
    /// Keys and values of all sequences.
    pub kv: KvPool<'a>,
    /// The experts; `None` for a dense model.
    pub cache: Option<Cache<'a>>,
    /// Whether pages are read on a guess.
    pub lookahead: Lookahead,
    /// The rows of the last batch.
    pub rows: Rows<'a>,
    /// Working memory of a batch.
    pub scratch: Scratch<'a>,
}

impl<'a> Model<'a> {
    /// Takes the tokens of `runs` (together at most as many as the scratch was made for) through all
    /// layers. Only the rows whose results are wanted go through the last layer as a whole. `marks`
    /// are places that are to be remembered.
    ///
    /// No sequence remembers anything of it before [`Memory::commit`](state::Memory::commit), which
    /// is not to be called after an error.
    pub fn forward(
        &mut self,
        world: &mut World<'_, 'a>,
        runs: &[Run<'_, 'a>],
        marks: &[Mark],
    ) -> Result<(), Incomplete> {
        let hidden = self.shape.hidden as usize;
        self.rows.lay_out(runs, marks, self.shape.conv_width as usize - 1);
        let count = self.rows.count();
        let tokens = runs.iter().flat_map(|run| run.tokens);
        for (x, &token) in self.scratch.x.chunks_exact_mut(hidden).zip(tokens) {
            self.weights.embedding.row(token as usize, x);
        }
        attention::rotations(&self.shape, &self.rows, self.scratch.rotation);
        let start = world.clock.now();
        // A batch with a prompt in it is one: it wants most experts, whatever else is in it.
        let is_answer = runs.iter().all(|run| run.kind == Kind::Answer);
        let kind = if is_answer { Kind::Answer } else { Kind::Prompt };
        let guess = if is_answer { self.lookahead.is_on() } else { self.lookahead.is_allowed() };
        // The last layer gets only rows that somebody will read.
        let last_layer = self.weights.layers.len() - 1;
        if let Some(cache) = self.cache.as_mut().filter(|_| guess)
            && let Some(first) = (self.weights.layers.iter().enumerate())
                .find_map(|(index, layer)| next_router(layer, &self.rows, index == last_layer))
        {
            let layer = (&self.shape, self.kernels);
            moe::look_ahead(world, layer, &first, count, &mut self.scratch, cache);
        }
        for (index, layer) in self.weights.layers.iter().enumerate() {
            if world.events.wants_stop() {
                self.cache.iter_mut().for_each(|cache| cache.recover(world));
                return Err(Incomplete::Stopped);
            }
            let cores = Cores { kernels: self.kernels, parallel: world.parallel };
            self.norm(world.parallel, layer.operator_norm, count);
            let last = index == last_layer;
            if last {
                self.rows.pick(self.scratch.x, hidden);
            }
            let (scratch, rows) = (&mut self.scratch, &mut self.rows);
            match &layer.mixer {
                MixerWeights::Conv(w) => conv::forward(cores, w, runs, rows, last, scratch),
                MixerWeights::Attention(w) => {
                    let kv = &mut self.kv;
                    attention::forward(cores, &self.shape, w, runs, rows, last, scratch, kv);
                }
            }
            let n = if last { self.rows.picked().len() } else { count };
            if n == 0 {
                break;
            }
            self.norm(world.parallel, layer.ffn_norm, n);
            match (&layer.ffn, &mut self.cache) {
                (FfnWeights::Moe(w), Some(cache)) => {
                    let next = self.weights.layers[index + 1..].first().filter(|_| guess);
                    let next_is_last = index + 1 == last_layer;
                    let next = next.and_then(|layer| next_router(layer, &self.rows, next_is_last));
                    let layer =
                        MoeLayer { shape: &self.shape, router: w, next, kernels: self.kernels };
                    let batch = (&self.rows, kind, last);
                    moe::forward(world, layer, batch, &mut self.scratch, cache)
                        .inspect_err(|_| cache.recover(world))?;
                }
                (FfnWeights::Dense { gate_up: w, down }, _) => {
                    let normed = &self.scratch.normed[..n * hidden];
                    let (quants, middle) = (&mut *self.scratch.quants, &mut *self.scratch.middle);
                    let grain = Grain::Fine;
                    let width = grain.width(self.kernels);
                    let x = Activations::quantise(cores, normed, hidden, width, grain, quants);
                    let h = gate_up(cores, *w, x, grain, middle);
                    project(cores, *down, h, Write::Add, &mut self.scratch.x[..n * hidden]);
                }
                (FfnWeights::Moe(_), None) => unreachable!("a model with banks has a cache"),
            }
        }
        if is_answer {
            self.lookahead.token((world.clock.now() - start) / count.max(1) as u64);
        }
        Ok(())
    }

    /// The logits of some of the rows whose results were wanted of the last batch, `(rows, vocab)`.
    pub fn logits(&mut self, parallel: &dyn Parallel, picked: Range<usize>, logits: &mut [f32]) {
        let hidden = self.shape.hidden as usize;
        let cores = Cores { kernels: self.kernels, parallel };
        let count = picked.len();
        let x = &self.scratch.x[picked.start * hidden..picked.end * hidden];
        let normed = &mut self.scratch.normed[..count * hidden];
        for (x, normed) in x.chunks_exact(hidden).zip(normed.chunks_exact_mut(hidden)) {
            (self.kernels.rms_norm)(x, self.weights.norm, self.shape.norm_eps, normed);
        }
        let (grain, quants) = (Grain::Plain, &mut *self.scratch.quants);
        let width = grain.width(self.kernels);
        let x = Activations::quantise(cores, normed, hidden, width, grain, quants);
        project(cores, self.weights.head, x, Write::Store, logits);
    }

    /// `normed = rms_norm(x)` for the first `n` tokens.
    fn norm(&mut self, parallel: &dyn Parallel, weight: &[f32], n: usize) {
        let hidden = self.shape.hidden as usize;
        let (x, kernels, eps) = (&*self.scratch.x, self.kernels, self.shape.norm_eps);
        let body = |t: usize, normed: &mut [f32]| {
            (kernels.rms_norm)(&x[t * hidden..][..hidden], weight, eps, normed);
        };
        let normed = &mut self.scratch.normed[..n * hidden];
        if n == 1 {
            // Not worth waking anybody.
            body(0, normed);
        } else {
            for_each_chunk(parallel, normed, hidden, body);
        }
    }
}

/// The router of a MoE layer, for guesses; only picked rows come to the `last` layer.
fn next_router<'l>(
    layer: &'l LayerWeights<'_>,
    rows: &'l Rows<'_>,
    last: bool,
) -> Option<Next<'l>> {
    let picked = last.then(|| rows.picked());
    match &layer.ffn {
        FfnWeights::Moe(router) => Some(Next { norm: layer.ffn_norm, router, picked }),
        FfnWeights::Dense { .. } => None,
    }
}
