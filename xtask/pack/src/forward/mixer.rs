//! What mixes the tokens of a text, after its input projection and before its output projection.

use std::ops::Range;

use rill::image::Shape;

use super::math::{dot, rms_norm_row, rotate, softmax};
use crate::threads;

/// `C * conv(B * x)` of the projected rows (n, 3 hidden) of each text: depthwise and causal. `taps` is
/// (hidden, conv_width), oldest tap first.
pub fn convolve(
    shape: &Shape,
    taps: &[f32],
    projected: &[f32],
    texts: &[Range<usize>],
) -> Vec<f32> {
    let [hidden, width] = [shape.hidden, shape.conv_width].map(|size| size as usize);
    mixed(hidden, texts, |text, out| {
        let projected = &projected[text.start * 3 * hidden..text.end * 3 * hidden];
        let inner: Vec<f32> = projected
            .chunks_exact(3 * hidden)
            .flat_map(|row| (0..hidden).map(|i| row[i] * row[2 * hidden + i]))
            .collect();
        for (token, out) in out.chunks_exact_mut(hidden).enumerate() {
            for tap in 0..width {
                // The last tap meets the token itself.
                let Some(from) = (token + tap + 1).checked_sub(width) else { continue };
                for (i, out) in out.iter_mut().enumerate() {
                    *out += taps[i * width + tap] * inner[from * hidden + i];
                }
            }
            let gates = &projected[token * 3 * hidden + hidden..][..hidden];
            out.iter_mut().zip(gates).for_each(|(out, gate)| *out *= gate);
        }
    })
}

/// The norms of an attention's query and key heads.
pub struct HeadNorms {
    /// (head_dim,).
    pub query: Vec<f32>,
    /// (head_dim,).
    pub key: Vec<f32>,
}

/// Grouped-query attention of the projected rows (n, `width`: q, k, v, padding) of each text to its
/// earlier ones: (n, heads head_dim).
pub fn attend(
    shape: &Shape,
    norms: &HeadNorms,
    projected: &[f32],
    width: usize,
    texts: &[Range<usize>],
) -> Vec<f32> {
    let [heads, kv_heads, dim] =
        [shape.heads, shape.kv_heads, shape.head_dim].map(|size| size as usize);
    let (q_dim, kv_dim) = (heads * dim, kv_heads * dim);
    let scale = 1.0 / libm::sqrtf(dim as f32);
    mixed(q_dim, texts, |text, out| {
        let tokens = text.len();
        let head = |token: usize, at: usize, weights: Option<&[f32]>| {
            let mut head = projected[(text.start + token) * width + at..][..dim].to_vec();
            if let Some(weights) = weights {
                rms_norm_row(&mut head, weights, shape.norm_eps);
                rotate(&mut head, token, shape.rope_theta);
            }
            head
        };
        let all = |at: usize, weights: Option<&[f32]>| -> Vec<Vec<f32>> {
            (0..tokens).map(|token| head(token, at, weights)).collect()
        };
        for kv_head in 0..kv_heads {
            let keys = all(q_dim + kv_head * dim, Some(&norms.key));
            let values = all(q_dim + kv_dim + kv_head * dim, None);
            let group = heads / kv_heads;
            for query_head in kv_head * group..(kv_head + 1) * group {
                for token in 0..tokens {
                    let query = head(token, query_head * dim, Some(&norms.query));
                    let mut scores: Vec<f32> =
                        keys[..=token].iter().map(|key| dot(&query, key) * scale).collect();
                    softmax(&mut scores);
                    let out = &mut out[token * q_dim + query_head * dim..][..dim];
                    for (score, value) in scores.iter().zip(&values) {
                        out.iter_mut().zip(value).for_each(|(out, value)| *out += score * value);
                    }
                }
            }
        }
    })
}

/// Fills rows of `width` text by text.
fn mixed(
    width: usize,
    texts: &[Range<usize>],
    mix: impl Fn(&Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    let tokens = texts.last().map_or(0, |text| text.end);
    let mut out = vec![0.0; tokens * width];
    let mut rest = &mut out[..];
    let mut parts = Vec::new();
    for text in texts {
        let (part, more) = rest.split_at_mut(text.len() * width);
        parts.push(part);
        rest = more;
    }
    threads::each(&mut parts, 1, |index, part| mix(&texts[index], part[0]));
    out
}
