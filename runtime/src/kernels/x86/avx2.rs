//! AVX2 with FMA and F16C: 16 rows are two vectors, and `vpmaddubsw` multiplies pairs of columns.

use core::arch::x86_64::*;
use core::ops::Range;

use super::checksum::checksum;
use super::floats::Running;
use super::products::{Lanes, Weights, prefetch};
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

/// The table for AVX2, FMA and F16C.
pub static AVX2: Kernels = Kernels {
    name: "avx2",
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

float_kernels!("avx2,fma,f16c");
product_kernels!("avx2,fma,f16c", Sums, 1 2 3 4 5 6, by hand false);

/// Lanes 0..8 and 8..16.
pub type V = [__m256; 2];
/// Rows 0..8 and 8..16.
pub type I = [__m256i; 2];

const KEYS_AT_ONCE: usize = 1;
const VALUES_AT_ONCE: usize = 1;

with_features! {
    "avx2,fma,f16c";

    pub fn splat(x: f32) -> V { [_mm256_set1_ps(x); 2] }
    pub fn add(a: V, b: V) -> V { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    pub fn sub(a: V, b: V) -> V { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    pub fn mul(a: V, b: V) -> V { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    pub fn div(a: V, b: V) -> V { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    pub fn max(a: V, b: V) -> V { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    pub fn min(a: V, b: V) -> V { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    pub fn first(a: V) -> f32 { _mm256_cvtss_f32(a[0]) }

    pub fn fma(a: V, b: V, c: V) -> V {
        [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
    }

    pub fn abs(a: V) -> V {
        let sign = _mm256_set1_ps(-0.0);
        [_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])]
    }

    pub fn round(a: V) -> V {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        [_mm256_round_ps::<NEAREST>(a[0]), _mm256_round_ps::<NEAREST>(a[1])]
    }

    pub fn add_exponent(y: V, n: V) -> V {
        [add_exponent8(y[0], n[0]), add_exponent8(y[1], n[1])]
    }

    pub fn add_exponent8(y: __m256, n: __m256) -> __m256 {
        let exponent = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(n));
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), exponent))
    }

    pub fn zero_where_least(x: V, y: V) -> V {
        let least = _mm256_set1_ps(f32::NEG_INFINITY);
        [
            _mm256_and_ps(_mm256_cmp_ps::<_CMP_NEQ_UQ>(x[0], least), y[0]),
            _mm256_and_ps(_mm256_cmp_ps::<_CMP_NEQ_UQ>(x[1], least), y[1]),
        ]
    }

    pub fn to_i8(x: V) -> [i8; 16] {
        let words = to_words(x);
        let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        bytemuck::cast(_mm_packs_epi16(low, high))
    }

    pub fn to_i16(x: V) -> [i16; 16] {
        bytemuck::cast(to_words(x))
    }

    pub fn to_words(x: V) -> __m256i {
        // Packing works within halves of 128 bits: the permutation puts them back in order.
        let words = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
        _mm256_permute4x64_epi64::<0b11_01_10_00>(words)
    }

    pub fn sum16(a: V) -> f32 {
        let eight = _mm256_add_ps(a[0], a[1]);
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }

    pub fn max16(a: V) -> f32 {
        let eight = _mm256_max_ps(a[0], a[1]);
        let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
    }

    pub fn load(from: &[f32; 16]) -> V {
        // SAFETY: all 16 floats are readable.
        unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from[8..].as_ptr())] }
    }

    pub fn store(a: V, to: &mut [f32; 16]) {
        // SAFETY: all 16 floats are writable.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), a[0]);
            _mm256_storeu_ps(to[8..].as_mut_ptr(), a[1]);
        }
    }

    pub fn load_some(from: &[f32]) -> V {
        if let Some(from) = from.first_chunk() {
            return load(from);
        }
        load(&padded(from))
    }

    pub fn store_some(a: V, to: &mut [f32]) {
        if let Some(to) = to.first_chunk_mut() {
            return store(a, to);
        }
        let mut padded = [0.0; 16];
        store(a, &mut padded);
        to.copy_from_slice(&padded[..to.len()]);
    }

    pub fn load_half(from: &[u16; 16]) -> V {
        // SAFETY: all 16 halves are readable.
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from[8..].as_ptr().cast())),
            ]
        }
    }

    pub fn load_half_some(from: &[u16]) -> V {
        if let Some(from) = from.first_chunk() {
            return load_half(from);
        }
        load_half(&padded(from))
    }

    pub fn load_int8(from: &[i8; 16]) -> V {
        // SAFETY: all 16 bytes are readable.
        unsafe {
            [
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.as_ptr().cast()))),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(
                    from[8..].as_ptr().cast()
                ))),
            ]
        }
    }

    pub fn load_int8_some(from: &[i8]) -> V {
        if let Some(from) = from.first_chunk() {
            return load_int8(from);
        }
        load_int8(&padded(from))
    }

    pub fn load_scales(scales: &[u8; 32]) -> V {
        let halves = load_bytes(scales);
        let (low, high) = (_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
        [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
    }

    pub fn load_bytes(bytes: &[u8; 32]) -> __m256i {
        // SAFETY: all 32 bytes are readable.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    }

    pub fn to_floats(sums: I) -> V {
        [_mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1])]
    }

    pub fn splat_word(word: i32) -> I {
        [_mm256_set1_epi32(word); 2]
    }

    fn unpack<W: Sums>(quarter: &[u8]) -> [I; 2] {
        // SAFETY: this function was compiled for the features of these vectors.
        unsafe { W::groups(quarter) }
    }

    fn start<W: Sums>(_offset: i32) -> I {
        splat_word(0)
    }

    fn step<W: Sums>(sums: I, weights: I, group: i32) -> I {
        let group = _mm256_set1_epi32(group);
        // SAFETY: this function was compiled for the same features.
        unsafe { [W::step(sums[0], weights[0], group), W::step(sums[1], weights[1], group)] }
    }

    fn finish<W: Sums>(sums: I, offset: i32) -> V {
        // SAFETY: this function was compiled for the same features.
        to_floats(unsafe { [W::finish(sums[0], offset), W::finish(sums[1], offset)] })
    }

    fn step_fine(sums: I, weights: I, pair: i32) -> I {
        let pair = _mm256_set1_epi32(pair);
        [
            _mm256_add_epi32(sums[0], _mm256_madd_epi16(weights[0], pair)),
            _mm256_add_epi32(sums[1], _mm256_madd_epi16(weights[1], pair)),
        ]
    }
}

