//! The specification: every operation in plain Rust. Never tuned at the cost of clarity.

use super::math::{exp, fma, from_f16, round_even, sum16};
use super::panel::{BLOCK_WORDS, FINE_WORDS, Quantised, put_block, put_fine_block};
use super::{
    Attend, Conv, Element, Head, KEY_BLOCK, Kernels, KeyValues, check_attend, check_conv,
    check_matmul,
};
use crate::image::checksum;
use crate::image::layout::{BLOCK, Format, TILE_ROWS};

/// Tokens go through a tile row together while it stays in the first cache.
const WIDTH: usize = 4;

/// The portable table.
pub static SCALAR: Kernels = Kernels {
    name: "scalar",
    width: WIDTH,
    fine_width: WIDTH,
    products: [
        |w, x, y| q4(w, x, y, |b, group, t| x.group(b, group, t).map(i32::from)),
        |w, x, y| q8(w, x, y, |b, group, t| x.group(b, group, t).map(i32::from)),
    ],
    fine_products: [
        |w, x, y| q4(w, x, y, |b, group, t| x.group(b, group, t).map(i32::from)),
        |w, x, y| q8(w, x, y, |b, group, t| x.group(b, group, t).map(i32::from)),
    ],
    matmul_f32,
    quantise,
    quantise_fine,
    swiglu,
    rms_norm,
    add_scaled,
    attend,
    conv,
    checksum,
};

/// Q4 weights times activations, four of them by `group(block, group, token)`.
fn q4<const WORDS: usize>(
    w: &[u8],
    x: Quantised<'_, WORDS>,
    y: &mut [f32],
    group: impl Fn(usize, usize, usize) -> [i32; 4],
) {
    matmul(Format::Q4, w, x, y, |quants, block, token| {
        let mut sums = [x.scale_and_offset(block, token).1; TILE_ROWS];
        for (run, lanes) in quants.as_chunks::<64>().0.iter().enumerate() {
            let [low, high] = [0, 1].map(|half| group(block, 2 * run + half, token));
            for (sum, lane) in sums.iter_mut().zip(lanes.as_chunks::<4>().0) {
                for i in 0..4 {
                    *sum += i32::from(lane[i] & 15) * low[i] + i32::from(lane[i] >> 4) * high[i];
                }
            }
        }
        sums
    });
}

/// Q8 weights times activations, four of them by `group(block, group, token)`.
fn q8<const WORDS: usize>(
    w: &[u8],
    x: Quantised<'_, WORDS>,
    y: &mut [f32],
    group: impl Fn(usize, usize, usize) -> [i32; 4],
) {
    matmul(Format::Q8, w, x, y, |quants, block, token| {
        let mut sums = [0; TILE_ROWS];
        for (run, lanes) in quants.as_chunks::<64>().0.iter().enumerate() {
            let group = group(block, run, token);
            for (sum, lane) in sums.iter_mut().zip(lanes.as_chunks::<4>().0) {
                for i in 0..4 {
                    *sum += i32::from(lane[i] as i8) * group[i];
                }
            }
        }
        sums
    });
}

/// The frame of all products; `dot(quants, block, token)` gives the 16 rows' integer sums.
fn matmul<const WORDS: usize>(
    format: Format,
    w: &[u8],
    x: Quantised<'_, WORDS>,
    y: &mut [f32],
    dot: impl Fn(&[u8], usize, usize) -> [i32; TILE_ROWS],
) {
    check_matmul(format, w, x, y, WIDTH);
    let tile_rows = w.chunks_exact(format.tile_row_bytes(x.blocks()));
    for (tile_row, y) in tile_rows.zip(y.chunks_exact_mut(x.width() * TILE_ROWS)) {
        y.fill(0.0);
        for block in 0..x.blocks() {
            let quants = &tile_row[format.quants_at(block)..][..format.quant_bytes()];
            let scales = &tile_row[format.scales_at(block)..][..TILE_ROWS * 2];
            for (token, y) in y.as_chunks_mut::<TILE_ROWS>().0.iter_mut().enumerate() {
                let (a_scale, _) = x.scale_and_offset(block, token);
                let sums = dot(quants, block, token);
                for ((y, sum), scale) in y.iter_mut().zip(sums).zip(scales.as_chunks::<2>().0) {
                    let w_scale = from_f16(u16::from_le_bytes(*scale));
                    *y = fma(sum as f32, w_scale * a_scale, *y);
                }
            }
        }
    }
}

fn matmul_f32(w: &[f32], x: &[f32], y: &mut [f32]) {
    assert_eq!(w.len(), y.len() * x.len());
    let tile_rows = w.chunks_exact(x.len() * TILE_ROWS);
    for (w, y) in tile_rows.zip(y.as_chunks_mut::<TILE_ROWS>().0) {
        let mut sums = [[0.0; TILE_ROWS]; 4];
        for (k, (&x, w)) in x.iter().zip(w.as_chunks::<TILE_ROWS>().0).enumerate() {
            for (sum, &w) in sums[k % 4].iter_mut().zip(w) {
                *sum = fma(w, x, *sum);
            }
        }
        for (r, y) in y.iter_mut().enumerate() {
            *y = (sums[0][r] + sums[1][r]) + (sums[2][r] + sums[3][r]);
        }
    }
}

