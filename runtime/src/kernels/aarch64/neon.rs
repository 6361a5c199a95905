//! Plain Advanced SIMD: Cortex-A53 and A72. Products of 8-bit integers add up in 16 bits, as deep
//! as they provably fit.

use core::arch::aarch64::*;

use super::super::{BLOCK_WORDS, FINE_WORDS, Kernels, Quantised};
use super::{
    PAIRS, Q4, Q8, ROW_VECTORS, Tile, Weights, by_format, combine, entry, float, for_pairs,
    load_at, load_half_at, matmul, scales, spread,
};
use crate::image::checksum;

/// The table of every aarch64 CPU.
pub(in super::super) static NEON: Kernels = TABLE;

/// What the later tables build on.
pub(super) const TABLE: Kernels = Kernels {
    name: "neon",
    width: WIDTH,
    fine_width: WIDTH,
    products: by_format!(tokens, BLOCK_WORDS),
    fine_products: by_format!(tokens, FINE_WORDS),
    matmul_f32: entry!(float::matmul_f32, w, x, y),
    quantise: entry!(float::quantise, x, width, panel),
    quantise_fine: entry!(float::quantise_fine, x, width, panel),
    swiglu: entry!(float::swiglu, gate, up),
    rms_norm: entry!(float::rms_norm, x, weight, eps, y),
    add_scaled: entry!(float::add_scaled, y, x, scale),
    attend: entry!(float::attend, a, out),
    conv: entry!(float::conv, c),
    // Compiled for Advanced SIMD already, which every aarch64 target has.
    checksum,
};

/// Tokens go through a tile row in pairs while it stays in the first cache.
const WIDTH: usize = 8;

/// How a format's products of 8 columns are added up.
pub(super) trait Sums: Weights {
    /// One token's sums over a block.
    type Block: Copy;
    const ZERO: Self::Block;

    /// Adds 8 columns of row vector `rows`: weights times the broadcast activations.
    ///
    /// # Safety
    /// The CPU has Advanced SIMD.
    unsafe fn add(sums: &mut Self::Block, rows: usize, w: [int8x16_t; 2], a: [int8x16_t; 2]);
    /// The block's sums of row vector `rows`.
    ///
    /// # Safety
    /// The CPU has Advanced SIMD.
    unsafe fn finish(sums: &Self::Block, rows: usize, offset: int32x4_t) -> int32x4_t;
}

/// The low and the high half of `w[0] * a[0] + w[1] * a[1] + sums`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn multiply_add(
    sums: [int16x8_t; 2],
    w: [int8x16_t; 2],
    a: [int8x16_t; 2],
) -> [int16x8_t; 2] {
    let [low, high] = sums;
    let low = vmlal_s8(low, vget_low_s8(w[0]), vget_low_s8(a[0]));
    let high = vmlal_high_s8(high, w[0], a[0]);
    [vmlal_s8(low, vget_low_s8(w[1]), vget_low_s8(a[1])), vmlal_high_s8(high, w[1], a[1])]
}

#[target_feature(enable = "neon")]
fn tokens<W: Sums, const WORDS: usize>(w: &[u8], x: Quantised<'_, WORDS>, y: &mut [f32]) {
    matmul::<W, WORDS>(w, x, y, WIDTH, |tile| {
        let mut token = 0;
        while token < tile.width {
            // SAFETY: as many tokens as are left, or fewer.
            token += unsafe {
                if WORDS == FINE_WORDS {
                    product::<W, 1, 2>(tile, token)
                } else if tile.width - token >= 2 {
                    product::<W, 2, 1>(tile, token)
                } else {
                    product::<W, 1, 1>(tile, token)
                }
            };
        }
    });
}

/// 16 rows times tokens `token..token + T`, of `D` digits each; together one or two. Returns `T`.
///
/// # Safety
/// The tile has these tokens.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn product<W: Sums, const T: usize, const D: usize>(tile: Tile, token: usize) -> usize {
    // Bytes from a block's scales to its offsets and to the activations of each pair of groups.
    let offsets_at = 4 * tile.width;
    let pair_at: [usize; PAIRS] =
        core::array::from_fn(|p| 8 * (D * p + 1) * tile.width + 4 * token);
    let mut acc = [[vdupq_n_f32(0.0); ROW_VECTORS]; T];
    for (weights, words) in tile.blocks::<W>(token) {
        // SAFETY: every address lies within the blocks.
        unsafe {
            let mut sums = [[W::ZERO; D]; T];
            for_pairs!(PAIR, {
                let at = pair_at[PAIR];
                let a = if D == 2 {
                    let [high, low] = [at, at + 8 * tile.width].map(|at| load_half_at(words, at));
                    vcombine_u8(vget_low_u8(high), vget_low_u8(low))
                } else if T == 2 {
                    load_at(words, at)
                } else {
                    load_half_at(words, at)
                };
                let a = spread(vreinterpretq_s32_u8(a)).map(|a| vreinterpretq_s8_s32(a));
                for rows in 0..ROW_VECTORS {
                    let w = W::eight_columns(weights, PAIR, rows);
                    for (sums, a) in sums.as_flattened_mut().iter_mut().zip(a.as_chunks::<2>().0) {
                        W::add(sums, rows, w, *a);
                    }
                }
            });
            let w_scales = scales::<W, ROW_VECTORS>(weights, 0);
            for (t, acc) in acc.iter_mut().enumerate() {
                let a_scale = f32::from_bits(*words.add(t) as u32);
                let offset = vdupq_n_s32(*words.byte_add(offsets_at).add(t));
                for (rows, acc) in acc.iter_mut().enumerate() {
                    let digits = core::array::from_fn(|d| {
                        let offset = if d == D - 1 { offset } else { vdupq_n_s32(0) };
                        W::finish(&sums[t][d], rows, offset)
                    });
                    let sum = vcvtq_f32_s32(combine::<D>(digits));
                    *acc = vfmaq_f32(*acc, sum, vmulq_n_f32(w_scales[rows], a_scale));
                }
            }
        }
    }
    for (t, acc) in acc.iter().enumerate() {
        for (rows, &acc) in acc.iter().enumerate() {
            // SAFETY: the caller vouches for the token.
            unsafe { tile.put(token + t, rows, acc) };
        }
    }
    T
}
