//! The functions in f32: plain Advanced SIMD in every table.

use core::arch::aarch64::*;

use super::super::math::{EXP_MAX, EXP_MIN, EXP_POLY, LN2_HIGH, LN2_LOW, LOG2_E, fma};
use super::super::panel::for_each_block;
use super::super::{
    Attend, BLOCK_WORDS, Conv, Element, FINE_WORDS, Head, KEY_BLOCK, KeyValues, SCALAR,
    check_attend, check_conv, group_at,
};
use super::{DIGIT, ROW_VECTORS, load, load_half_at, load2, store};
use crate::image::layout::{BLOCK, TILE_ROWS};

/// See [`Kernels::matmul_f32`](super::super::Kernels::matmul_f32).
#[target_feature(enable = "neon")]
pub(super) fn matmul_f32(w: &[f32], x: &[f32], y: &mut [f32]) {
    assert_eq!(w.len(), y.len() * x.len());
    let tile_rows = w.chunks_exact(x.len() * TILE_ROWS);
    for (w, y) in tile_rows.zip(y.as_chunks_mut::<TILE_ROWS>().0) {
        let mut sums = [[vdupq_n_f32(0.0); ROW_VECTORS]; 4];
        let (columns, rest) = w.as_chunks::<{ 4 * TILE_ROWS }>();
        let (fours, last) = x.as_chunks::<4>();
        for (w, x) in columns.iter().zip(fours) {
            let x = read(x);
            for (k, (w, sums)) in w.as_chunks::<TILE_ROWS>().0.iter().zip(&mut sums).enumerate() {
                for (sum, w) in sums.iter_mut().zip(read16(w)) {
                    *sum = match k {
                        0 => vfmaq_laneq_f32::<0>(*sum, w, x),
                        1 => vfmaq_laneq_f32::<1>(*sum, w, x),
                        2 => vfmaq_laneq_f32::<2>(*sum, w, x),
                        _ => vfmaq_laneq_f32::<3>(*sum, w, x),
                    };
                }
            }
        }
        for ((w, &x), sums) in rest.as_chunks::<TILE_ROWS>().0.iter().zip(last).zip(&mut sums) {
            for (sum, w) in sums.iter_mut().zip(read16(w)) {
                *sum = vfmaq_n_f32(*sum, w, x);
            }
        }
        for (r, y) in y.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let [a, b, c, d] = sums.map(|s| s[r]);
            write(y, vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d)));
        }
    }
}

/// See [`Kernels::quantise`](super::super::Kernels::quantise).
#[target_feature(enable = "neon")]
pub(super) fn quantise(x: &[f32], width: usize, panel: &mut [i32]) {
    for_each_block::<BLOCK_WORDS>(x, width, panel, |x, words, token| {
        let (scale, values) = integers(x, 127.0);
        let mut sum = vdupq_n_s32(0);
        for (pair, two) in values.as_chunks::<2>().0.iter().enumerate() {
            let two = two.map(|v| vcvtnq_s32_f32(v));
            sum = vaddq_s32(sum, vaddq_s32(two[0], two[1]));
            put_eight(words, group_at(width, 2 * pair, token), two);
        }
        words[token] = scale.to_bits() as i32;
        words[width + token] = -8 * vaddvq_s32(sum);
    });
}

/// See [`Kernels::quantise_fine`](super::super::Kernels::quantise_fine).
#[target_feature(enable = "neon")]
pub(super) fn quantise_fine(x: &[f32], width: usize, panel: &mut [i32]) {
    for_each_block::<FINE_WORDS>(x, width, panel, |x, words, token| {
        let (scale, values) = integers(x, 32512.0);
        let mut sum = vdupq_n_s32(0);
        for (pair, two) in values.as_chunks::<2>().0.iter().enumerate() {
            let two = two.map(|v| vrndnq_f32(v));
            let integers = two.map(|v| vcvtnq_s32_f32(v));
            // An odd base: the quotient is never near the middle of two integers.
            let high = two.map(|v| vcvtnq_s32_f32(vmulq_n_f32(v, 1.0 / DIGIT as f32)));
            let low = [0, 1].map(|i| vmlsq_n_s32(integers[i], high[i], DIGIT));
            sum = vaddq_s32(sum, vaddq_s32(integers[0], integers[1]));
            let at = 2 * (width * (1 + 2 * pair) + token);
            put_eight(words, at, high);
            put_eight(words, at + 2 * width, low);
        }
        words[token] = scale.to_bits() as i32;
        words[width + token] = -8 * vaddvq_s32(sum);
    });
}

