//! Grouped-query attention with normed and rotated queries and keys.

use super::batch::{Rows, Run};
use super::kv::KvPool;
use super::product::{Activations, Cores, Grain, Write, project};
use super::scratch::Scratch;
use super::weights::AttentionWeights;
use crate::image::Shape;
use crate::kernels::Attend;
use crate::seams::for_each_chunk;

/// Fills `rotation` with cosine and sine of the angles of the position of every row: for each
/// `head_dim / 2` cosines, then as many sines.
///
/// Angle `i` is `position * theta^(-2 i / head_dim)`, in f32 as in the reference implementation
/// (Hugging Face transformers, `LlamaRotaryEmbedding`).
pub fn rotations(shape: &Shape, rows: &Rows<'_>, rotation: &mut [f32]) {
    let head_dim = shape.head_dim as usize;
    let half = head_dim / 2;
    for (row, angles) in rotation.chunks_exact_mut(head_dim).take(rows.count()).enumerate() {
        let (cosines, sines) = angles.split_at_mut(half);
        for i in 0..half {
            let exponent = (2 * i) as f32 / head_dim as f32;
            let frequency = 1.0 / libm::powf(shape.rope_theta, exponent);
            let angle = rows.position(row) as f32 * frequency;
            cosines[i] = libm::cosf(angle);
            sines[i] = libm::sinf(angle);
        }
    }
}

/// Adds the attention of `scratch.normed`, all rows of the batch, to `scratch.x`: for the rows that
/// go on, which are the picked ones after `last`, the last layer, and are the first there.
#[expect(clippy::too_many_arguments, reason = "what a layer computes with, each once")]
pub fn forward(
    cores: Cores<'_>,
    shape: &Shape,
    w: &AttentionWeights<'_>,
    runs: &[Run<'_, '_>],
    rows: &Rows<'_>,
    last: bool,
    scratch: &mut Scratch<'_>,
    kv: &mut KvPool<'_>,
) {
    let [hidden, heads, kv_heads, head_dim] =
        [shape.hidden, shape.heads, shape.kv_heads, shape.head_dim].map(|x| x as usize);
    let count = rows.count();
    let (q_dim, kv_dim) = (heads * head_dim, kv_heads * head_dim);
    let grain = Grain::Plain;
    let width = grain.width(cores.kernels);
    let qkv = &mut scratch.wide[..count * (q_dim + 2 * kv_dim)];
    let normed = &scratch.normed[..count * hidden];
    let x = Activations::quantise(cores, normed, hidden, width, grain, scratch.quants);
    project(cores, w.qkv, x, Write::Store, qkv);

    let rotation = &*scratch.rotation;
    let scale = 1.0 / libm::sqrtf(head_dim as f32);
    for_each_chunk(cores.parallel, qkv, q_dim + 2 * kv_dim, |t, row| {
        let angles = &rotation[t * head_dim..][..head_dim];
        let (q, rest) = row.split_at_mut(q_dim);
        for q in q.chunks_exact_mut(head_dim) {
            norm_and_rotate(cores, q, w.q_norm, shape.norm_eps, angles);
            q.iter_mut().for_each(|q| *q *= scale);
        }
        for k in rest[..kv_dim].chunks_exact_mut(head_dim) {
            norm_and_rotate(cores, k, w.k_norm, shape.norm_eps, angles);
        }
    });
    for (t, row) in qkv.chunks_exact(q_dim + 2 * kv_dim).enumerate() {
        let (key, value) = row[q_dim..].split_at(kv_dim);
        let table = runs[rows.run(t)].memory.table();
        kv.put(table, w.index, rows.position(t), key, value);
    }

    let through = if last { rows.picked().len() } else { count };
    let inner = &mut scratch.inner[..through * q_dim];
    let (qkv, kv) = (&*qkv, &*kv);
    let group = q_dim / kv_heads;
    for_each_chunk(cores.parallel, inner, group, |part, out| {
        let (index, head) = (part / kv_heads, part % kv_heads);
        let t = if last { rows.picked()[index] as usize } else { index };
        let row = &qkv[t * (q_dim + 2 * kv_dim)..];
        let queries = &row[head * group..][..group];
        let kv = kv.head(runs[rows.run(t)].memory.table(), w.index, head);
        let attend = Attend { queries, kv, head_dim, len: rows.position(t) + 1 };
        (cores.kernels.attend)(&attend, out);
    });

    let x = Activations::quantise(cores, inner, q_dim, width, grain, scratch.quants);
    project(cores, w.out_proj, x, Write::Add, &mut scratch.x[..through * hidden]);
}

/// RMS norm of one head, then rotation by halves: `(a, b)` to `(a cos - b sin, b cos + a sin)`.
fn norm_and_rotate(cores: Cores<'_>, head: &mut [f32], norm: &[f32], eps: f32, angles: &[f32]) {
    let mut normed = [0.0; 256];
    let normed = &mut normed[..head.len()];
    (cores.kernels.rms_norm)(head, norm, eps, normed);
    let half = head.len() / 2;
    let (cosines, sines) = angles.split_at(half);
    for i in 0..half {
        let (a, b) = (normed[i], normed[i + half]);
        head[i] = a * cosines[i] - b * sines[i];
        head[i + half] = b * cosines[i] + a * sines[i];
    }
}
