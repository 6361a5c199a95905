//! The gated short convolution: `out_proj(C * conv(B * x))` with `B, C, x = in_proj(h)`.

use super::product::{Activations, Cores, Grain, Write, project};
use super::scratch::Scratch;
use super::state::ConvState;
use super::weights::ConvWeights;
use crate::kernels::Conv;

/// Adds the convolution of `scratch.normed`, `tokens` rows, to `scratch.x`: for the last `wanted`
/// tokens, whose rows are the first there.
pub fn forward(
    cores: Cores<'_>,
    w: &ConvWeights<'_>,
    tokens: usize,
    wanted: usize,
    scratch: &mut Scratch<'_>,
    state: &mut ConvState<'_>,
) {
    let hidden = w.out_proj.shape.rows;
    let grain = Grain::Plain;
    let width = grain.width(cores.kernels);
    let bcx = &mut scratch.wide[..tokens * 3 * hidden];
    let normed = &scratch.normed[..tokens * hidden];
    let x = Activations::quantise(cores, normed, hidden, width, grain, scratch.quants);
    project(cores, w.in_proj, x, Write::Store, bcx);

    let inner = &mut scratch.inner[..tokens * hidden];
    let state = state.layer(w.index);
    for (bcx, y) in bcx.chunks_exact(3 * hidden).zip(inner.chunks_exact_mut(hidden)) {
        (cores.kernels.conv)(Conv { bcx, taps: w.taps, state, y });
    }

    let grain = Grain::Fine;
    let width = grain.width(cores.kernels);
    let inner = &inner[(tokens - wanted) * hidden..];
    let x = Activations::quantise(cores, inner, hidden, width, grain, scratch.quants);
    project(cores, w.out_proj, x, Write::Add, &mut scratch.x[..wanted * hidden]);
}
