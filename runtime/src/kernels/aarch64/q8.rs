//! [`Format::Q8`]: a column in a byte, signed.

use core::arch::aarch64::*;

use super::neon::{Sums, multiply_add};
use super::{ROW_VECTORS, Weights};
use crate::image::layout::Format;

pub(super) enum Q8 {}

impl Weights for Q8 {
    const FORMAT: Format = Format::Q8;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn eight_columns(block: *const u8, pair: usize, rows: usize) -> [int8x16_t; 2] {
        let at = 2 * pair * ROW_VECTORS + rows;
        // SAFETY: the block holds these vectors, aligned as the block is.
        [0, ROW_VECTORS].map(|h| unsafe { block.cast::<int8x16_t>().add(at + h).read() })
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn start(_offset: int32x4_t) -> int32x4_t {
        vdupq_n_s32(0)
    }
}

impl Sums for Q8 {
    /// A 16-bit lane adds 2 products: at most 2 * 128 * 127 < 2^15.
    type Block = [[int32x4_t; 2]; ROW_VECTORS];
    // SAFETY: integers; every pattern is valid.
    const ZERO: Self::Block = unsafe { core::mem::zeroed() };

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add(sums: &mut Self::Block, rows: usize, w: [int8x16_t; 2], a: [int8x16_t; 2]) {
        let [low, high] = multiply_add([vdupq_n_s16(0); 2], w, a);
        let sums = &mut sums[rows];
        *sums = [vpadalq_s16(sums[0], low), vpadalq_s16(sums[1], high)];
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn finish(sums: &Self::Block, rows: usize, _offset: int32x4_t) -> int32x4_t {
        vpaddq_s32(sums[rows][0], sums[rows][1])
    }
}
