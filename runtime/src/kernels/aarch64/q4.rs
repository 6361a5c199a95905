//! [`Format::Q4`]: two columns in a byte, stored as weight + 8.

use core::arch::aarch64::*;

use super::neon::{Sums, multiply_add};
use super::{ROW_VECTORS, Weights};
use crate::image::layout::Format;

pub(super) enum Q4 {}

impl Weights for Q4 {
    const FORMAT: Format = Format::Q4;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn eight_columns(block: *const u8, pair: usize, rows: usize) -> [int8x16_t; 2] {
        // SAFETY: the block holds this vector, aligned as the block is.
        let both = unsafe { block.cast::<uint8x16_t>().add(pair * ROW_VECTORS + rows).read() };
        let low = vandq_u8(both, vdupq_n_u8(15));
        [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(vshrq_n_u8::<4>(both))]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn start(offset: int32x4_t) -> int32x4_t {
        offset
    }
}

impl Sums for Q4 {
    /// A lane adds 8 products in `add` and 16 in `finish`: at most 16 * 15 * 127 < 2^15.
    type Block = [[int16x8_t; 2]; ROW_VECTORS];
    // SAFETY: integers; every pattern is valid.
    const ZERO: Self::Block = unsafe { core::mem::zeroed() };

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add(sums: &mut Self::Block, rows: usize, w: [int8x16_t; 2], a: [int8x16_t; 2]) {
        sums[rows] = multiply_add(sums[rows], w, a);
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn finish(sums: &Self::Block, rows: usize, offset: int32x4_t) -> int32x4_t {
        let [low, high] = sums[rows];
        vpadalq_s16(offset, vpaddq_s16(low, high))
    }
}