/// The scale of a block, and what its integers up to `most` are rounded from.
#[inline]
#[target_feature(enable = "neon")]
fn integers(x: &[f32; BLOCK], most: f32) -> (f32, [float32x4_t; BLOCK / 4]) {
    let mut values = [vdupq_n_f32(0.0); BLOCK / 4];
    for (two, x) in values.as_chunks_mut::<2>().0.iter_mut().zip(x.as_chunks().0) {
        *two = read8(x);
    }
    let mut largest = values.map(|v| vabsq_f32(v));
    for half in [4, 2, 1] {
        for i in 0..half {
            largest[i] = vmaxq_f32(largest[i], largest[i + half]);
        }
    }
    let scale = vmaxvq_f32(largest[0]) / most;
    let normal = scale >= f32::MIN_POSITIVE;
    let (scale, inverse) = if normal { (scale, 1.0 / scale) } else { (0.0, 0.0) };
    (scale, values.map(|v| vmulq_n_f32(v, inverse)))
}

/// Writes eight integers of 8 bits as two words, from word `at` on.
#[inline]
#[target_feature(enable = "neon")]
fn put_eight(words: &mut [i32], at: usize, two: [int32x4_t; 2]) {
    let [low, high] = two.map(|v| vqmovn_s32(v));
    let eight = vreinterpret_s32_s8(vqmovn_s16(vcombine_s16(low, high)));
    words[at] = vget_lane_s32::<0>(eight);
    words[at + 1] = vget_lane_s32::<1>(eight);
}

/// See [`Kernels::swiglu`](super::super::Kernels::swiglu).
#[target_feature(enable = "neon")]
pub(super) fn swiglu(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    let (gates, last_gates) = gate.as_chunks_mut::<4>();
    let (ups, last_ups) = up.as_chunks::<4>();
    for (gate, up) in gates.iter_mut().zip(ups) {
        let g = read(gate);
        let y = vdivq_f32(g, vaddq_f32(vdupq_n_f32(1.0), exp(vnegq_f32(g))));
        write(gate, vmulq_f32(y, read(up)));
    }
    (SCALAR.swiglu)(last_gates, last_ups);
}

/// See [`Kernels::rms_norm`](super::super::Kernels::rms_norm).
#[target_feature(enable = "neon")]
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == y.len());
    let square = |lanes: &mut [float32x4_t; 4], x: &[f32; 16]| {
        for (lane, x) in lanes.iter_mut().zip(read16(x)) {
            *lane = vfmaq_f32(*lane, x, x);
        }
    };
    let mut lanes = [vdupq_n_f32(0.0); 4];
    let (sixteens, rest) = x.as_chunks::<16>();
    sixteens.iter().for_each(|x| square(&mut lanes, x));
    if !rest.is_empty() {
        let mut last = [0.0; 16];
        last[..rest.len()].copy_from_slice(rest);
        square(&mut lanes, &last);
    }
    let mean = sum16(lanes) / x.len() as f32;
    let root = vget_lane_f32::<0>(vsqrt_f32(vdup_n_f32(mean + eps)));
    let scale = 1.0 / root;
    let ((xs, last_x), (ws, last_w)) = (x.as_chunks::<4>(), weight.as_chunks::<4>());
    let (ys, last_y) = y.as_chunks_mut::<4>();
    for ((y, x), w) in ys.iter_mut().zip(xs).zip(ws) {
        write(y, vmulq_f32(vmulq_n_f32(read(x), scale), read(w)));
    }
    for ((y, x), w) in last_y.iter_mut().zip(last_x).zip(last_w) {
        *y = x * scale * w;
    }
}

/// See [`Kernels::add_scaled`](super::super::Kernels::add_scaled).
#[target_feature(enable = "neon")]
pub(super) fn add_scaled(y: &mut [f32], x: &[f32], scale: f32) {
    assert_eq!(x.len(), y.len());
    let (ys, last_y) = y.as_chunks_mut::<4>();
    let (xs, last_x) = x.as_chunks::<4>();
    for (y, x) in ys.iter_mut().zip(xs) {
        write(y, vfmaq_n_f32(read(y), read(x), scale));
    }
    (SCALAR.add_scaled)(last_y, last_x, scale);
}

