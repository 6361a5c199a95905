//! Tables for aarch64: `neon` for every CPU, `dotprod` (`sdot`) and `i8mm` (`smmla`) for later ones.
//!
//! Fine activations are two digits of 8 bits each, base 255, and their products as many sums of 8-bit
//! products: see [`DIGIT`].
//!
//! A bare-metal target may forbid unaligned access (`+strict-align`), where the compiler splits
//! every vector load that it cannot prove aligned into bytes. So weights are read through aligned
//! vector types, as the image aligns them, and all else through single load and store
//! instructions: the code is the same under both rules. CPUs allow such accesses to normal memory.

mod dotprod;
mod float;
mod i8mm;
mod neon;
mod q4;
mod q8;

use core::arch::aarch64::*;
use core::arch::asm;

pub(super) use dotprod::DOTPROD;
pub(super) use i8mm::I8MM;
pub(super) use neon::NEON;
use q4::Q4;
use q8::Q8;

use super::{Quantised, check_matmul};
use crate::image::layout::{Format, TILE_ROWS};

/// Vectors of 4 rows in a tile.
const ROW_VECTORS: usize = TILE_ROWS / 4;
/// Pairs of column groups in a block, 8 columns each: as [`for_pairs`] counts them.
const PAIRS: usize = 4;

/// A fine activation is `DIGIT * high + low`, both in -127..=127. The words of a fine block after
/// scales and offsets are, for each pair of column groups, those of a [`Panel`](super::Panel) for
/// the high digits and then those for the low digits.
const DIGIT: i32 = 255;

const _: () = {
    let vector = size_of::<int8x16_t>();
    assert!(Format::Q4.block_bytes().is_multiple_of(vector));
    assert!(Format::Q4.scales_at(0).is_multiple_of(vector));
    assert!(Format::Q8.block_bytes().is_multiple_of(vector));
    assert!(Format::Q8.scales_at(0).is_multiple_of(vector));
};

/// The table entry for a function that needs the table's features.
macro_rules! entry {
    ($function:expr, $($argument:ident),*) => {
        // SAFETY: a table is only given to CPUs with the features that it needs.
        |$($argument),*| unsafe { $function($($argument),*) }
    };
}
use entry;

/// The products of a table, `$function` for each format in the order of [`Format`], with the
/// parameters that follow a format.
macro_rules! by_format {
    ($function:ident, $($parameter:tt),+) => {
        [
            entry!($function::<Q4, $($parameter),+>, w, x, y),
            entry!($function::<Q8, $($parameter),+>, w, x, y),
        ]
    };
}
use by_format;

/// Repeats a body for each pair of column groups, as a constant.
macro_rules! for_pairs {
    ($pair:ident, $body:block) => {
        for_pairs!($pair, $body, 0, 1, 2, 3)
    };
    ($pair:ident, $body:block, $($index:literal),*) => {
        $({
            const $pair: usize = $index;
            $body
        })*
    };
}
use for_pairs;

/// A weight format, as the products read it.
trait Weights {
    const FORMAT: Format;

    /// Columns 8 `pair` .. + 4 and 8 `pair` + 4 .. + 8 of row vector `rows`: 4 rows of 4 columns
    /// each, as stored (Q4: plus 8).
    ///
    /// # Safety
    /// The CPU has Advanced SIMD; `block` is a block's start, 16-byte aligned.
    unsafe fn eight_columns(block: *const u8, pair: usize, rows: usize) -> [int8x16_t; 2];

    /// What a sum starts from: the offset that undoes the +8, or zero.
    ///
    /// # Safety
    /// The CPU has Advanced SIMD.
    unsafe fn start(offset: int32x4_t) -> int32x4_t;
}

/// One tile row as it meets a panel: pointers whose lengths [`matmul`] has checked.
#[derive(Clone, Copy)]
struct Tile {
    /// The tile row's blocks, 16-byte aligned.
    weights: *const u8,
    /// The panel's blocks.
    words: *const i32,
    blocks: usize,
    width: usize,
    /// Words of one token's block.
    token_words: usize,
    /// `(width, 16)`.
    y: *mut f32,
}

impl Tile {
    /// The blocks of the weights, each with the words of the panel's block from `token` on.
    #[inline(always)]
    fn blocks<W: Weights>(
        &self,
        token: usize,
    ) -> impl Iterator<Item = (*const u8, *const i32)> + use<W> {
        let (mut weights, mut words) = (self.weights, self.words.wrapping_add(token));
        let (row_step, panel_step) = (W::FORMAT.block_bytes(), self.width * self.token_words);
        (0..self.blocks).map(move |_| {
            let block = (weights, words);
            weights = weights.wrapping_add(row_step);
            words = words.wrapping_add(panel_step);
            block
        })
    }

    /// Writes the results of `token` and row vector `rows`.
    ///
    /// # Safety
    /// `token < self.width`, `rows < ROW_VECTORS`.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn put(&self, token: usize, rows: usize, value: float32x4_t) {
        // SAFETY: the output holds 16 rows of each token.
        unsafe { store(self.y.add(token * TILE_ROWS + rows * 4), value) }
    }
}

