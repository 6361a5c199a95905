//! What takes improbable tokens away.

use super::finite;

/// Leaves the logits that are at most `n` standard deviations below `top`, the largest; 0 leaves all.
///
/// The deviation is that of all that are possible, as of a whole population.
pub(super) fn keep_top_n_sigma(logits: &mut [f32], top: f32, n: f32) {
    if n == 0.0 {
        return;
    }
    let below = |logit: f32| f64::from(top) - f64::from(finite(logit));
    let possible = || logits.iter().map(|logit| below(*logit)).filter(|below| below.is_finite());
    let (count, sum) =
        possible().fold((0.0, 0.0), |(count, sum), below| (count + 1.0, sum + below));
    let mean = sum / count;
    let squares = possible().map(|below| (below - mean) * (below - mean)).sum::<f64>();
    let reach = f64::from(n) * libm::sqrt(squares / count);
    for logit in logits.iter_mut().filter(|logit| below(**logit) > reach) {
        *logit = f32::NEG_INFINITY;
    }
}

/// Leaves the `k` best scores; 0 leaves all.
pub(super) fn keep_top_k(scores: &mut [f32], k: u32) {
    if k > 0 && (k as usize) < scores.len() {
        keep_best(scores, k.into(), |_| 1.0, f32::NEG_INFINITY);
    }
}

/// Leaves the best weights until they are `p` of the sum of all.
pub(super) fn keep_top_p(weights: &mut [f32], p: f32) {
    if p < 1.0 {
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        keep_best(weights, total * f64::from(p), f64::from, 0.0);
    }
}

/// Leaves the largest values, of equal ones the first, until what `measure` makes of them sums to
/// `wanted`; the others become `removed`. There is at least one value, and none is a NaN.
///
/// The smallest value that stays is found byte by byte of its [`key`], as in a radix sort from the
/// top: four histograms instead of a sorted copy.
fn keep_best(values: &mut [f32], wanted: f64, measure: impl Fn(f32) -> f64, removed: f32) {
    // The sum of what is known to be larger than the cut, and the cut's leading bytes.
    let mut ahead = 0.0;
    let mut cut = 0;
    for shift in [24, 16, 8, 0] {
        let mut sums = [0.0; 256];
        let mut lowest = 255;
        let known = u32::MAX.checked_shl(shift + 8).unwrap_or(0);
        for &value in values.iter().filter(|value| key(**value) & known == cut) {
            let byte = (key(value) >> shift & 255) as usize;
            sums[byte] += measure(value);
            lowest = lowest.min(byte);
        }
        // Rounding may leave the sum short of what is wanted: then all stay.
        let mut byte = 255;
        while byte > lowest && ahead + sums[byte] < wanted {
            ahead += sums[byte];
            byte -= 1;
        }
        cut |= (byte as u32) << shift;
    }
    for value in values {
        let key = key(*value);
        if key < cut || key == cut && ahead >= wanted {
            *value = removed;
        } else if key == cut {
            ahead += measure(*value);
        }
    }
}

/// Orders floats as integers. Zero has one key whatever its sign.
fn key(value: f32) -> u32 {
    let bits = (value + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn steps_leave_what_they_should(
            // Few distinct values: many are equal.
            values in prop::collection::vec(-20..20_i8, 1..200),
            top_k in 0..50_u32,
            top_p in 0.01..1.0_f32,
        ) {
            let scores: Vec<f32> = values.iter().map(|&v| f32::from(v) / 4.0).collect();
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));

            let mut left = scores.clone();
            keep_top_k(&mut left, top_k);
            let k = if top_k == 0 { scores.len() } else { scores.len().min(top_k as usize) };
            for (place, &id) in order.iter().enumerate() {
                prop_assert_eq!(left[id] == scores[id], place < k);
            }

            let weights: Vec<f32> = scores.iter().map(|&score| libm::expf(score)).collect();
            let mut left = weights.clone();
            keep_top_p(&mut left, top_p);
            let kept = left.iter().filter(|weight| **weight > 0.0).count();
            prop_assert!(order[..kept].iter().all(|&id| left[id] == weights[id]));
            let sum = |ids: &[usize]| ids.iter().map(|&id| f64::from(weights[id])).sum::<f64>();
            let wanted = sum(&order) * f64::from(top_p);
            prop_assert!(kept > 0 && sum(&order[..kept]) >= wanted * (1.0 - 1e-12));
            prop_assert!(sum(&order[..kept - 1]) < wanted * (1.0 + 1e-12));
        }

        #[test]
        fn what_is_far_below_the_best_leaves(
            values in prop::collection::vec(
                prop_oneof![9 => -20.0..20.0_f32, 1 => Just(f32::NEG_INFINITY)],
                1..200,
            ),
            n in 0.0..4.0_f32,
        ) {
            let possible: Vec<f64> =
                values.iter().map(|&x| f64::from(x)).filter(|x| x.is_finite()).collect();
            prop_assume!(!possible.is_empty());
            let count = possible.len() as f64;
            let mean = possible.iter().sum::<f64>() / count;
            let variance = possible.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
            let top = possible.iter().copied().fold(f64::MIN, f64::max);
            let cut = top - f64::from(n) * variance.sqrt();

            let mut left = values.clone();
            keep_top_n_sigma(&mut left, top as f32, n);
            for (left, &value) in left.iter().zip(&values) {
                let is_at_the_cut = (f64::from(value) - cut).abs() < 1e-9;
                let stays = n == 0.0 || f64::from(value) >= cut;
                let expected = if stays { value } else { f32::NEG_INFINITY };
                prop_assert!(is_at_the_cut || *left == expected, "{value} with {cut}");
            }
        }
    }
}
