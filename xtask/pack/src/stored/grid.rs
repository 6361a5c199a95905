//! Blocks of 256 weights in groups of 4 or 8, each an entry of a table of magnitudes.
//!
//! The tables are facts of ggml (`ggml-common.h`). `grids.bin` holds them one after the other,
//! packed 2 bits a magnitude for groups of 8 and 4 bits for groups of 4, low bits first, as
//! `make_grids.py` takes them from the Python package `gguf`.

use half::f16;

use super::{half_at, nibble, u16_at, u32_at};

static GRIDS: [u8; 9216] = *include_bytes!("grids.bin");

/// A table of groups.
struct Grid {
    /// Where it starts in [`GRIDS`].
    at: usize,
    /// What the packed bits stand for.
    magnitudes: &'static [f32],
}

const THIRDS: &[f32] = &[8.0, 25.0, 43.0];
const IQ2_XXS: Grid = Grid { at: 0, magnitudes: THIRDS };
const IQ2_XS: Grid = Grid { at: 512, magnitudes: THIRDS };
const IQ2_S: Grid = Grid { at: 1536, magnitudes: THIRDS };
const IQ3_XXS: Grid =
    Grid { at: 3584, magnitudes: &[4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0] };
const IQ3_S: Grid = Grid { at: 4096, magnitudes: &[1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0] };
const IQ1: Grid = Grid { at: 5120, magnitudes: &[-1.0, 0.0, 1.0] };

/// What each group of an IQ1 block is shifted by, up or down.
const SHIFT: f32 = 0.125;

impl Grid {
    /// Group `index` of `N` magnitudes, which takes two bytes.
    fn group<const N: usize>(&self, index: usize) -> [f32; N] {
        let bits = u16_at(&GRIDS, self.at + 2 * index);
        let width = 16 / N;
        std::array::from_fn(|i| {
            self.magnitudes[usize::from(bits >> (i * width)) & ((1 << width) - 1)]
        })
    }

    /// `weights`, a group, as entry `index` times `scale`, negative where a bit of `signs` is set.
    fn put<const N: usize>(&self, index: usize, scale: f32, signs: u8, weights: &mut [f32]) {
        for (i, (w, magnitude)) in weights.iter_mut().zip(self.group::<N>(index)).enumerate() {
            *w = scale * magnitude * if signs >> i & 1 == 0 { 1.0 } else { -1.0 };
        }
    }
}

/// Eight signs of which the last makes their number even.
const fn even(signs: u32) -> u8 {
    let signs = signs as u8 & 0x7f;
    signs | (signs.count_ones() as u8 & 1) << 7
}

/// d f16, then for every 32 weights four bytes of indices and 32 bits: four times 7 signs, a scale.
pub(super) fn iq2_xxs(block: &[u8], weights: &mut [f32]) {
    let d = half_at(block, 0);
    for (run, weights) in block[2..].chunks_exact(8).zip(weights.chunks_exact_mut(32)) {
        let bits = u32_at(run, 4);
        let scale = d * (0.5 + (bits >> 28) as f32) * 0.25;
        for (i, weights) in weights.chunks_exact_mut(8).enumerate() {
            IQ2_XXS.put::<8>(run[i].into(), scale, even(bits >> (7 * i)), weights);
        }
    }
}

/// d f16, 32 times 9 bits of index and 7 signs, 8 bytes of scales.
pub(super) fn iq2_xs(block: &[u8], weights: &mut [f32]) {
    let d = half_at(block, 0);
    for (i, weights) in weights.chunks_exact_mut(8).enumerate() {
        let bits = u16_at(block, 2 + 2 * i);
        let scale = d * (0.5 + f32::from(nibble(&block[66..], i / 2))) * 0.25;
        IQ2_XS.put::<8>(usize::from(bits & 511), scale, even(u32::from(bits >> 9)), weights);
    }
}

/// d f16, 32 bytes of indices, 32 of signs, 8 of the indices' upper pairs, 8 of scales.
pub(super) fn iq2_s(block: &[u8], weights: &mut [f32]) {
    let d = half_at(block, 0);
    for (i, weights) in weights.chunks_exact_mut(8).enumerate() {
        let high = usize::from(block[66 + i / 4] >> (2 * (i % 4)) & 3);
        let scale = d * (0.5 + f32::from(nibble(&block[74..], i / 2))) * 0.25;
        IQ2_S.put::<8>(usize::from(block[2 + i]) | high << 8, scale, block[34 + i], weights);
    }
}

/// d f16, 64 bytes of indices, then for every 32 weights 32 bits: four times 7 signs, a scale.
pub(super) fn iq3_xxs(block: &[u8], weights: &mut [f32]) {
    let d = half_at(block, 0);
    for (i, weights) in weights.chunks_exact_mut(4).enumerate() {
        let bits = u32_at(block, 66 + i / 8 * 4);
        let scale = d * (0.5 + (bits >> 28) as f32) * 0.5;
        let signs = even(bits >> (i % 8 / 2 * 7)) >> (i % 2 * 4);
        IQ3_XXS.put::<4>(block[2 + i].into(), scale, signs, weights);
    }
}

/// d f16, 64 bytes of indices, 8 of their ninth bits, 32 of signs, 4 of scales.
pub(super) fn iq3_s(block: &[u8], weights: &mut [f32]) {
    let d = half_at(block, 0);
    for (i, weights) in weights.chunks_exact_mut(4).enumerate() {
        let ninth = usize::from(block[66 + i / 8] >> (i % 8) & 1);
        let scale = d * f32::from(1 + 2 * nibble(&block[106..], i / 8));
        let signs = block[74 + i / 2] >> (i % 2 * 4);
        IQ3_S.put::<4>(usize::from(block[2 + i]) | ninth << 8, scale, signs, weights);
    }
}

/// d f16, 32 bytes of indices, then for every 32 weights 16 bits: four times 3 upper bits of an
/// index, a scale, and whether the shift is down.
pub(super) fn iq1_s(block: &[u8], weights: &mut [f32]) {
    let d = half_at(block, 0);
    for (i, weights) in weights.chunks_exact_mut(8).enumerate() {
        let bits = u16_at(block, 34 + i / 4 * 2);
        let high = usize::from(bits >> (i % 4 * 3) & 7);
        let scale = d * f32::from(2 * (bits >> 12 & 7) + 1);
        ternary(usize::from(block[2 + i]) | high << 8, scale, bits >> 15 == 1, weights);
    }
}

/// 32 bytes of indices, 16 of nibbles that hold 3 upper bits of an index and whether the shift is
/// down, 8 of scales: four words of four 3-bit scales below a nibble of d.
pub(super) fn iq1_m(block: &[u8], weights: &mut [f32]) {
    let word = |i: usize| u16_at(block, 48 + 2 * i);
    let d = (0..4).fold(0, |d, i| d | word(i) >> 12 << (4 * i));
    let d = f16::from_bits(d).to_f32();
    for (i, weights) in weights.chunks_exact_mut(8).enumerate() {
        let bits = nibble(&block[32..48], i);
        let scale = d * f32::from(2 * (word(i / 8) >> (i % 8 / 2 * 3) & 7) + 1);
        let index = usize::from(block[i]) | usize::from(bits & 7) << 8;
        ternary(index, scale, bits & 8 != 0, weights);
    }
}

fn ternary(index: usize, scale: f32, down: bool, weights: &mut [f32]) {
    let shift = if down { -SHIFT } else { SHIFT };
    for (w, digit) in weights.iter_mut().zip(IQ1.group::<8>(index)) {
        *w = scale * (digit + shift);
    }
}
