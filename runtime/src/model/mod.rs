//! The model: a batch of tokens in, the residual stream of its last layer out.
//!
//! The path of a token, in reading order: [`weights`] (what is in RAM), [`product`] (matrix
//! products over cores), [`conv`] and [`attention`] (what mixes tokens, over [`state`] and [`kv`]),
//! [`router`] and [`moe`] (the experts), and [`Model::forward`] here, which strings them together.

pub mod attention;
pub mod checked;
pub mod conv;
pub mod kv;
pub mod moe;
pub mod product;
pub mod router;
pub mod scratch;
pub mod state;
pub mod weights;

use self::kv::KvCache;
use self::moe::{MoeLayer, Next};
use self::product::{Activations, Cores, Grain, Write, gate_up, project};
use self::scratch::Scratch;
use self::state::ConvState;
use self::weights::{FfnWeights, LayerWeights, MixerWeights, Weights};
use crate::experts::{Cache, Lookahead, PageError};
use crate::image::Shape;
use crate::kernels::Kernels;
use crate::seams::{Parallel, World, for_each_chunk};

/// A model in RAM, but for the pages that are not.
pub struct Model<'a> {
    /// Sizes and constants.
    pub shape: Shape,
    /// The table of functions.
    pub kernels: &'static Kernels,
    /// The always-used weights.
    pub weights: Weights<'a>,
    /// Keys and values of the sequence.
    pub kv: KvCache<'a>,
    /// Columns of the sequence that convolutions still need.
    pub conv: ConvState<'a>,
    /// The experts; `None` for a dense model.
    pub cache: Option<Cache<'a>>,
    /// Whether pages are read on a guess.
    pub lookahead: Lookahead,
    /// Working memory of a batch.
    pub scratch: Scratch<'a>,
}

/// What [`Model::forward`] is to compute beside what later tokens need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing: the last layer's output concerns nobody.
    Nothing,
    /// The results of the last token.
    Last,
    /// The results of every token.
    Every,
}

impl Wanted {
    /// Of how many tokens, the last of a batch of `tokens`.
    pub const fn of(self, tokens: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Last => 1,
            Self::Every => tokens,
        }
    }
}

impl<'a> Model<'a> {
    /// Runs `tokens` (at most as many as the scratch was made for) through all layers; the first
    /// is at `position` of the sequence, after what was run before. Only what is `wanted` goes
    /// through the last layer as a whole.
    ///
    /// After an error the sequence is lost: see [`Model::forget`].
    pub fn forward(
        &mut self,
        world: &mut World<'_, 'a>,
        tokens: &[u32],
        position: usize,
        wanted: Wanted,
    ) -> Result<(), PageError> {
        let hidden = self.shape.hidden as usize;
        let n = tokens.len();
        // The last layer gets only rows that somebody will read.
        let last_layer = self.weights.layers.len() - 1;
        let rows_through = |layer| if layer == last_layer { wanted.of(n) } else { n };
        for (x, &token) in self.scratch.x.chunks_exact_mut(hidden).zip(tokens) {
            self.weights.embedding.row(token as usize, x);
        }
        attention::rotations(&self.shape, position, n, self.scratch.rotation);
        let start = world.clock.now();
        let guess = if n > 1 { self.lookahead.is_allowed() } else { self.lookahead.is_on() };
        if let Some(cache) = self.cache.as_mut().filter(|_| guess)
            && let Some(first) = (self.weights.layers.iter().enumerate())
                .find_map(|(index, layer)| next_router(layer, rows_through(index)))
        {
            let layer = (&self.shape, self.kernels);
            moe::look_ahead(world, layer, &first, n, &mut self.scratch, cache);
        }
        for (index, layer) in self.weights.layers.iter().enumerate() {
            let cores = Cores { kernels: self.kernels, parallel: world.parallel };
            self.norm(world.parallel, layer.operator_norm, n);
            let batch = position..position + n;
            let n = rows_through(index);
            if n < batch.len() {
                let rows = (batch.len() - n) * hidden..batch.len() * hidden;
                self.scratch.x.copy_within(rows, 0);
            }
            match &layer.mixer {
                MixerWeights::Conv(w) => {
                    conv::forward(cores, w, batch.len(), n, &mut self.scratch, &mut self.conv);
                }
                MixerWeights::Attention(w) => {
                    let (scratch, kv) = (&mut self.scratch, &mut self.kv);
                    attention::forward(cores, &self.shape, w, batch.clone(), n, scratch, kv);
                }
            }
            if n == 0 {
                break;
            }
            self.norm(world.parallel, layer.ffn_norm, n);
            match (&layer.ffn, &mut self.cache) {
                (FfnWeights::Moe(w), Some(cache)) => {
                    let next = self.weights.layers[index + 1..].first().filter(|_| guess);
                    let next = next.and_then(|layer| next_router(layer, rows_through(index + 1)));
                    let layer =
                        MoeLayer { shape: &self.shape, router: w, next, kernels: self.kernels };
                    moe::forward(world, layer, batch.end - n..batch.end, &mut self.scratch, cache)
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
        if n == 1 {
            self.lookahead.token(world.clock.now() - start);
        }
        Ok(())
    }

    /// The logits (vocab,) of number `index` of the tokens that were wanted of the last batch.
    pub fn logits(&mut self, parallel: &dyn Parallel, index: usize, logits: &mut [f32]) {
        let hidden = self.shape.hidden as usize;
        let cores = Cores { kernels: self.kernels, parallel };
        let x = &self.scratch.x[index * hidden..][..hidden];
        let normed = &mut self.scratch.normed[..hidden];
        (self.kernels.rms_norm)(x, self.weights.norm, self.shape.norm_eps, normed);
        let (grain, quants) = (Grain::Plain, &mut *self.scratch.quants);
        let x = Activations::quantise(cores, normed, hidden, 1, grain, quants);
        project(cores, self.weights.head, x, Write::Store, logits);
    }

    /// Forgets the sequence: the next token is at position 0.
    pub fn forget(&mut self) {
        self.conv.clear();
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

/// The router of a MoE layer, for guesses; `tokens` will come to it.
fn next_router<'l>(layer: &'l LayerWeights<'_>, tokens: usize) -> Option<Next<'l>> {
    match &layer.ffn {
        FfnWeights::Moe(router) => Some(Next { norm: layer.ffn_norm, router, tokens }),
        FfnWeights::Dense { .. } => None,
    }
}
