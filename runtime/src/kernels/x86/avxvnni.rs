//! AVX-VNNI beside AVX2: `vpdpbusd` on vectors of 8 rows; all else is the AVX2 table's.

use core::arch::x86_64::*;

use super::avx2::{AVX2, I, V, fma, load_scales, mul, splat, splat_word, store, to_floats};
use super::products::{Weights, prefetch, unsigned, unsigned_start};
use super::q4::Q4;
use super::q8::Q8;
use crate::image::layout::TILE_ROWS;
use crate::kernels::panel::{BLOCK_WORDS, FINE_WORDS, Quantised, group_at, pair_at};
use crate::kernels::{Kernels, check_matmul};

/// The table for AVX2, FMA, F16C and AVX-VNNI.
pub static AVX_VNNI: Kernels = Kernels {
    name: "avxvnni",
    width: WIDTH,
    fine_width: WIDTH,
    products: by_format!(matmul, BLOCK_WORDS),
    fine_products: by_format!(matmul, FINE_WORDS),
    ..AVX2
};

product_kernels!("avxvnni,avx2,fma,f16c", Weights, 1 2 3 4 5 6, by hand true);

with_features! {
    "avxvnni,avx2,fma,f16c";

    fn unpack<W: Weights>(quarter: &[u8]) -> [I; 2] {
        // SAFETY: this function was compiled for the features of these vectors.
        unsafe { unsigned::<W, I>(quarter) }
    }

    fn start<W: Weights>(offset: i32) -> I {
        splat_word(unsigned_start::<W>(offset))
    }

    fn step<W: Weights>(sums: I, weights: I, group: i32) -> I {
        let group = _mm256_set1_epi32(group);
        [
            _mm256_dpbusd_avx_epi32(sums[0], weights[0], group),
            _mm256_dpbusd_avx_epi32(sums[1], weights[1], group),
        ]
    }

    fn finish<W: Weights>(sums: I, _offset: i32) -> V {
        to_floats(sums)
    }

    fn step_fine(sums: I, weights: I, pair: i32) -> I {
        let pair = _mm256_set1_epi32(pair);
        [
            _mm256_dpwssd_avx_epi32(sums[0], weights[0], pair),
            _mm256_dpwssd_avx_epi32(sums[1], weights[1], pair),
        ]
    }
}
