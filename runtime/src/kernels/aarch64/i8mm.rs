//! `smmla`: each instruction gives 2 rows x 2 tokens over 8 columns.

use core::arch::aarch64::*;
use core::arch::asm;

use super::super::{BLOCK_WORDS, FINE_WORDS, Kernels, Quantised};
use super::{
    Q4, Q8, ROW_VECTORS, Tile, Weights, by_format, combine, dotprod, entry, for_pairs, load_at,
    matmul, neon, scales,
};

/// For CPUs with `smmla` and `sdot`.
pub(in super::super) static I8MM: Kernels = Kernels {
    name: "i8mm",
    width: WIDTH,
    fine_width: FINE_WIDTH,
    products: by_format!(tokens, 1, BLOCK_WORDS),
    fine_products: by_format!(tokens, 2, FINE_WORDS),
    ..neon::TABLE
};

/// The most tokens whose sums and results fit the registers, one vector of rows at a time.
const WIDTH: usize = 12;
/// The same of fine activations, which have two sums each.
const FINE_WIDTH: usize = 8;

#[target_feature(enable = "i8mm,dotprod")]
fn tokens<W: Weights, const D: usize, const WORDS: usize>(
    w: &[u8],
    x: Quantised<'_, WORDS>,
    y: &mut [f32],
) {
    matmul::<W, WORDS>(w, x, y, if D == 1 { WIDTH } else { FINE_WIDTH }, |tile| {
        let mut token = 0;
        while token < tile.width {
            // SAFETY: as many tokens as are left, or fewer.
            token += unsafe {
                match tile.width - token {
                    12.. if D == 1 => pairs::<W, 6, D>(tile, token),
                    8.. => pairs::<W, 4, D>(tile, token),
                    4.. if D == 2 => pairs::<W, 2, D>(tile, token),
                    // For few products `smmla` does not repay its zips.
                    left => dotprod::few::<W, D>(tile, token, left),
                }
            };
        }
    });
}

/// `sums[p][v][r, t] += w[v][r] . a[p][t]`: 8 columns of two pairs of rows and of two pairs of
/// tokens, whose activations are at `a`, which moves on to the next tokens.
///
/// One piece, because loads that the compiler moves ahead push sums out of the registers.
///
/// # Safety
/// 32 bytes can be read at `a`.
#[inline]
#[target_feature(enable = "i8mm")]
unsafe fn add_four_tokens(sums: &mut [[int32x4_t; 2]; 2], w: [int8x16_t; 2], a: &mut *const i32) {
    let [[s00, s01], [s10, s11]] = sums;
    // SAFETY: the feature is enabled; reads what the caller vouches for.
    unsafe {
        asm!(
            "ldp {a0:q}, {a1:q}, [{a}], #32",
            "smmla {s00:v}.4s, {w0:v}.16b, {a0:v}.16b",
            "smmla {s01:v}.4s, {w1:v}.16b, {a0:v}.16b",
            "smmla {s10:v}.4s, {w0:v}.16b, {a1:v}.16b",
            "smmla {s11:v}.4s, {w1:v}.16b, {a1:v}.16b",
            a0 = out(vreg) _, a1 = out(vreg) _, a = inout(reg) *a,
            s00 = inout(vreg) *s00, s01 = inout(vreg) *s01,
            s10 = inout(vreg) *s10, s11 = inout(vreg) *s11,
            w0 = in(vreg) w[0], w1 = in(vreg) w[1],
            options(pure, readonly, nostack, preserves_flags));
    }
}

/// Lanes 0 and 1 or lanes 2 and 3 of `v`, twice: two tokens' values in the order of a sum.
#[inline]
#[target_feature(enable = "neon")]
fn of_two_tokens(v: uint8x16_t, second: bool) -> int64x2_t {
    let v = vreinterpretq_s64_u8(v);
    if second { vdupq_laneq_s64::<1>(v) } else { vdupq_laneq_s64::<0>(v) }
}

/// 16 rows times tokens `token..token + 2 P` of `D` digits, 4 rows at a time, `P` even; returns
/// `2 P`.
///
/// # Safety
/// The tile has these tokens.
#[inline]
#[target_feature(enable = "i8mm,dotprod")]
unsafe fn pairs<W: Weights, const P: usize, const D: usize>(tile: Tile, token: usize) -> usize {
    let offsets_at = 4 * tile.width;
    // From a block's scales to its first activations, and from the last to the next digit's or
    // pair's.
    let (first_at, step) = (8 * tile.width + 4 * token, 8 * (tile.width - 2 * P));
    for rows in 0..ROW_VECTORS {
        // Of two rows and two tokens: row 0 of both tokens, row 1 of both.
        let mut acc = [[vdupq_n_f32(0.0); 2]; P];
        for (weights, words) in tile.blocks::<W>(token) {
            // SAFETY: every address lies within the blocks.
            unsafe {
                let mut sums = [[[vdupq_n_s32(0); 2]; P]; D];
                for (quad, sums) in sums[D - 1].chunks_mut(2).enumerate() {
                    let offsets = load_at(words.add(4 * quad), offsets_at);
                    for (p, sums) in sums.iter_mut().enumerate() {
                        let offset = of_two_tokens(offsets, p == 1);
                        *sums = [W::start(vreinterpretq_s32_s64(offset)); 2];
                    }
                }
                let mut a = words.byte_add(first_at);
                for_pairs!(PAIR, {
                    let [low, high] = W::eight_columns(weights, PAIR, rows)
                        .map(|four| vreinterpretq_s32_s8(four));
                    let w = [vzip1q_s32(low, high), vzip2q_s32(low, high)]
                        .map(|eight| vreinterpretq_s8_s32(eight));
                    for sums in &mut sums {
                        for sums in sums.as_chunks_mut::<2>().0 {
                            add_four_tokens(sums, w, &mut a);
                        }
                        a = a.wrapping_byte_add(step);
                    }
                });
                let [w_scale] = scales::<W, 1>(weights, rows);
                let w_scales = [vzip1q_f32(w_scale, w_scale), vzip2q_f32(w_scale, w_scale)];
                for (quad, acc) in acc.chunks_mut(2).enumerate() {
                    let a_scales = load_at(words, 16 * quad);
                    for (p, acc) in acc.iter_mut().enumerate() {
                        let a_scale = vreinterpretq_f32_s64(of_two_tokens(a_scales, p == 1));
                        for r in 0..2 {
                            let both = vmulq_f32(w_scales[r], a_scale);
                            let digits = core::array::from_fn(|d| sums[d][2 * quad + p][r]);
                            let sum = vcvtq_f32_s32(combine::<D>(digits));
                            acc[r] = vfmaq_f32(acc[r], sum, both);
                        }
                    }
                }
            }
        }
        for (p, acc) in acc.iter().enumerate() {
            // SAFETY: the caller vouches for the tokens.
            unsafe {
                tile.put(token + 2 * p, rows, vuzp1q_f32(acc[0], acc[1]));
                tile.put(token + 2 * p + 1, rows, vuzp2q_f32(acc[0], acc[1]));
            }
        }
    }
    2 * P
}