/// See [`Kernels::attend`](super::super::Kernels::attend).
#[target_feature(enable = "neon")]
pub(super) fn attend(a: &Attend<'_>, out: &mut [f32]) {
    match &a.kv {
        KeyValues::F16(head) => attend_head(a, head, out),
        KeyValues::Int8(head) => attend_head(a, head, out),
    }
}

/// How elements of keys and values become floats.
trait Load: Element {
    /// 16 elements.
    ///
    /// # Safety
    /// The CPU has Advanced SIMD.
    unsafe fn sixteen(from: &[Self; 16]) -> [float32x4_t; 4];

    /// 8 elements at any address.
    ///
    /// # Safety
    /// The CPU has Advanced SIMD; they can be read.
    unsafe fn eight(at: *const Self) -> [float32x4_t; 2];
}

impl Load for u16 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sixteen(from: &[Self; 16]) -> [float32x4_t; 4] {
        halves16(from)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn eight(at: *const Self) -> [float32x4_t; 2] {
        // SAFETY: as the caller vouches.
        halves8(unsafe { load(at) })
    }
}

impl Load for i8 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sixteen(from: &[Self; 16]) -> [float32x4_t; 4] {
        // SAFETY: the reference covers 16 bytes.
        let x = vreinterpretq_s8_u8(unsafe { load(from) });
        let ([a, b], [c, d]) = (bytes8(vget_low_s8(x)), bytes8(vget_high_s8(x)));
        [a, b, c, d]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn eight(at: *const Self) -> [float32x4_t; 2] {
        // SAFETY: as the caller vouches.
        bytes8(vget_low_s8(vreinterpretq_s8_u8(unsafe { load_half_at(at, 0) })))
    }
}

/// Attention of all queries: up to 4 share each load of keys and values.
#[target_feature(enable = "neon")]
fn attend_head<E: Load>(a: &Attend<'_>, head: &Head<'_, E>, out: &mut [f32]) {
    check_attend(a, head, out);
    let fours = a.queries.chunks(4 * a.head_dim).zip(out.chunks_mut(4 * a.head_dim));
    for (queries, out) in fours {
        let a = Attend { queries, ..*a };
        match queries.len() / a.head_dim {
            1 => attend_together::<E, 1>(&a, head, out),
            2 => attend_together::<E, 2>(&a, head, out),
            3 => attend_together::<E, 3>(&a, head, out),
            _ => attend_together::<E, 4>(&a, head, out),
        }
    }
}

/// Attention of `N` queries, so that each key and value is converted once for all of them.
#[target_feature(enable = "neon")]
fn attend_together<E: Load, const N: usize>(a: &Attend<'_>, head: &Head<'_, E>, out: &mut [f32]) {
    let dim = a.head_dim;
    let mut largest = [f32::NEG_INFINITY; N];
    let mut total = [0.0_f32; N];
    out.fill(0.0);
    for from in (0..a.len).step_by(KEY_BLOCK) {
        let count = (a.len - from).min(KEY_BLOCK);
        let keys = head.elements.keys(from, KEY_BLOCK).as_chunks::<KEY_BLOCK>().0;
        let mut scores = scores::<E, N>(a.queries, keys);
        let mut shrink = [0.0; N];
        for ((scores, shrink), (largest, total)) in
            scores.iter_mut().zip(&mut shrink).zip(largest.iter_mut().zip(&mut total))
        {
            if E::SCALED {
                scale(scores, head.scales.keys(from, KEY_BLOCK));
            }
            hide_from(scores, count);
            let new = max16(*scores, *largest);
            *shrink = vgetq_lane_f32::<0>(exp_or_zero(vdupq_n_f32(*largest - new)));
            *scores = scores.map(|s| exp_or_zero(vsubq_f32(s, vdupq_n_f32(new))));
            *largest = new;
            let sum = vdup_n_f32(sum16(*scores));
            *total = vget_lane_f32::<0>(vfma_n_f32(sum, vdup_n_f32(*total), *shrink));
            if E::SCALED {
                scale(scores, head.scales.values(from..from + KEY_BLOCK));
            }
        }
        let values = head.elements.values(from..from + count);
        add_values::<E, N>(values, &scores, &shrink, out);
    }
    for (out, total) in out.chunks_exact_mut(dim).zip(total) {
        let (fours, last) = out.as_chunks_mut::<4>();
        for o in fours {
            write(o, vdivq_f32(read(o), vdupq_n_f32(total)));
        }
        last.iter_mut().for_each(|o| *o /= total);
    }
}

