//! Which experts a token uses.

use rill::image::Shape;

use super::math::{dot, sigmoid};

/// The tokens of an expert, and what each of them multiplies its output by.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Routed {
    /// Ascending.
    pub tokens: Vec<usize>,
    /// One for each of them.
    pub weights: Vec<f32>,
}

/// Routes rows of normed inputs: `s = sigmoid(router x)`, the `top_k` largest `s + bias` (the first
/// of equals), weighed by the unbiased `s`, divided by (their sum + 1e-6) where the model says so.
pub fn route(shape: &Shape, router: &[f32], bias: Option<&[f32]>, rows: &[f32]) -> Vec<Routed> {
    let [hidden, experts, top_k] =
        [shape.hidden, shape.experts, shape.top_k].map(|size| size as usize);
    let mut routed = vec![Routed::default(); experts];
    for (token, row) in rows.chunks_exact(hidden).enumerate() {
        let scores: Vec<f32> =
            router.chunks_exact(hidden).map(|weights| sigmoid(dot(weights, row))).collect();
        let rank = |expert: usize| scores[expert] + bias.map_or(0.0, |bias| bias[expert]);
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|&a, &b| rank(b).total_cmp(&rank(a)));
        let chosen = &order[..top_k];
        let sum: f32 = chosen.iter().map(|&expert| scores[expert]).sum();
        let factor =
            if shape.norm_top_k { shape.routed_scale / (sum + 1e-6) } else { shape.routed_scale };
        for &expert in chosen {
            routed[expert].tokens.push(token);
            routed[expert].weights.push(scores[expert] * factor);
        }
    }
    routed
}

impl Routed {
    /// The rows of `all` (n, cols) that are these tokens'.
    pub fn gather(&self, all: &[f32], cols: usize) -> Vec<f32> {
        gather(&self.tokens, all, cols)
    }
}

/// The rows of `all` (n, cols) that are these tokens'.
pub fn gather(tokens: &[usize], all: &[f32], cols: usize) -> Vec<f32> {
    tokens.iter().flat_map(|&token| &all[token * cols..][..cols]).copied().collect()
}
