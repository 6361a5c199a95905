//! [`Format::Q4`]: two columns in a byte, stored as weight + 8.

use core::arch::x86_64::*;

use super::avx2::Sums;
use super::products::{Lanes, Weights};
use super::wide;
use crate::image::layout::Format;
use crate::kernels::Quantised;

pub enum Q4 {}

impl Weights for Q4 {
    const FORMAT: Format = Format::Q4;
    const BIAS: i32 = 8;

    #[inline(always)]
    unsafe fn groups<L: Lanes>(quarter: &[u8]) -> [L; 2] {
        // SAFETY: the caller vouches for the features.
        unsafe {
            let (both, nibble) = (L::load(&quarter.as_chunks().0[0]), L::splat(0x0f0f));
            [L::and(both, nibble), L::and(L::shr(both, 4), nibble)]
        }
    }

    #[inline(always)]
    unsafe fn pairs<L: Lanes>(quarter: &[u8]) -> [L; 4] {
        // SAFETY: the caller vouches for the features.
        unsafe {
            let (all, nibble) = (L::load(&quarter.as_chunks().0[0]), L::splat(15));
            let [second, third] = [L::shr(all, 8), L::shr(all, 4)];
            [L::and(all, nibble), L::and(second, nibble), L::and(third, nibble), L::shr(all, 12)]
        }
    }

    #[inline(always)]
    unsafe fn by_hand<const VNNI: bool, const WORDS: usize>(
        w: &[u8],
        x: Quantised<'_, WORDS>,
        y: &mut [f32],
    ) -> bool {
        if x.width() < wide::LEAST {
            return false;
        }
        // SAFETY: the caller vouches for the features.
        unsafe { if VNNI { wide::avxvnni(w, x, y) } else { wide::avx2(w, x, y) } }
        true
    }
}

/// Sums of column pairs in 16 bits: a pair is at most 2 x 15 x 127, and a block's eight groups stay
/// below 2^15.
impl Sums for Q4 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn step(sums: __m256i, weights: __m256i, group: __m256i) -> __m256i {
        _mm256_add_epi16(sums, _mm256_maddubs_epi16(weights, group))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn finish(sums: __m256i, offset: i32) -> __m256i {
        let sums = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
        _mm256_add_epi32(sums, _mm256_set1_epi32(offset))
    }
}