/// How a format's products of a group are added up without VNNI.
pub trait Sums: Weights {
    /// Adds the products of 8 rows with a group, which is in all lanes.
    ///
    /// # Safety
    /// The CPU has AVX2.
    unsafe fn step(sums: __m256i, weights: __m256i, group: __m256i) -> __m256i;

    /// The 32-bit sums of 8 rows, `offset` added to those of weights with a bias.
    ///
    /// # Safety
    /// The CPU has AVX2.
    unsafe fn finish(sums: __m256i, offset: i32) -> __m256i;
}

lanes! {
    I;

    fn load(run: &[u8; 64]) {
        [_mm256_loadu_si256(run.as_ptr().cast()), _mm256_loadu_si256(run[32..].as_ptr().cast())]
    }
    fn splat(word: i16) { [_mm256_set1_epi16(word); 2] }
    fn and(a: I, b: I) { [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])] }
    fn xor(a: I, b: I) { [_mm256_xor_si256(a[0], b[0]), _mm256_xor_si256(a[1], b[1])] }
    fn shl(a: I, bits: i32) {
        let bits = _mm_cvtsi32_si128(bits);
        [_mm256_sll_epi16(a[0], bits), _mm256_sll_epi16(a[1], bits)]
    }
    fn shr(a: I, bits: i32) {
        let bits = _mm_cvtsi32_si128(bits);
        [_mm256_srl_epi16(a[0], bits), _mm256_srl_epi16(a[1], bits)]
    }
    fn sar(a: I, bits: i32) {
        let bits = _mm_cvtsi32_si128(bits);
        [_mm256_sra_epi16(a[0], bits), _mm256_sra_epi16(a[1], bits)]
    }
}

/// The elements, at most 16, and zeros after them.
fn padded<T: Copy + Default>(from: &[T]) -> [T; 16] {
    let mut padded = [T::default(); 16];
    padded[..from.len()].copy_from_slice(from);
    padded
}
