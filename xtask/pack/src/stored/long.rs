//! Blocks of 256 integers that share scales, which one or two f16 scale in turn.

use super::short::STEPS;
use super::{half_at, nibble, u16_at};

/// 16 bytes of 4-bit scales and minima, 64 bytes of pairs, d f16, dmin f16.
pub(super) fn q2_k(block: &[u8], weights: &mut [f32]) {
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for (i, w) in weights.iter_mut().enumerate() {
        let scale = block[i / 16];
        let (scale, min) = (f32::from(scale & 15), f32::from(scale >> 4));
        *w = d * scale * f32::from(pair(&block[16..80], i)) - dmin * min;
    }
}

/// 32 bytes of third bits, 64 bytes of pairs, 12 bytes of scales, d f16.
pub(super) fn q3_k(block: &[u8], weights: &mut [f32]) {
    let d = half_at(block, 108);
    let scales = &block[96..108];
    for (i, w) in weights.iter_mut().enumerate() {
        let at = i / 16;
        let low = scales[at % 8] >> (4 * (at / 8)) & 15;
        let high = scales[8 + at % 4] >> (2 * (at / 4)) & 3;
        let scale = (low | high << 4) as i8 - 32;
        // Where the third bit is missing, 4 is taken away.
        let third = block[i % 32] >> (i / 32) & 1;
        let q = pair(&block[32..96], i) as i8 - 4 * (1 - third as i8);
        *w = d * f32::from(scale) * f32::from(q);
    }
}

/// Scale and minimum number `i` of the 8 that Q4_K and Q5_K pack into 12 bytes.
fn scale_min(packed: &[u8], i: usize) -> (f32, f32) {
    let (scale, min) = if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        (packed[i + 4] & 15 | packed[i - 4] >> 6 << 4, packed[i + 4] >> 4 | packed[i] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// d f16, dmin f16, 12 bytes of scales and minima, 128 bytes of nibbles.
pub(super) fn q4_k(block: &[u8], weights: &mut [f32]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let nibbles = block[16..144].chunks_exact(32);
    for (i, (run, bytes)) in weights.chunks_exact_mut(64).zip(nibbles).enumerate() {
        for (part, w) in run.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_min(&block[4..16], 2 * i + part);
            for (w, byte) in w.iter_mut().zip(bytes) {
                *w = d * scale * f32::from(byte >> (4 * part) & 15) - dmin * min;
            }
        }
    }
}

/// As Q4_K, with 32 bytes of fifth bits before the nibbles.
pub(super) fn q5_k(block: &[u8], weights: &mut [f32]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let fifths = &block[16..48];
    let nibbles = block[48..176].chunks_exact(32);
    for (i, (run, bytes)) in weights.chunks_exact_mut(64).zip(nibbles).enumerate() {
        for (part, w) in run.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_min(&block[4..16], 2 * i + part);
            for ((w, byte), fifth) in w.iter_mut().zip(bytes).zip(fifths) {
                let q = byte >> (4 * part) & 15 | (fifth >> (2 * i + part) & 1) << 4;
                *w = d * scale * f32::from(q) - dmin * min;
            }
        }
    }
}

/// 128 bytes of low nibbles, 64 bytes of upper pairs, 16 signed scales, d f16.
pub(super) fn q6_k(block: &[u8], weights: &mut [f32]) {
    let d = half_at(block, 208);
    for (i, w) in weights.iter_mut().enumerate() {
        let (half, quarter, lane) = (i / 128, i % 128 / 32, i % 32);
        let low = block[64 * half + 32 * (quarter % 2) + lane] >> (4 * (quarter / 2)) & 15;
        let high = block[128 + 32 * half + lane] >> (2 * quarter) & 3;
        let scale = block[192 + i / 16] as i8;
        *w = d * f32::from(scale) * f32::from((low | high << 4) as i8 - 32);
    }
}

/// d f16, 16 bits of the scales' upper pairs, 4 bytes of their nibbles, 128 bytes of nibbles that
/// number a step.
pub(super) fn iq4_xs(block: &[u8], weights: &mut [f32]) {
    let (d, high) = (half_at(block, 0), u16_at(block, 2));
    let runs = block[8..].chunks_exact(16).zip(weights.chunks_exact_mut(32));
    for (i, (bytes, weights)) in runs.enumerate() {
        let scale = nibble(&block[4..8], i) | ((high >> (2 * i) & 3) as u8) << 4;
        let scale = d * f32::from(scale as i8 - 32);
        let (low, high) = weights.split_at_mut(16);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
            *low = scale * f32::from(STEPS[usize::from(byte & 15)]);
            *high = scale * f32::from(STEPS[usize::from(byte >> 4)]);
        }
    }
}

/// 48 bytes of five ternary digits and 4 of four, d f16. A byte is a fraction of 256: multiplied
/// by 3 its whole part is the first digit.
pub(super) fn tq1_0(block: &[u8], weights: &mut [f32]) {
    let d = half_at(block, 52);
    let mut weights = weights.iter_mut();
    for (bytes, digits) in [(&block[..32], 5), (&block[32..48], 5), (&block[48..52], 4)] {
        for digit in 0..digits {
            for (byte, w) in bytes.iter().zip(&mut weights) {
                let fraction = byte.wrapping_mul(3_u8.pow(digit));
                *w = d * f32::from(((u16::from(fraction) * 3) >> 8) as i8 - 1);
            }
        }
    }
}

/// 64 bytes of pairs, d f16.
pub(super) fn tq2_0(block: &[u8], weights: &mut [f32]) {
    let d = half_at(block, 64);
    for (i, w) in weights.iter_mut().enumerate() {
        *w = d * f32::from(pair(block, i) as i8 - 1);
    }
}

/// Two bits of weight `i`: 32 bytes hold the first pairs of 32 weights, then their second ones, ...
fn pair(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}
