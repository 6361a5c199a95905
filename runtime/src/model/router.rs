//! Which experts a token uses, and how much each counts.

use super::product::Cores;
use super::weights::RouterWeights;
use crate::image::layout::{TILE_ROWS, align_up};
use crate::image::{MAX_EXPERTS, Shape};
use crate::kernels::math;
use crate::seams::Shared;

/// Where the choices of a batch go.
pub struct Choices<'s> {
    /// (tokens, experts padded to 16), overwritten with the scores.
    pub scores: &'s mut [f32],
    /// (tokens, top_k): experts, best first.
    pub chosen: &'s mut [u16],
    /// (tokens, top_k): their weights.
    pub weights: &'s mut [f32],
}

/// Routes `x`, rows of `hidden` normed values.
///
/// `s = sigmoid(W x)`; the top k of `s + bias` are chosen, ties to the lower number; they are
/// weighed by the unbiased `s`, divided by (their sum + 1e-6) where the model says so, times the
/// routed scale.
pub fn route(
    cores: Cores<'_>,
    shape: &Shape,
    w: &RouterWeights<'_>,
    x: &[f32],
    choices: Choices<'_>,
) {
    let [hidden, experts, top_k] = [shape.hidden, shape.experts, shape.top_k].map(|x| x as usize);
    let padded = align_up(experts, TILE_ROWS);
    let tokens = x.len() / hidden;
    let scores = Shared::new(&mut choices.scores[..tokens * padded]);
    let chosen = Shared::new(&mut choices.chosen[..tokens * top_k]);
    let weights = Shared::new(&mut choices.weights[..tokens * top_k]);
    let body = |t: usize| {
        // SAFETY: each token is run once, and their rows do not overlap.
        let (scores, chosen, weights) = unsafe {
            (
                scores.part(t * padded, padded),
                chosen.part(t * top_k, top_k),
                weights.part(t * top_k, top_k),
            )
        };
        (cores.kernels.matmul_f32)(w.weights, &x[t * hidden..(t + 1) * hidden], scores);
        choose(shape, w.bias, &mut scores[..experts], chosen, weights);
    };
    if tokens == 1 {
        // Not worth waking anybody.
        body(0);
    } else {
        cores.parallel.run(tokens, &body);
    }
}

/// Chooses among the `scores` (before the sigmoid) of one token.
fn choose(
    shape: &Shape,
    bias: &[f32],
    scores: &mut [f32],
    chosen: &mut [u16],
    weights: &mut [f32],
) {
    let mut biased = [f32::NEG_INFINITY; MAX_EXPERTS];
    for ((score, bias), biased) in scores.iter_mut().zip(bias).zip(&mut biased) {
        *score = 1.0 / (1.0 + math::exp(-*score));
        *biased = *score + bias;
    }
    let biased = &mut biased[..scores.len()];
    let mut sum = 0.0;
    for (chosen, weight) in chosen.iter_mut().zip(weights.iter_mut()) {
        let mut best = 0;
        for (expert, &score) in biased.iter().enumerate() {
            if score > biased[best] {
                best = expert;
            }
        }
        biased[best] = f32::NEG_INFINITY;
        *chosen = best as u16;
        *weight = scores[best];
        sum += *weight;
    }
    let scale =
        if shape.norm_top_k { shape.routed_scale / (sum + 1e-6) } else { shape.routed_scale };
    weights.iter_mut().for_each(|weight| *weight *= scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape {
            vocab: 1,
            hidden: 32,
            heads: 1,
            kv_heads: 1,
            head_dim: 32,
            dense_ff: 0,
            expert_ff: 32,
            experts: 4,
            top_k: 2,
            conv_width: 3,
            max_context: 16,
            rope_theta: 1e6,
            norm_eps: 1e-5,
            norm_top_k: true,
            expert_bias: true,
            routed_scale: 1.0,
        }
    }

    #[test]
    fn the_bias_chooses_but_does_not_weigh() {
        let mut scores = [0.0, 1.0, 2.0, -8.0];
        let (mut chosen, mut weights) = ([0; 2], [0.0; 2]);
        // Without its bias expert 3 would be the last.
        choose(&shape(), &[0.0, 0.0, 0.0, 10.0], &mut scores, &mut chosen, &mut weights);
        assert_eq!(chosen, [3, 2]);
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let sum = sigmoid(-8.0) + sigmoid(2.0) + 1e-6;
        assert!((weights[0] - sigmoid(-8.0) / sum).abs() < 1e-6);
        assert!((weights[1] - sigmoid(2.0) / sum).abs() < 1e-6);
    }

    #[test]
    fn ties_go_to_the_lower_number_and_the_scale_counts() {
        let shape = Shape { norm_top_k: false, routed_scale: 2.0, ..shape() };
        let (mut chosen, mut weights) = ([0; 2], [0.0; 2]);
        choose(&shape, &[0.0; 4], &mut [0.0; 4], &mut chosen, &mut weights);
        assert_eq!((chosen, weights), ([0, 1], [1.0, 1.0]));
    }
}