/// The products of `N` queries with a block of keys, `keys` `(head_dim, 16)`.
#[target_feature(enable = "neon")]
fn scores<E: Load, const N: usize>(
    queries: &[f32],
    keys: &[[E; KEY_BLOCK]],
) -> [[float32x4_t; 4]; N] {
    let dim = keys.len();
    let mut scores = [[vdupq_n_f32(0.0); 4]; N];
    let rows: [_; N] = core::array::from_fn(|n| queries[n * dim..][..dim].as_chunks::<4>().0);
    let (fours, last) = keys.as_chunks::<4>();
    for (d, keys) in fours.iter().enumerate() {
        let q = rows.map(|row| read(&row[d]));
        for (i, keys) in keys.iter().enumerate() {
            // SAFETY: this function is compiled for Advanced SIMD.
            let keys = unsafe { E::sixteen(keys) };
            for (scores, q) in scores.iter_mut().zip(q) {
                for (score, key) in scores.iter_mut().zip(keys) {
                    *score = match i {
                        0 => vfmaq_laneq_f32::<0>(*score, key, q),
                        1 => vfmaq_laneq_f32::<1>(*score, key, q),
                        2 => vfmaq_laneq_f32::<2>(*score, key, q),
                        _ => vfmaq_laneq_f32::<3>(*score, key, q),
                    };
                }
            }
        }
    }
    for (d, keys) in (4 * fours.len()..).zip(last) {
        // SAFETY: as above.
        let keys = unsafe { E::sixteen(keys) };
        for (n, scores) in scores.iter_mut().enumerate() {
            for (score, key) in scores.iter_mut().zip(keys) {
                *score = vfmaq_n_f32(*score, key, queries[n * dim + d]);
            }
        }
    }
    scores
}

/// `out = out * shrink + sum_i weights[i] values[i]` for each of `N` queries; `values` are
/// `(positions, head_dim)` of at most 16 positions.
#[target_feature(enable = "neon")]
fn add_values<E: Load, const N: usize>(
    values: &[E],
    weights: &[[float32x4_t; 4]; N],
    shrink: &[f32; N],
    out: &mut [f32],
) {
    let dim = out.len() / N;
    let mut lanes = [[0.0; KEY_BLOCK]; N];
    for (lanes, weights) in lanes.iter_mut().zip(weights) {
        for (lanes, &weights) in lanes.as_chunks_mut::<4>().0.iter_mut().zip(weights) {
            write(lanes, weights);
        }
    }
    let count = values.len() / dim;
    for d in (0..dim / 8 * 8).step_by(8) {
        // SAFETY: each `values` row and each `out` row holds `dim` numbers, and d + 8 <= dim.
        unsafe {
            let value = |i: usize| E::eight(values.as_ptr().add(i * dim + d));
            let at: [_; N] = core::array::from_fn(|n| out.as_mut_ptr().add(n * dim + d));
            let mut acc: [_; N] = core::array::from_fn(|n| {
                load2::<0, _>(at[n]).map(|o| vmulq_n_f32(vreinterpretq_f32_u8(o), shrink[n]))
            });
            for i in (0..count / 4 * 4).step_by(4) {
                let w: [_; N] = core::array::from_fn(|n| load_f32(lanes[n].as_ptr().add(i)));
                let (v0, v1, v2, v3) = (value(i), value(i + 1), value(i + 2), value(i + 3));
                for (acc, &w) in acc.iter_mut().zip(&w) {
                    for (half, acc) in acc.iter_mut().enumerate() {
                        *acc = vfmaq_laneq_f32::<0>(*acc, v0[half], w);
                        *acc = vfmaq_laneq_f32::<1>(*acc, v1[half], w);
                        *acc = vfmaq_laneq_f32::<2>(*acc, v2[half], w);
                        *acc = vfmaq_laneq_f32::<3>(*acc, v3[half], w);
                    }
                }
            }
            for i in count / 4 * 4..count {
                let v = value(i);
                for (acc, lanes) in acc.iter_mut().zip(&lanes) {
                    for (acc, v) in acc.iter_mut().zip(v) {
                        *acc = vfmaq_n_f32(*acc, v, lanes[i]);
                    }
                }
            }
            for (at, acc) in at.into_iter().zip(acc) {
                store(at, acc[0]);
                store(at.add(4), acc[1]);
            }
        }
    }
    for (n, out) in out.chunks_exact_mut(dim).enumerate() {
        for (d, o) in out.iter_mut().enumerate().skip(dim / 8 * 8) {
            *o *= shrink[n];
            for (&weight, row) in lanes[n].iter().zip(values.chunks_exact(dim)) {
                *o = fma(weight, row[d].to_f32(), *o);
            }
        }
    }
}

