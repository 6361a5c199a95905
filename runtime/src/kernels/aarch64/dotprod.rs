//! `sdot` by element: Cortex-A76 and later. A vector of weights holds 4 columns of 4 rows; a lane
//! of activations holds the 4 columns of one token.

use core::arch::aarch64::*;
use core::arch::asm;

use super::super::{BLOCK_WORDS, FINE_WORDS, Kernels, Quantised};
use super::{
    Q4, Q8, ROW_VECTORS, Tile, Weights, by_format, combine, entry, for_pairs, load, load_at,
    load_half_at, load2, matmul, neon, scales, spread, take2, times_lanes,
};

/// For CPUs with `sdot`.
pub(in super::super) static DOTPROD: Kernels = Kernels {
    name: "dotprod",
    width: WIDTH,
    fine_width: FINE_WIDTH,
    products: by_format!(tokens, 1, BLOCK_WORDS),
    fine_products: by_format!(tokens, 2, FINE_WORDS),
    ..neon::TABLE
};

/// The most tokens whose sums and results fit the registers, one vector of rows at a time.
pub(super) const WIDTH: usize = 12;
/// The same of fine activations, which have two sums each.
pub(super) const FINE_WIDTH: usize = 8;

#[target_feature(enable = "dotprod")]
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
                    12.. if D == 1 => several::<W, 1, 12, D>(tile, token),
                    8.. => several::<W, 1, 8, D>(tile, token),
                    left => few::<W, D>(tile, token, left),
                }
            };
        }
    });
}

/// Up to four of the `left` tokens from `token` on; returns how many.
///
/// # Safety
/// The tile has these tokens.
#[inline]
#[target_feature(enable = "dotprod")]
pub(super) unsafe fn few<W: Weights, const D: usize>(
    tile: Tile,
    token: usize,
    left: usize,
) -> usize {
    // SAFETY: the caller vouches for the tokens.
    unsafe {
        match left {
            4.. => several::<W, 2, 4, D>(tile, token),
            2.. if D == 1 => several::<W, 4, 2, D>(tile, token),
            2.. => several::<W, 2, 2, D>(tile, token),
            _ if tile.width == 1 => single::<W, true, D>(tile, token),
            _ => single::<W, false, D>(tile, token),
        }
    }
}

/// `acc[r] += w[r] . a[LANE]` for 4 rows of 4 columns.
#[inline]
#[target_feature(enable = "dotprod")]
fn sdot<const LANE: usize>(mut acc: int32x4_t, w: int8x16_t, a: uint8x16_t) -> int32x4_t {
    // SAFETY: the feature is enabled; registers only.
    unsafe {
        asm!("sdot {acc:v}.4s, {w:v}.16b, {a:v}.4b[{lane}]", acc = inout(vreg) acc,
            w = in(vreg) w, a = in(vreg) a, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// 16 rows times one token of `D` digits, the only one of its panel if `ROW`; returns 1.
///
/// # Safety
/// The tile has this token.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn single<W: Weights, const ROW: bool, const D: usize>(tile: Tile, token: usize) -> usize {
    let width = if ROW { 1 } else { tile.width };
    let mut acc = [vdupq_n_f32(0.0); ROW_VECTORS];
    for (weights, words) in tile.blocks::<W>(token) {
        // SAFETY: every address lies within the blocks.
        unsafe {
            // Each vector: two pairs of groups, or both digits of one.
            let two = |from: usize| {
                if ROW {
                    return load_at(words, 8 * (from + 1));
                }
                let half = |i| load_half_at(words, 8 * (i + 1) * width + 4 * token);
                vcombine_u8(vget_low_u8(half(from)), vget_low_u8(half(from + 1)))
            };
            let a_scale = f32::from_bits(*words as u32);
            let offset = vdupq_n_s32(*words.add(width));
            let mut sums = [[vdupq_n_s32(0); D]; ROW_VECTORS];
            for sums in &mut sums {
                sums[D - 1] = W::start(offset);
            }
            let a: [_; 4] = if D == 2 {
                [two(0), two(2), two(4), two(6)]
            } else if ROW {
                let [first, second] = load2::<0, _>(words.add(2));
                [first, first, second, second]
            } else {
                let (first, second) = (two(0), two(2));
                [first, first, second, second]
            };
            for_pairs!(PAIR, {
                let a = a[PAIR];
                for (rows, sums) in sums.iter_mut().enumerate() {
                    let [low, high] = W::eight_columns(weights, PAIR, rows);
                    if D == 2 {
                        sums[0] = sdot::<1>(sdot::<0>(sums[0], low, a), high, a);
                        sums[1] = sdot::<3>(sdot::<2>(sums[1], low, a), high, a);
                    } else if PAIR.is_multiple_of(2) {
                        sums[0] = sdot::<1>(sdot::<0>(sums[0], low, a), high, a);
                    } else {
                        sums[0] = sdot::<3>(sdot::<2>(sums[0], low, a), high, a);
                    }
                }
            });
            let w_scales = scales::<W, ROW_VECTORS>(weights, 0);
            for ((acc, sums), w_scale) in acc.iter_mut().zip(sums).zip(w_scales) {
                let sum = vcvtq_f32_s32(combine(sums));
                *acc = vfmaq_f32(*acc, sum, vmulq_n_f32(w_scale, a_scale));
            }
        }
    }
    for (rows, acc) in acc.into_iter().enumerate() {
        // SAFETY: the caller vouches for the token.
        unsafe { tile.put(token, rows, acc) };
    }
    1
}

/// 16 rows times tokens `token..token + T` of `D` digits, `4 R` rows at a time; returns `T`, an
/// even number.
///
/// # Safety
/// The tile has these tokens.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn several<W: Weights, const R: usize, const T: usize, const D: usize>(
    tile: Tile,
    token: usize,
) -> usize {
    let offsets_at = 4 * tile.width;
    // From a block's scales to its first activations, and from the last to the next digit's or
    // pair's.
    let (first_at, step) = (8 * tile.width + 4 * token, 8 * (tile.width - T));
    for from in (0..ROW_VECTORS).step_by(R) {
        let mut acc = [[vdupq_n_f32(0.0); R]; T];
        for (weights, words) in tile.blocks::<W>(token) {
            // SAFETY: every address lies within the blocks.
            unsafe {
                let mut sums = [[[vdupq_n_s32(0); R]; T]; D];
                for (quad, sums) in sums[D - 1].chunks_mut(4).enumerate() {
                    let offsets = load_at(words.add(4 * quad), offsets_at);
                    for (sums, offset) in sums.iter_mut().zip(spread(vreinterpretq_s32_u8(offsets)))
                    {
                        *sums = [W::start(offset); R];
                    }
                }
                let mut a = words.byte_add(first_at);
                for_pairs!(PAIR, {
                    let w: [_; R] =
                        core::array::from_fn(|r| W::eight_columns(weights, PAIR, from + r));
                    for sums in &mut sums {
                        add_tokens(sums, &w, &mut a);
                        a = a.wrapping_byte_add(step);
                    }
                });
                let w_scales = scales::<W, R>(weights, from);
                for (quad, acc) in acc.chunks_mut(4).enumerate() {
                    let a_scales = vreinterpretq_f32_u8(load_at(words, 16 * quad));
                    for (r, &w_scale) in w_scales.iter().enumerate() {
                        let both = times_lanes(w_scale, a_scales);
                        for (t, (acc, both)) in acc.iter_mut().zip(both).enumerate() {
                            let digits = core::array::from_fn(|d| sums[d][4 * quad + t][r]);
                            let sum = vcvtq_f32_s32(combine::<D>(digits));
                            acc[r] = vfmaq_f32(acc[r], sum, both);
                        }
                    }
                }
            }
        }
        for (t, acc) in acc.iter().enumerate() {
            for (r, &acc) in acc.iter().enumerate() {
                // SAFETY: the caller vouches for the tokens.
                unsafe { tile.put(token + t, from + r, acc) };
            }
        }
    }
    T
}

/// Adds 8 columns of `4 R` rows to the sums of `T` tokens, whose activations are at `a`, which moves
/// on.
///
/// # Safety
/// 8 `T` bytes can be read at `a`.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn add_tokens<const R: usize, const T: usize>(
    sums: &mut [[int32x4_t; R]; T],
    w: &[[int8x16_t; 2]; R],
    a: &mut *const i32,
) {
    for sums in sums.chunks_mut(4) {
        // SAFETY: the caller vouches for the activations.
        unsafe {
            if let ([s0, s1, s2, s3], [w]) = (&mut *sums, w.as_slice()) {
                add_four_tokens([s0, s1, s2, s3].map(|s| &mut s[0]), w, a);
            } else if let [s0, s1, s2, s3] = sums {
                let a = take2(a);
                add_two_tokens(s0, s1, w, a[0]);
                add_two_tokens(s2, s3, w, a[1]);
            } else if let [s0, s1] = sums {
                add_two_tokens(s0, s1, w, load(*a));
                *a = a.wrapping_byte_add(16);
            }
        }
    }
}

