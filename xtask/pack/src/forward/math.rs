//! What is neither a product nor a sum over tokens. `libm` gives the same values everywhere.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul};

use libm::{cosf, expf, powf, sinf, sqrtf};

/// `x / sqrt(mean(x^2) + eps) * weights`, row by row.
pub fn rms_norm(rows: &[f32], weights: &[f32], eps: f32) -> Vec<f32> {
    let mut normed = rows.to_vec();
    for row in normed.chunks_exact_mut(weights.len()) {
        rms_norm_row(row, weights, eps);
    }
    normed
}

/// The same of one row, in place.
pub fn rms_norm_row(row: &mut [f32], weights: &[f32], eps: f32) {
    let sum: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let mean = (sum / row.len() as f64) as f32;
    let factor = 1.0 / sqrtf(mean + eps);
    for (x, weight) in row.iter_mut().zip(weights) {
        *x = *x * factor * weight;
    }
}

/// `1 / (1 + e^-x)`.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + expf(-x))
}

/// `silu(gate) * up`.
pub fn swiglu(gate: f32, up: f32) -> f32 {
    gate * sigmoid(gate) * up
}

/// Makes of scores the weights of a softmax.
pub fn softmax(scores: &mut [f32]) {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in &mut *scores {
        *score = expf(*score - most);
        sum += *score;
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// The sum of products of two rows; in eight sums, so that several are under way.
pub fn dot<T>(a: &[T], b: &[T]) -> T
where
    T: Copy + Default + Add<Output = T> + AddAssign + Mul<Output = T> + Sum,
{
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let mut lanes = [T::default(); 8];
    for (a, b) in a.iter().zip(b) {
        for i in 0..8 {
            lanes[i] += a[i] * b[i];
        }
    }
    let rest: T = a_rest.iter().zip(b_rest).map(|(&a, &b)| a * b).sum();
    lanes.into_iter().sum::<T>() + rest
}

/// Turns a head to its position: value `i` and value `i + half` by the angle
/// `position * theta^(-2 i / head_dim)` (rotate-half).
pub fn rotate(head: &mut [f32], position: usize, theta: f32) {
    let half = head.len() / 2;
    let (low, high) = head.split_at_mut(half);
    for (i, (a, b)) in low.iter_mut().zip(high).enumerate() {
        let frequency = 1.0 / powf(theta, i as f32 / half as f32);
        let angle = position as f32 * frequency;
        let (sin, cos) = (sinf(angle), cosf(angle));
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}