/// Multiplies each lane by its scale, f16 bits.
#[inline]
#[target_feature(enable = "neon")]
fn scale(lanes: &mut [float32x4_t; 4], scales: &[u16]) {
    let (scales, _) = scales.as_chunks::<KEY_BLOCK>();
    for (lane, scale) in lanes.iter_mut().zip(halves16(&scales[0])) {
        *lane = vmulq_f32(*lane, scale);
    }
}

/// Sets scores `count..` to minus infinity.
#[target_feature(enable = "neon")]
fn hide_from(scores: &mut [float32x4_t; 4], count: usize) {
    const INDEX: [[f32; 4]; 4] = [
        [0.0, 1.0, 2.0, 3.0],
        [4.0, 5.0, 6.0, 7.0],
        [8.0, 9.0, 10.0, 11.0],
        [12.0, 13.0, 14.0, 15.0],
    ];
    if count < KEY_BLOCK {
        for (scores, index) in scores.iter_mut().zip(&INDEX) {
            let kept = vcltq_f32(read(index), vdupq_n_f32(count as f32));
            *scores = vbslq_f32(kept, *scores, vdupq_n_f32(f32::NEG_INFINITY));
        }
    }
}

/// The largest of 16 scores and `floor`, NaNs aside.
#[target_feature(enable = "neon")]
fn max16(scores: [float32x4_t; 4], floor: f32) -> f32 {
    let [a, b, c, d] = scores;
    let largest = vmaxnmq_f32(vmaxnmq_f32(a, b), vmaxnmq_f32(c, d));
    vmaxnmvq_f32(vmaxnmq_f32(largest, vdupq_n_f32(floor)))
}

/// See [`Kernels::conv`](super::super::Kernels::conv).
#[target_feature(enable = "neon")]
pub(super) fn conv(mut c: Conv<'_>) {
    let hidden = check_conv(&c);
    let whole = hidden / 4 * 4;
    for i in (0..whole).step_by(4) {
        conv_columns(&mut c, i, 4);
    }
    if whole < hidden {
        conv_columns(&mut c, whole, hidden - whole);
    }
}

/// Columns `i..i + n`, at most 4.
#[inline]
#[target_feature(enable = "neon")]
fn conv_columns(c: &mut Conv<'_>, i: usize, n: usize) {
    let hidden = c.y.len();
    let last = c.taps.len() / hidden - 1;
    let row = |rows: &[f32], r: usize| read_some(&rows[r * hidden + i..][..n]);
    let z = vmulq_f32(row(c.bcx, 0), row(c.bcx, 2));
    let mut sum = vmulq_f32(row(c.taps, 0), row(c.state, 0));
    for tap in 1..last {
        let earlier = row(c.state, tap);
        sum = vfmaq_f32(sum, row(c.taps, tap), earlier);
        write_some(&mut c.state[(tap - 1) * hidden + i..][..n], earlier);
    }
    write_some(&mut c.state[(last - 1) * hidden + i..][..n], z);
    let sum = vfmaq_f32(sum, row(c.taps, last), z);
    write_some(&mut c.y[i..][..n], vmulq_f32(row(c.bcx, 1), sum));
}