/// Adds 8 columns of 4 rows to the sums of four tokens, whose activations are at `a`, which moves
/// on to the next tokens.
///
/// One piece, because loads that the compiler moves ahead push sums out of the registers.
///
/// # Safety
/// 32 bytes can be read at `a`.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn add_four_tokens(
    [s0, s1, s2, s3]: [&mut int32x4_t; 4],
    w: &[int8x16_t; 2],
    a: &mut *const i32,
) {
    // SAFETY: the feature is enabled; reads what the caller vouches for.
    unsafe {
        asm!(
            "ldp {a0:q}, {a1:q}, [{a}], #32",
            "sdot {s0:v}.4s, {low:v}.16b, {a0:v}.4b[0]",
            "sdot {s1:v}.4s, {low:v}.16b, {a0:v}.4b[2]",
            "sdot {s2:v}.4s, {low:v}.16b, {a1:v}.4b[0]",
            "sdot {s3:v}.4s, {low:v}.16b, {a1:v}.4b[2]",
            "sdot {s0:v}.4s, {high:v}.16b, {a0:v}.4b[1]",
            "sdot {s1:v}.4s, {high:v}.16b, {a0:v}.4b[3]",
            "sdot {s2:v}.4s, {high:v}.16b, {a1:v}.4b[1]",
            "sdot {s3:v}.4s, {high:v}.16b, {a1:v}.4b[3]",
            a0 = out(vreg) _, a1 = out(vreg) _, a = inout(reg) *a,
            s0 = inout(vreg) *s0, s1 = inout(vreg) *s1,
            s2 = inout(vreg) *s2, s3 = inout(vreg) *s3,
            low = in(vreg) w[0], high = in(vreg) w[1],
            options(pure, readonly, nostack, preserves_flags));
    }
}

/// Adds 8 columns to the sums of two tokens.
#[inline]
#[target_feature(enable = "dotprod")]
fn add_two_tokens<const R: usize>(
    first: &mut [int32x4_t; R],
    second: &mut [int32x4_t; R],
    w: &[[int8x16_t; 2]; R],
    a: uint8x16_t,
) {
    for ((first, second), w) in first.iter_mut().zip(second).zip(w) {
        *first = sdot::<0>(*first, w[0], a);
        *second = sdot::<2>(*second, w[0], a);
        *first = sdot::<1>(*first, w[1], a);
        *second = sdot::<3>(*second, w[1], a);
    }
}