fn quantise(x: &[f32], width: usize, panel: &mut [i32]) {
    quantise_to::<BLOCK_WORDS>(x, width, panel, 127.0, |words, token, scale, integers| {
        put_block(words, width, token, scale, &integers.map(|q| q as i8));
    });
}

fn quantise_fine(x: &[f32], width: usize, panel: &mut [i32]) {
    quantise_to::<FINE_WORDS>(x, width, panel, 32512.0, |words, token, scale, integers| {
        put_fine_block(words, width, token, scale, &integers.map(|q| q as i16));
    });
}

/// Quantises to integers up to `most`; `put(words, token, scale, integers)` writes a block.
fn quantise_to<const WORDS: usize>(
    x: &[f32],
    width: usize,
    panel: &mut [i32],
    most: f32,
    put: impl Fn(&mut [i32], usize, f32, [f32; BLOCK]),
) {
    assert!(width > 0 && x.len().is_multiple_of(width * BLOCK));
    let cols = x.len() / width;
    assert_eq!(panel.len(), Quantised::<WORDS>::len(width, cols));
    for (block, words) in panel.chunks_exact_mut(width * WORDS).enumerate() {
        for token in 0..width {
            let x = &x[token * cols + block * BLOCK..].as_chunks::<BLOCK>().0[0];
            let largest = x.iter().fold(0.0_f32, |m, x| if x.abs() > m { x.abs() } else { m });
            let scale = largest / most;
            let normal = scale >= f32::MIN_POSITIVE;
            let (scale, inverse) = if normal { (scale, 1.0 / scale) } else { (0.0, 0.0) };
            put(words, token, scale, x.map(|x| round_even(x * inverse)));
        }
    }
}

fn swiglu(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp(-*g)) * u;
    }
}

fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == y.len());
    let mut lanes = [0.0; 16];
    for (i, &x) in x.iter().enumerate() {
        lanes[i % 16] = fma(x, x, lanes[i % 16]);
    }
    let scale = 1.0 / libm::sqrtf(sum16(lanes) / x.len() as f32 + eps);
    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
        *y = x * scale * w;
    }
}

fn add_scaled(y: &mut [f32], x: &[f32], scale: f32) {
    assert_eq!(x.len(), y.len());
    for (y, &x) in y.iter_mut().zip(x) {
        *y = fma(scale, x, *y);
    }
}

fn attend(a: &Attend<'_>, out: &mut [f32]) {
    match &a.kv {
        KeyValues::F16(head) => attend_head(a, head, out),
        KeyValues::Int8(head) => attend_head(a, head, out),
    }
}

fn attend_head<E: Element>(a: &Attend<'_>, head: &Head<'_, E>, out: &mut [f32]) {
    check_attend(a, head, out);
    let exp_or_zero = |x: f32| if x == f32::NEG_INFINITY { 0.0 } else { exp(x) };
    for (query, out) in a.queries.chunks_exact(a.head_dim).zip(out.chunks_exact_mut(a.head_dim)) {
        let mut largest = f32::NEG_INFINITY;
        let mut total = 0.0;
        out.fill(0.0);
        for from in (0..a.len).step_by(KEY_BLOCK) {
            let count = (a.len - from).min(KEY_BLOCK);
            let keys = head.elements.keys(from, KEY_BLOCK);
            let mut scores = [0.0; KEY_BLOCK];
            for (&q, keys) in query.iter().zip(keys.as_chunks::<KEY_BLOCK>().0) {
                for (score, &key) in scores.iter_mut().zip(keys) {
                    *score = fma(q, key.to_f32(), *score);
                }
            }
            if E::SCALED {
                scale(&mut scores, head.scales.keys(from, KEY_BLOCK));
            }
            scores[count..].fill(f32::NEG_INFINITY);
            let new = scores.iter().fold(largest, |m, &s| if s > m { s } else { m });
            let shrink = exp_or_zero(largest - new);
            let mut weights = scores.map(|s| exp_or_zero(s - new));
            largest = new;
            total = fma(total, shrink, sum16(weights));
            out.iter_mut().for_each(|o| *o *= shrink);
            if E::SCALED {
                scale(&mut weights[..count], head.scales.values(from..from + count));
            }
            let values = head.elements.values(from..from + count).chunks_exact(a.head_dim);
            for (&weight, values) in weights[..count].iter().zip(values) {
                for (o, &value) in out.iter_mut().zip(values) {
                    *o = fma(weight, value.to_f32(), *o);
                }
            }
        }
        out.iter_mut().for_each(|o| *o /= total);
    }
}

/// Multiplies each lane by its scale, f16 bits.
fn scale(lanes: &mut [f32], scales: &[u16]) {
    for (lane, &scale) in lanes.iter_mut().zip(scales) {
        *lane *= from_f16(scale);
    }
}

fn conv(c: Conv<'_>) {
    let hidden = check_conv(&c);
    let (b, rest) = c.bcx.split_at(hidden);
    let (gate, x) = rest.split_at(hidden);
    let last = c.taps.len() / hidden - 1;
    for i in 0..hidden {
        let z = b[i] * x[i];
        let mut sum = c.taps[i] * c.state[i];
        for tap in 1..last {
            sum = fma(c.taps[tap * hidden + i], c.state[tap * hidden + i], sum);
            c.state[(tap - 1) * hidden + i] = c.state[tap * hidden + i];
        }
        c.state[(last - 1) * hidden + i] = z;
        c.y[i] = gate[i] * fma(c.taps[last * hidden + i], z, sum);
    }
}