/// [`math::exp`](super::super::math::exp) of each lane.
#[inline]
#[target_feature(enable = "neon")]
fn exp(x: float32x4_t) -> float32x4_t {
    let x = vminnmq_f32(vmaxnmq_f32(x, vdupq_n_f32(EXP_MIN)), vdupq_n_f32(EXP_MAX));
    let n = vrndnq_f32(vmulq_n_f32(x, LOG2_E));
    let r = vfmaq_n_f32(x, n, -LN2_HIGH);
    let r = vfmaq_n_f32(r, n, -LN2_LOW);
    let p = EXP_POLY[1..]
        .iter()
        .fold(vdupq_n_f32(EXP_POLY[0]), |p, &c| vfmaq_f32(vdupq_n_f32(c), p, r));
    let y = vaddq_f32(vfmaq_f32(r, p, vmulq_f32(r, r)), vdupq_n_f32(1.0));
    let exponent = vshlq_n_s32::<23>(vcvtq_s32_f32(n));
    vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(y), exponent))
}

/// [`exp`], and 0 for minus infinity.
#[inline]
#[target_feature(enable = "neon")]
fn exp_or_zero(x: float32x4_t) -> float32x4_t {
    let hidden = vceqq_f32(x, vdupq_n_f32(f32::NEG_INFINITY));
    vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(exp(x)), hidden))
}

/// [`math::sum16`](super::super::math::sum16).
#[inline]
#[target_feature(enable = "neon")]
fn sum16(lanes: [float32x4_t; 4]) -> f32 {
    let [a, b, c, d] = lanes;
    let four = vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d));
    let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
}

/// 16 f16 as f32.
#[inline]
#[target_feature(enable = "neon")]
fn halves16(x: &[u16; 16]) -> [float32x4_t; 4] {
    // SAFETY: the reference covers 32 bytes.
    let [a, b] = unsafe { load2::<0, _>(x) }.map(|x| halves8(x));
    [a[0], a[1], b[0], b[1]]
}

/// 8 f16 as f32.
#[inline]
#[target_feature(enable = "neon")]
fn halves8(x: uint8x16_t) -> [float32x4_t; 2] {
    let x = vreinterpretq_f16_u8(x);
    [vcvt_f32_f16(vget_low_f16(x)), vcvt_high_f32_f16(x)]
}

/// 8 integers as f32.
#[inline]
#[target_feature(enable = "neon")]
fn bytes8(x: int8x8_t) -> [float32x4_t; 2] {
    let x = vmovl_s8(x);
    [vcvtq_f32_s32(vmovl_s16(vget_low_s16(x))), vcvtq_f32_s32(vmovl_high_s16(x))]
}

/// 4 floats at any address.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_f32(at: *const f32) -> float32x4_t {
    // SAFETY: as the caller vouches.
    vreinterpretq_f32_u8(unsafe { load(at) })
}

#[inline]
#[target_feature(enable = "neon")]
fn read(x: &[f32; 4]) -> float32x4_t {
    // SAFETY: the reference covers 16 bytes.
    unsafe { load_f32(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn read8(x: &[f32; 8]) -> [float32x4_t; 2] {
    // SAFETY: the reference covers 32 bytes.
    unsafe { load2::<0, _>(x) }.map(|x| vreinterpretq_f32_u8(x))
}

#[inline]
#[target_feature(enable = "neon")]
fn read16(x: &[f32; 16]) -> [float32x4_t; 4] {
    // SAFETY: the reference covers 64 bytes.
    let [[a, b], [c, d]] = unsafe { [load2::<0, _>(x), load2::<32, _>(x)] };
    [a, b, c, d].map(|x| vreinterpretq_f32_u8(x))
}

#[inline]
#[target_feature(enable = "neon")]
fn write(to: &mut [f32; 4], v: float32x4_t) {
    // SAFETY: the reference covers 16 bytes.
    unsafe { store(to.as_mut_ptr(), v) }
}

/// As many lanes as `x` has, at most 4; the others are 0.
#[inline]
#[target_feature(enable = "neon")]
fn read_some(x: &[f32]) -> float32x4_t {
    match x.first_chunk() {
        Some(four) => read(four),
        None => {
            let mut four = [0.0; 4];
            four[..x.len()].copy_from_slice(x);
            read(&four)
        }
    }
}

/// As many lanes as `to` has, at most 4.
#[inline]
#[target_feature(enable = "neon")]
fn write_some(to: &mut [f32], v: float32x4_t) {
    match to.first_chunk_mut() {
        Some(four) => write(four, v),
        None => {
            let mut four = [0.0; 4];
            write(&mut four, v);
            to.copy_from_slice(&four[..to.len()]);
        }
    }
}
