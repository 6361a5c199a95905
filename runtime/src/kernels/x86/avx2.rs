//! AVX2 with FMA and F16C: 16 rows are two vectors, and `vpmaddubsw` multiplies pairs of columns.

use core::arch::x86_64::*;
use core::ops::Range;

use super::checksum::checksum;
use super::floats::Running;
use super::products::{format, prefetch};
use super::wide;
use crate::image::layout::{BLOCK, TILE_ROWS};
use crate::kernels::panel::{
    BLOCK_WORDS, FINE_WORDS, FinePanel, Panel, Quantised, for_each_block, group_at, pair_at,
    put_block, put_fine_block,
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
    matmul_q4: entry!(matmul_q4, w, x, y),
    matmul_q8: entry!(matmul_q8, w, x, y),
    matmul_fine_q4: entry!(matmul_fine_q4, w, x, y),
    matmul_fine_q8: entry!(matmul_fine_q8, w, x, y),
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
product_kernels!("avx2,fma,f16c", 1 2 3 4 5 6, but q4 1 2 then avx2_q4, avx2_fine_q4);

/// Lanes 0..8 and 8..16.
pub type V = [__m256; 2];

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

    pub fn to_floats(sums: [__m256i; 2]) -> V {
        [_mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1])]
    }

    pub fn low_nibbles(bytes: __m256i) -> __m256i {
        _mm256_and_si256(bytes, _mm256_set1_epi8(15))
    }

    pub fn high_nibbles(bytes: __m256i) -> __m256i {
        low_nibbles(_mm256_srli_epi16::<4>(bytes))
    }

    /// Two groups of stored weights, rows 0..8 and 8..16 of each: 0..=15 for Q4, signed for Q8.
    pub fn unpack<const Q8: bool>(quants: &[u8]) -> [[__m256i; 2]; 2] {
        let (parts, _) = quants.as_chunks::<32>();
        let (low, high) = (load_bytes(&parts[0]), load_bytes(&parts[1]));
        if Q8 {
            [[low, high], [load_bytes(&parts[2]), load_bytes(&parts[3])]]
        } else {
            [[low_nibbles(low), low_nibbles(high)], [high_nibbles(low), high_nibbles(high)]]
        }
    }

    /// Four pairs of columns, as [`FinePanel`] has them, rows 0..8 and 8..16 of each.
    pub fn unpack_fine<const Q8: bool>(quants: &[u8]) -> [[__m256i; 2]; 4] {
        let (parts, _) = quants.as_chunks::<32>();
        let mut pairs = [[_mm256_setzero_si256(); 2]; 4];
        for half in 0..2 {
            let low = load_bytes(&parts[half]);
            if Q8 {
                let high = load_bytes(&parts[2 + half]);
                pairs[0][half] = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(low));
                pairs[1][half] = _mm256_srai_epi16::<8>(low);
                pairs[2][half] = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(high));
                pairs[3][half] = _mm256_srai_epi16::<8>(high);
            } else {
                let nibble = _mm256_set1_epi16(15);
                pairs[0][half] = _mm256_and_si256(low, nibble);
                pairs[1][half] = _mm256_and_si256(_mm256_srli_epi16::<8>(low), nibble);
                pairs[2][half] = _mm256_and_si256(_mm256_srli_epi16::<4>(low), nibble);
                pairs[3][half] = _mm256_srli_epi16::<12>(low);
            }
        }
        pairs
    }

    pub fn start_fine<const Q8: bool>(offset: i32) -> [__m256i; 2] {
        [_mm256_set1_epi32(if Q8 { 0 } else { offset }); 2]
    }

    fn step_fine(sums: [__m256i; 2], weights: [__m256i; 2], pair: i32) -> [__m256i; 2] {
        let pair = _mm256_set1_epi32(pair);
        [
            _mm256_add_epi32(sums[0], _mm256_madd_epi16(weights[0], pair)),
            _mm256_add_epi32(sums[1], _mm256_madd_epi16(weights[1], pair)),
        ]
    }

    pub fn finish_fine(sums: [__m256i; 2]) -> V {
        to_floats(sums)
    }

    fn start<const Q8: bool>(_offset: i32) -> [__m256i; 2] {
        [_mm256_setzero_si256(); 2]
    }

    /// Adds the products with a group: 16-bit sums of column pairs for Q4, 32-bit sums for Q8.
    ///
    /// A Q4 pair is at most 2 x 15 x 127, and a block's eight groups stay below 2^15. For Q8 the
    /// sign of the weight moves to the activation: a pair is at most 2 x 128 x 127 < 2^15.
    fn step<const Q8: bool>(
        sums: [__m256i; 2],
        weights: [__m256i; 2],
        group: i32
    ) -> [__m256i; 2] {
        let group = _mm256_set1_epi32(group);
        [step8::<Q8>(sums[0], weights[0], group), step8::<Q8>(sums[1], weights[1], group)]
    }

    /// [`step`] for 8 rows.
    fn step8<const Q8: bool>(sums: __m256i, weights: __m256i, group: __m256i) -> __m256i {
        if Q8 {
            let signed = _mm256_sign_epi8(group, weights);
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), signed);
            _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        } else {
            _mm256_add_epi16(sums, _mm256_maddubs_epi16(weights, group))
        }
    }

    fn finish<const Q8: bool>(sums: [__m256i; 2], offset: i32) -> V {
        if Q8 {
            return to_floats(sums);
        }
        let (ones, offset) = (_mm256_set1_epi16(1), _mm256_set1_epi32(offset));
        to_floats([
            _mm256_add_epi32(_mm256_madd_epi16(sums[0], ones), offset),
            _mm256_add_epi32(_mm256_madd_epi16(sums[1], ones), offset),
        ])
    }
}

/// The elements, at most 16, and zeros after them.
fn padded<T: Copy + Default>(from: &[T]) -> [T; 16] {
    let mut padded = [T::default(); 16];
    padded[..from.len()].copy_from_slice(from);
    padded
}
