//! Blocks of a scale and 32 or 64 integers. The low nibbles of a run of bytes come before the high
//! ones.

use half::f16;

use super::{first, half_at, u32_at};

/// The steps of IQ4_NL and IQ4_XS.
pub(super) const STEPS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Twice the values of E2M1 floats; the upper half are negative, the first of them with the sign
/// of plain zero.
const FLOATS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The integers and the scale's bits of a Q4_0 block: the low nibbles are the first 16 weights.
pub fn q4_0(block: &[u8]) -> ([i8; 32], u16) {
    let quants = nibbles(&block[2..18]).map(|nibble| nibble as i8 - 8);
    (quants, u16::from_le_bytes(first(block)))
}

/// The integers and the scale's bits of a Q8_0 block.
pub fn q8_0(block: &[u8]) -> ([i8; 32], u16) {
    let mut quants = [0; 32];
    for (q, &byte) in quants.iter_mut().zip(&block[2..34]) {
        *q = byte as i8;
    }
    (quants, u16::from_le_bytes(first(block)))
}

pub(super) fn scaled((quants, scale): ([i8; 32], u16), weights: &mut [f32]) {
    let scale = f16::from_bits(scale).to_f32();
    for (w, q) in weights.iter_mut().zip(quants) {
        *w = scale * f32::from(q);
    }
}

/// d f16, m f16, 16 bytes of nibbles.
pub(super) fn q4_1(block: &[u8], weights: &mut [f32]) {
    shifted(half_at(block, 0), half_at(block, 2), nibbles(&block[4..]), weights);
}

/// d f16, 4 bytes of fifth bits, 16 bytes of nibbles.
pub(super) fn q5_0(block: &[u8], weights: &mut [f32]) {
    let d = half_at(block, 0);
    for (w, q) in weights.iter_mut().zip(fives(&block[2..])) {
        *w = d * f32::from(q as i8 - 16);
    }
}

/// d f16, m f16, then as Q5_0.
pub(super) fn q5_1(block: &[u8], weights: &mut [f32]) {
    shifted(half_at(block, 0), half_at(block, 2), fives(&block[4..]), weights);
}

/// d f16, 16 bytes of nibbles that number a step.
pub(super) fn iq4_nl(block: &[u8], weights: &mut [f32]) {
    looked_up(half_at(block, 0), &STEPS, &nibbles(&block[2..]), weights);
}

/// The scale's exponent, 16 bytes of nibbles that are E2M1 floats:
/// <https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf>.
pub(super) fn mxfp4(block: &[u8], weights: &mut [f32]) {
    // Half of 2^(e - 127), for the table holds doubles; subnormal where e is below 2.
    let bits = match block[0] {
        e @ 0..2 => 0x0020_0000 << e,
        e => u32::from(e - 1) << 23,
    };
    looked_up(f32::from_bits(bits), &FLOATS, &nibbles(&block[1..]), weights);
}

/// Four scales, then for each of them 8 bytes of nibbles that are E2M1 floats.
pub(super) fn nvfp4(block: &[u8], weights: &mut [f32]) {
    let parts = block[4..].chunks_exact(8).zip(weights.chunks_exact_mut(16));
    for (&scale, (bytes, weights)) in block.iter().zip(parts) {
        // Scales have no sign, and the one that would be NaN is 0.
        let scale = if scale == 0x7f { 0.0 } else { 0.5 * e4m3_magnitude(scale) };
        let (low, high) = weights.split_at_mut(8);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
            *low = scale * f32::from(FLOATS[usize::from(byte & 15)]);
            *high = scale * f32::from(FLOATS[usize::from(byte >> 4)]);
        }
    }
}

/// A float of 8 bits: <https://arxiv.org/abs/2209.05433>. It has no infinities; all bits set but
/// the sign is not a number.
pub(super) fn f8_e4m3(byte: u8) -> f32 {
    let magnitude = if byte & 0x7f == 0x7f { f32::NAN } else { e4m3_magnitude(byte) };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The magnitude of an E4M3 float whose every exponent means a number.
fn e4m3_magnitude(byte: u8) -> f32 {
    let mantissa = f32::from(byte & 7);
    match u32::from(byte >> 3 & 15) {
        0 => mantissa / 512.0,
        exponent => (1.0 + mantissa / 8.0) * f32::from_bits((exponent + 120) << 23),
    }
}

fn nibbles(bytes: &[u8]) -> [u8; 32] {
    let mut nibbles = [0; 32];
    for (i, &byte) in bytes[..16].iter().enumerate() {
        nibbles[i] = byte & 15;
        nibbles[i + 16] = byte >> 4;
    }
    nibbles
}

/// 4 bytes of fifth bits, 16 bytes of nibbles.
fn fives(bytes: &[u8]) -> [u8; 32] {
    let fifths = u32_at(bytes, 0);
    let mut quants = nibbles(&bytes[4..]);
    for (i, q) in quants.iter_mut().enumerate() {
        *q |= (fifths >> i & 1) as u8 * 16;
    }
    quants
}

fn shifted(scale: f32, min: f32, quants: [u8; 32], weights: &mut [f32]) {
    for (w, q) in weights.iter_mut().zip(quants) {
        *w = scale * f32::from(q) + min;
    }
}

fn looked_up(scale: f32, table: &[i8; 16], numbers: &[u8], weights: &mut [f32]) {
    for (w, &number) in weights.iter_mut().zip(numbers) {
        *w = scale * f32::from(table[usize::from(number)]);
    }
}
