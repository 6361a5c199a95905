//! AVX-VNNI beside AVX2: `vpdpbusd` on vectors of 8 rows; all else is the AVX2 table's.

use core::arch::x86_64::*;

use super::avx2::{
    AVX2, V, finish_fine, fma, load_scales, mul, splat, start_fine, store, to_floats,
    unpack as unpack_signed, unpack_fine,
};
use super::products::{format, prefetch};
use super::wide;
use crate::image::layout::TILE_ROWS;
use crate::kernels::panel::{
    BLOCK_WORDS, FINE_WORDS, FinePanel, Panel, Quantised, group_at, pair_at,
};
use crate::kernels::{Kernels, check_matmul};

/// The table for AVX2, FMA, F16C and AVX-VNNI.
pub static AVX_VNNI: Kernels = Kernels {
    name: "avxvnni",
    width: WIDTH,
    fine_width: WIDTH,
    matmul_q4: entry!(matmul_q4, w, x, y),
    matmul_q8: entry!(matmul_q8, w, x, y),
    matmul_fine_q4: entry!(matmul_fine_q4, w, x, y),
    matmul_fine_q8: entry!(matmul_fine_q8, w, x, y),
    ..AVX2
};

product_kernels!(
    "avxvnni,avx2,fma,f16c", 1 2 3 4 5 6, but q4 1 2 then avxvnni_q4, avxvnni_fine_q4
);

with_features! {
    "avxvnni,avx2,fma,f16c";

    /// Two groups of unsigned weights: stored weight of Q4, weight + 128 of Q8.
    fn unpack<const Q8: bool>(quants: &[u8]) -> [[__m256i; 2]; 2] {
        let mut weights = unpack_signed::<Q8>(quants);
        if Q8 {
            for weights in weights.as_flattened_mut() {
                *weights = _mm256_xor_si256(*weights, _mm256_set1_epi8(-128));
            }
        }
        weights
    }

    /// Takes the bias of the weights off in advance: 16 times that of Q4 for Q8.
    fn start<const Q8: bool>(offset: i32) -> [__m256i; 2] {
        [_mm256_set1_epi32(if Q8 { 16 * offset } else { offset }); 2]
    }

    fn step<const Q8: bool>(sums: [__m256i; 2], weights: [__m256i; 2], group: i32) -> [__m256i; 2] {
        let group = _mm256_set1_epi32(group);
        [
            _mm256_dpbusd_avx_epi32(sums[0], weights[0], group),
            _mm256_dpbusd_avx_epi32(sums[1], weights[1], group),
        ]
    }

    fn finish<const Q8: bool>(sums: [__m256i; 2], _offset: i32) -> V {
        to_floats(sums)
    }

    fn step_fine(sums: [__m256i; 2], weights: [__m256i; 2], pair: i32) -> [__m256i; 2] {
        let pair = _mm256_set1_epi32(pair);
        [
            _mm256_dpwssd_avx_epi32(sums[0], weights[0], pair),
            _mm256_dpwssd_avx_epi32(sums[1], weights[1], pair),
        ]
    }
}
