//! From real weights to blocks of 32 integers that share an f16 scale.
//!
//! Both quantisers choose integers for the scale as it will be stored, rounded to f16, and are
//! deterministic: no thread count or order enters.

use half::f16;
use rill::image::layout::{BLOCK, Format};

/// A block's weights cannot be expressed: one is not finite, or too large for an f16 scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unrepresentable;

/// A quantised block: integers and the bits of their scale.
pub type Block = ([i8; BLOCK], u16);

/// Quantises 32 weights.
pub fn quantise(format: Format, weights: &[f32; BLOCK]) -> Result<Block, Unrepresentable> {
    // The weight of largest magnitude, with its sign; the first of equals.
    let mut extreme = 0.0_f32;
    for &w in weights {
        if !w.is_finite() {
            return Err(Unrepresentable);
        }
        if w.abs() > extreme.abs() {
            extreme = w;
        }
    }
    if !f16::from_f32(extreme / 8.0).is_finite() {
        return Err(Unrepresentable);
    }
    let (quants, scale) = match format {
        Format::Q8 => q8(weights, extreme),
        Format::Q4 => q4(weights, extreme),
    };
    Ok((quants, scale.to_bits()))
}

/// Sum of squared differences between 32 weights and a quantised block.
pub fn squared_error(weights: &[f32; BLOCK], (quants, scale): &Block) -> f64 {
    let scale = f16::from_bits(*scale).to_f32();
    let mut sum = 0.0;
    for (w, &q) in weights.iter().zip(quants) {
        let difference = f64::from(w - scale * f32::from(q));
        sum += difference * difference;
    }
    sum
}

/// Round to nearest: adding and taking away 1.5 x 2^23 leaves no room for a fraction. Exact for
/// magnitudes below 2^22, and unlike `f32::round` it is two additions on every CPU.
#[inline(always)]
pub(crate) fn nearest(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT) - SHIFT
}

/// The integers for a scale: the nearest in `low..=high`.
#[inline(always)]
fn integers(weights: &[f32; BLOCK], scale: f32, low: f32, high: f32) -> [f32; BLOCK] {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    // A subnormal scale has an infinite inverse; 0 x infinity must stay 0.
    let inverse = inverse.clamp(f32::MIN, f32::MAX);
    weights.map(|w| nearest((w * inverse).clamp(low, high)))
}

/// Scale: largest magnitude / 127, as in ggml's Q8_0.
fn q8(weights: &[f32; BLOCK], extreme: f32) -> ([i8; BLOCK], f16) {
    let scale = f16::from_f32(extreme.abs() / 127.0);
    (integers(weights, scale.to_f32(), -127.0, 127.0).map(|q| q as i8), scale)
}

/// Trial scales of a Q4 block, as what they make of the extreme weight. -8 is ggml's own choice
/// for Q4_0, so that no block is worse than with ggml.
pub(crate) const Q4_TRIALS: [f32; 18] = [
    -8.0, -9.2, -8.9, -8.6, -8.3, -7.7, -7.4, -7.1, -6.8, -6.5, -6.2, -5.9, 8.2, 7.9, 7.6, 7.3,
    7.0, 6.7,
];

/// Tries several scales, refines each by least squares for the integers it gave, and keeps the
/// one with the smallest squared error.
fn q4(weights: &[f32; BLOCK], extreme: f32) -> ([i8; BLOCK], f16) {
    let mut best = (f32::INFINITY, f16::ZERO);
    let mut consider = |scale: f16| {
        let error = error(weights, &q4_integers(weights, scale), scale.to_f32());
        if error < best.0 {
            best = (error, scale);
        }
    };
    if extreme != 0.0 {
        for trial in Q4_TRIALS {
            let scale = extreme / trial;
            let rounded = f16::from_f32(scale);
            if trial == Q4_TRIALS[0] {
                consider(rounded);
            }
            let quants = integers(weights, scale, -8.0, 7.0);
            let (mut wq, mut qq) = (0.0_f32, 0.0_f32);
            for (w, q) in weights.iter().zip(&quants) {
                wq += w * q;
                qq += q * q;
            }
            if qq > 0.0 {
                consider(f16::from_f32(wq / qq));
            }
        }
    }
    (q4_integers(weights, best.1).map(|q| q as i8), best.1)
}

#[inline(always)]
fn q4_integers(weights: &[f32; BLOCK], scale: f16) -> [f32; BLOCK] {
    integers(weights, scale.to_f32(), -8.0, 7.0)
}

#[inline(always)]
fn error(weights: &[f32; BLOCK], quants: &[f32; BLOCK], scale: f32) -> f32 {
    let mut lanes = [0.0_f32; 8];
    for (w, q) in weights.as_chunks::<8>().0.iter().zip(quants.as_chunks::<8>().0) {
        for i in 0..8 {
            let difference = w[i] - scale * q[i];
            lanes[i] += difference * difference;
        }
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The block as ggml's reference makes it: the extreme weight becomes -8.
    fn ggml_q4_0(weights: &[f32; BLOCK]) -> Block {
        let extreme =
            weights.iter().copied().fold(0.0, |a: f32, b| if b.abs() > a.abs() { b } else { a });
        let scale = extreme / -8.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let quants = weights.map(|w| ((w * inverse + 8.5) as i8).min(15) - 8);
        (quants, f16::from_f32(scale).to_bits())
    }

    fn weights() -> impl Strategy<Value = [f32; BLOCK]> {
        (proptest::array::uniform32(-1.0_f32..1.0), -30..12_i32)
            .prop_map(|(weights, power)| weights.map(|w| w * w * w * 2.0_f32.powi(power)))
    }

    proptest! {
        #[test]
        fn q4_is_at_least_as_good_as_ggml(weights in weights()) {
            let ours = squared_error(&weights, &quantise(Format::Q4, &weights).unwrap());
            let theirs = squared_error(&weights, &ggml_q4_0(&weights));
            prop_assert!(ours <= theirs * 1.0001, "{} {}", ours, theirs);
        }

        #[test]
        fn q8_is_off_by_half_a_step_at_most(weights in weights()) {
            let (quants, scale) = quantise(Format::Q8, &weights).unwrap();
            let scale = f16::from_bits(scale).to_f32();
            for (w, q) in weights.iter().zip(quants) {
                // The scale itself was rounded to 11 bits: the extremes may be a little further.
                let limit = 0.5 * scale + w.abs() / 2048.0 + f32::from(f16::MIN_POSITIVE_SUBNORMAL) * 64.0;
                prop_assert!((w - scale * f32::from(q)).abs() <= limit);
            }
        }
    }

    #[test]
    fn zeros_and_integers_stay_exact() {
        for format in [Format::Q4, Format::Q8] {
            assert_eq!(quantise(format, &[0.0; BLOCK]), Ok(([0; BLOCK], 0)));
        }
        let mut steps = [0.0; BLOCK];
        steps.iter_mut().enumerate().for_each(|(i, w)| *w = (i % 16) as f32 - 8.0);
        let block = quantise(Format::Q4, &steps).unwrap();
        assert_eq!(squared_error(&steps, &block), 0.0);
    }

    #[test]
    fn what_no_block_can_hold_is_refused() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -6e5] {
            let mut weights = [0.1; BLOCK];
            weights[9] = bad;
            assert_eq!(quantise(Format::Q4, &weights), Err(Unrepresentable));
            assert_eq!(quantise(Format::Q8, &weights), Err(Unrepresentable));
        }
        let tiny = [f32::MIN_POSITIVE / 4.0; BLOCK];
        assert_eq!(quantise(Format::Q8, &tiny).unwrap().0, [0; BLOCK]);
    }
}