/// Checks a product's operands and calls `product` for each of its tile rows.
#[inline(always)]
fn matmul<W: Weights, const WORDS: usize>(
    w: &[u8],
    x: Quantised<'_, WORDS>,
    y: &mut [f32],
    widest: usize,
    mut product: impl FnMut(Tile),
) {
    check_matmul(W::FORMAT, w, x, y, widest);
    assert!(w.as_ptr().cast::<int8x16_t>().is_aligned(), "weights are not aligned to 16 bytes");
    let tile_rows = w.chunks_exact(W::FORMAT.tile_row_bytes(x.blocks()));
    for (tile_row, y) in tile_rows.zip(y.chunks_exact_mut(x.width() * TILE_ROWS)) {
        product(Tile {
            weights: tile_row.as_ptr(),
            words: x.words().as_ptr(),
            blocks: x.blocks(),
            width: x.width(),
            token_words: WORDS,
            y: y.as_mut_ptr(),
        });
    }
}

/// The scales of `4 N` rows from row vector `rows` on.
///
/// # Safety
/// `block` is the start of a block of `W`, 16-byte aligned; `rows + N <= ROW_VECTORS`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn scales<W: Weights, const N: usize>(block: *const u8, rows: usize) -> [float32x4_t; N] {
    // SAFETY: a block's 16 scales are two aligned vectors.
    let at = unsafe { block.add(W::FORMAT.scales_at(0)).cast::<uint16x4_t>().add(rows) };
    core::array::from_fn(|n| {
        // SAFETY: as above.
        vcvt_f32_f16(vreinterpret_f16_u16(unsafe { at.add(n).read() }))
    })
}

/// The sum of a product from the sums of its digits, the highest first.
#[inline]
#[target_feature(enable = "neon")]
fn combine<const D: usize>(digits: [int32x4_t; D]) -> int32x4_t {
    let mut sum = digits[0];
    for &digit in &digits[1..] {
        sum = vmlaq_n_s32(digit, sum, DIGIT);
    }
    sum
}

/// The four lanes of `v`, each in all lanes.
#[inline]
#[target_feature(enable = "neon")]
fn spread(v: int32x4_t) -> [int32x4_t; 4] {
    [
        vdupq_laneq_s32::<0>(v),
        vdupq_laneq_s32::<1>(v),
        vdupq_laneq_s32::<2>(v),
        vdupq_laneq_s32::<3>(v),
    ]
}

/// `v` times each of the four lanes of `by`.
#[inline]
#[target_feature(enable = "neon")]
fn times_lanes(v: float32x4_t, by: float32x4_t) -> [float32x4_t; 4] {
    [
        vmulq_laneq_f32::<0>(v, by),
        vmulq_laneq_f32::<1>(v, by),
        vmulq_laneq_f32::<2>(v, by),
        vmulq_laneq_f32::<3>(v, by),
    ]
}

/// 16 bytes at any address.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load<T>(at: *const T) -> uint8x16_t {
    let v;
    // SAFETY: reads what the caller vouches for.
    unsafe {
        asm!("ldr {v:q}, [{at}]", v = lateout(vreg) v, at = in(reg) at,
            options(pure, readonly, nostack, preserves_flags));
    }
    v
}

/// 16 bytes, `offset` bytes after any address.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_at<T>(at: *const T, offset: usize) -> uint8x16_t {
    let v;
    // SAFETY: reads what the caller vouches for.
    unsafe {
        asm!("ldr {v:q}, [{at}, {offset}]", v = lateout(vreg) v, at = in(reg) at,
            offset = in(reg) offset, options(pure, readonly, nostack, preserves_flags));
    }
    v
}

/// 8 bytes, `offset` bytes after any address, and 8 zeros.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_half_at<T>(at: *const T, offset: usize) -> uint8x16_t {
    let v;
    // SAFETY: reads what the caller vouches for.
    unsafe {
        asm!("ldr {v:d}, [{at}, {offset}]", v = lateout(vreg) v, at = in(reg) at,
            offset = in(reg) offset, options(pure, readonly, nostack, preserves_flags));
    }
    v
}

/// 32 bytes, `OFFSET` bytes after any address.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load2<const OFFSET: usize, T>(at: *const T) -> [uint8x16_t; 2] {
    let (a, b);
    // SAFETY: reads what the caller vouches for.
    unsafe {
        asm!("ldp {a:q}, {b:q}, [{at}, #{offset}]", a = lateout(vreg) a, b = lateout(vreg) b,
            at = in(reg) at, offset = const OFFSET,
            options(pure, readonly, nostack, preserves_flags));
    }
    [a, b]
}

/// 32 bytes at `at`, which moves on by as many.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn take2<T>(at: &mut *const T) -> [uint8x16_t; 2] {
    let (a, b);
    // SAFETY: reads what the caller vouches for.
    unsafe {
        asm!("ldp {a:q}, {b:q}, [{at}], #32", a = out(vreg) a, b = out(vreg) b,
            at = inout(reg) *at, options(pure, readonly, nostack, preserves_flags));
    }
    [a, b]
}

/// Writes 16 bytes at any address.
///
/// # Safety
/// They can be written.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store<T>(at: *mut T, v: float32x4_t) {
    // SAFETY: writes what the caller vouches for.
    unsafe {
        asm!("str {v:q}, [{at}]", v = in(vreg) v, at = in(reg) at,
            options(nostack, preserves_flags));
    }
}
