//! `sdot` by element: Cortex-A76 and later. A vector of weights holds 4 columns of 4 rows; a lane
//! of activations holds the 4 columns of one token.

use core::arch::aarch64::*;
use core::arch::asm;

use super::super::{Kernels, Panel};
use super::{
    Q4, Q8, ROW_VECTORS, Tile, Weights, entry, for_pairs, load, load_at, load_half_at, load2,
    matmul, neon, scales, spread, take2, times_lanes,
};

/// For CPUs with `sdot`.
pub(in super::super) static DOTPROD: Kernels = Kernels {
    name: "dotprod",
    width: WIDTH,
    matmul_q4: entry!(tokens::<Q4>, w, x, y),
    matmul_q8: entry!(tokens::<Q8>, w, x, y),
    ..neon::TABLE
};

/// The most tokens whose sums and results fit the registers, one vector of rows at a time.
pub(super) const WIDTH: usize = 12;

#[target_feature(enable = "dotprod")]
fn tokens<W: Weights>(w: &[u8], x: Panel<'_>, y: &mut [f32]) {
    matmul::<W>(w, x, y, WIDTH, |tile| {
        let mut token = 0;
        while token < tile.width {
            // SAFETY: as many tokens as are left, or fewer.
            token += unsafe {
                match tile.width - token {
                    12.. => several::<W, 1, 12>(tile, token),
                    8.. => several::<W, 1, 8>(tile, token),
                    4.. => several::<W, 2, 4>(tile, token),
                    2.. => several::<W, 4, 2>(tile, token),
                    _ if tile.width == 1 => single::<W, true>(tile, token),
                    _ => single::<W, false>(tile, token),
                }
            };
        }
    });
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

/// 16 rows times one token, the only one of its panel if `ROW`; returns 1.
///
/// # Safety
/// The tile has this token.
#[inline]
#[target_feature(enable = "dotprod")]
pub(super) unsafe fn single<W: Weights, const ROW: bool>(tile: Tile, token: usize) -> usize {
    let width = if ROW { 1 } else { tile.width };
    let mut acc = [vdupq_n_f32(0.0); ROW_VECTORS];
    for (weights, words) in tile.blocks::<W>(token) {
        // SAFETY: every address lies within the blocks.
        unsafe {
            let a = if ROW {
                load2::<0, _>(words.add(2))
            } else {
                [0_usize, 2].map(|pair| {
                    let half = |p| load_half_at(words, 8 * (p + 1) * width + 4 * token);
                    vcombine_u8(vget_low_u8(half(pair)), vget_low_u8(half(pair + 1)))
                })
            };
            let a_scale = f32::from_bits(*words as u32);
            let offset = vdupq_n_s32(*words.add(width));
            let mut sums = [W::start(offset); ROW_VECTORS];
            for_pairs!(PAIR, {
                for (rows, sum) in sums.iter_mut().enumerate() {
                    let [low, high] = W::eight_columns(weights, PAIR, rows);
                    let a = a[PAIR / 2];
                    *sum = if PAIR.is_multiple_of(2) {
                        sdot::<1>(sdot::<0>(*sum, low, a), high, a)
                    } else {
                        sdot::<3>(sdot::<2>(*sum, low, a), high, a)
                    };
                }
            });
            let w_scales = scales::<W, ROW_VECTORS>(weights, 0);
            for ((acc, sum), w_scale) in acc.iter_mut().zip(sums).zip(w_scales) {
                *acc = vfmaq_f32(*acc, vcvtq_f32_s32(sum), vmulq_n_f32(w_scale, a_scale));
            }
        }
    }
    for (rows, acc) in acc.into_iter().enumerate() {
        // SAFETY: the caller vouches for the token.
        unsafe { tile.put(token, rows, acc) };
    }
    1
}

/// 16 rows times tokens `token..token + T`, `4 R` rows at a time; returns `T`, an even number.
///
/// # Safety
/// The tile has these tokens.
#[inline]
#[target_feature(enable = "dotprod")]
pub(super) unsafe fn several<W: Weights, const R: usize, const T: usize>(
    tile: Tile,
    token: usize,
) -> usize {
    let offsets_at = 4 * tile.width;
    // From a block's scales to its first activations, and from one pair's last to the next's.
    let (first_at, step) = (8 * tile.width + 4 * token, 8 * (tile.width - T / 4 * 4));
    for from in (0..ROW_VECTORS).step_by(R) {
        let mut acc = [[vdupq_n_f32(0.0); R]; T];
        for (weights, words) in tile.blocks::<W>(token) {
            // SAFETY: every address lies within the blocks.
            unsafe {
                let mut sums = [[vdupq_n_s32(0); R]; T];
                for (quad, sums) in sums.chunks_mut(4).enumerate() {
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
                    for sums in sums.chunks_mut(4) {
                        if let ([s0, s1, s2, s3], [w]) = (&mut *sums, w.as_slice()) {
                            add_four_tokens([s0, s1, s2, s3].map(|s| &mut s[0]), w, &mut a);
                        } else if let [s0, s1, s2, s3] = sums {
                            let a = take2(&mut a);
                            add_two_tokens(s0, s1, &w, a[0]);
                            add_two_tokens(s2, s3, &w, a[1]);
                        } else if let [s0, s1] = sums {
                            add_two_tokens(s0, s1, &w, load(a));
                        }
                    }
                    a = a.wrapping_byte_add(step);
                });
                let w_scales = scales::<W, R>(weights, from);
                for (quad, (acc, sums)) in acc.chunks_mut(4).zip(sums.chunks(4)).enumerate() {
                    let a_scales = vreinterpretq_f32_u8(load_at(words, 16 * quad));
                    for (r, &w_scale) in w_scales.iter().enumerate() {
                        let both = times_lanes(w_scale, a_scales);
                        for ((acc, sums), both) in acc.iter_mut().zip(sums).zip(both) {
                            acc[r] = vfmaq_f32(acc[r], vcvtq_f32_s32(sums[r]), both);
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
