//! AVX-512 with VNNI: 16 rows are one vector, and `vpdpbusd` multiplies four columns of each.

use core::arch::x86_64::*;
use core::ops::Range;

use super::checksum::checksum;
use super::floats::Running;
use super::products::{Lanes, Weights, prefetch, unsigned, unsigned_start};
use super::q4::Q4;
use super::q8::Q8;
use crate::image::layout::{BLOCK, TILE_ROWS};
use crate::kernels::panel::{
    BLOCK_WORDS, FINE_WORDS, Quantised, for_each_block, group_at, pair_at, put_block,
    put_fine_block,
};
use crate::kernels::{
    Attend, Conv, Element, Head, KEY_BLOCK, KV_BLOCK, Kernels, KeyValues, check_attend, check_conv,
    check_matmul, math,
};

/// The table for AVX-512 F, BW, DQ, VL and VNNI.
pub static AVX512_VNNI: Kernels = Kernels {
    name: "avx512vnni",
    width: WIDTH,
    fine_width: WIDTH,
    products: by_format!(matmul, BLOCK_WORDS),
    fine_products: by_format!(matmul, FINE_WORDS),
    matmul_f32: entry!(matmul_f32, w, x, y),
    quantise: entry!(quantise, x, width, panel),
    quantise_fine: entry!(quantise_fine, x, width, panel),
    swiglu: entry!(swiglu, gate, up),
    rms_norm: entry!(rms_norm, x, weight, eps, y),
    add_scaled: entry!(add_scaled, y, x, scale),
    attend: entry!(attend, a, out),
    conv: entry!(conv, c),
    checksum: entry!(checksum, bytes),
};

float_kernels!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni");
product_kernels!(
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", Weights,
    1 2 3 4 5 6 7 8 9 10 11 12
);

type V = __m512;
type I = __m512i;

const KEYS_AT_ONCE: usize = 2;
const VALUES_AT_ONCE: usize = 4;

with_features! {
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni";

    fn splat(x: f32) -> V { _mm512_set1_ps(x) }
    fn add(a: V, b: V) -> V { _mm512_add_ps(a, b) }
    fn sub(a: V, b: V) -> V { _mm512_sub_ps(a, b) }
    fn mul(a: V, b: V) -> V { _mm512_mul_ps(a, b) }
    fn div(a: V, b: V) -> V { _mm512_div_ps(a, b) }
    fn fma(a: V, b: V, c: V) -> V { _mm512_fmadd_ps(a, b, c) }
    fn max(a: V, b: V) -> V { _mm512_max_ps(a, b) }
    fn min(a: V, b: V) -> V { _mm512_min_ps(a, b) }
    fn abs(a: V) -> V { _mm512_abs_ps(a) }
    fn round(a: V) -> V { _mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(a) }
    fn first(a: V) -> f32 { _mm512_cvtss_f32(a) }

    fn add_exponent(y: V, n: V) -> V {
        let exponent = _mm512_slli_epi32::<23>(_mm512_cvtps_epi32(n));
        _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(y), exponent))
    }

    fn zero_where_least(x: V, y: V) -> V {
        let above = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(x, splat(f32::NEG_INFINITY));
        _mm512_maskz_mov_ps(above, y)
    }

    fn to_i8(x: V) -> [i8; 16] {
        bytemuck::cast(_mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x)))
    }

    fn to_i16(x: V) -> [i16; 16] {
        bytemuck::cast(_mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x)))
    }

    fn sum16(a: V) -> f32 {
        let eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }

    fn max16(a: V) -> f32 {
        _mm512_reduce_max_ps(a)
    }

    fn load(from: &[f32; 16]) -> V {
        // SAFETY: all 16 floats are readable.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    fn store(a: V, to: &mut [f32; 16]) {
        // SAFETY: all 16 floats are writable.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), a) }
    }

    fn load_some(from: &[f32]) -> V {
        // SAFETY: the mask has no lane beyond the slice.
        unsafe { _mm512_maskz_loadu_ps(lanes_below(from.len()), from.as_ptr()) }
    }

    fn store_some(a: V, to: &mut [f32]) {
        // SAFETY: the mask has no lane beyond the slice.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), lanes_below(to.len()), a) }
    }

    fn load_half(from: &[u16; 16]) -> V {
        // SAFETY: all 16 halves are readable.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(from.as_ptr().cast()) })
    }

    fn load_half_some(from: &[u16]) -> V {
        // SAFETY: the mask has no lane beyond the slice.
        let halves =
            unsafe { _mm256_maskz_loadu_epi16(lanes_below(from.len()), from.as_ptr().cast()) };
        _mm512_cvtph_ps(halves)
    }

    fn load_int8(from: &[i8; 16]) -> V {
        // SAFETY: all 16 bytes are readable.
        from_int8(unsafe { _mm_loadu_si128(from.as_ptr().cast()) })
    }

    fn load_int8_some(from: &[i8]) -> V {
        // SAFETY: the mask has no lane beyond the slice.
        from_int8(unsafe { _mm_maskz_loadu_epi8(lanes_below(from.len()), from.as_ptr()) })
    }

    fn from_int8(bytes: __m128i) -> V {
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
    }

    fn lanes_below(len: usize) -> __mmask16 {
        if len < 16 { (1 << len) - 1 } else { !0 }
    }

    fn load_scales(scales: &[u8; 32]) -> V {
        // SAFETY: all 32 bytes are readable.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(scales.as_ptr().cast()) })
    }

    fn to_floats(sums: I) -> V {
        _mm512_cvtepi32_ps(sums)
    }

    fn splat_word(word: i32) -> I {
        _mm512_set1_epi32(word)
    }

    fn unpack<W: Weights>(quarter: &[u8]) -> [I; 2] {
        // SAFETY: this function was compiled for the features of these vectors.
        unsafe { unsigned::<W, I>(quarter) }
    }

    fn start<W: Weights>(offset: i32) -> I {
        splat_word(unsigned_start::<W>(offset))
    }

    fn step<W: Weights>(sums: I, weights: I, group: i32) -> I {
        _mm512_dpbusd_epi32(sums, weights, _mm512_set1_epi32(group))
    }

    fn finish<W: Weights>(sums: I, _offset: i32) -> V {
        to_floats(sums)
    }

    fn step_fine(sums: I, weights: I, pair: i32) -> I {
        _mm512_dpwssd_epi32(sums, weights, _mm512_set1_epi32(pair))
    }
}

lanes! {
    I;

    fn load(run: &[u8; 64]) { _mm512_loadu_si512(run.as_ptr().cast()) }
    fn splat(word: i16) { _mm512_set1_epi16(word) }
    fn and(a: I, b: I) { _mm512_and_si512(a, b) }
    fn xor(a: I, b: I) { _mm512_xor_si512(a, b) }
    fn shl(a: I, bits: i32) { _mm512_sll_epi16(a, _mm_cvtsi32_si128(bits)) }
    fn shr(a: I, bits: i32) { _mm512_srl_epi16(a, _mm_cvtsi32_si128(bits)) }
    fn sar(a: I, bits: i32) { _mm512_sra_epi16(a, _mm_cvtsi32_si128(bits)) }
}
