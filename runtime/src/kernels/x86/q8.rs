//! [`Format::Q8`]: a column in a byte, signed.

use core::arch::x86_64::*;

use super::avx2::Sums;
use super::products::{Lanes, Weights};
use crate::image::layout::Format;

pub enum Q8 {}

impl Weights for Q8 {
    const FORMAT: Format = Format::Q8;
    const BIAS: i32 = 0;

    #[inline(always)]
    unsafe fn groups<L: Lanes>(quarter: &[u8]) -> [L; 2] {
        let runs = quarter.as_chunks().0;
        // SAFETY: the caller vouches for the features.
        unsafe { [L::load(&runs[0]), L::load(&runs[1])] }
    }

    #[inline(always)]
    unsafe fn pairs<L: Lanes>(quarter: &[u8]) -> [L; 4] {
        // SAFETY: the caller vouches for the features.
        unsafe {
            let [low, high] = Self::groups::<L>(quarter);
            let [first, third] = [L::sar(L::shl(low, 8), 8), L::sar(L::shl(high, 8), 8)];
            [first, L::sar(low, 8), third, L::sar(high, 8)]
        }
    }
}

/// 32-bit sums: the sign of the weight moves to the activation, and a pair is at most
/// 2 x 128 x 127 < 2^15.
impl Sums for Q8 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn step(sums: __m256i, weights: __m256i, group: __m256i) -> __m256i {
        let signed = _mm256_sign_epi8(group, weights);
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), signed);
        _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn finish(sums: __m256i, _offset: i32) -> __m256i {
        sums
    }
}
