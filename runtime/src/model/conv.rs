//! The gated short convolution: `out_proj(C * conv(B * x))` with `B, C, x = in_proj(h)`.

use super::batch::{Rows, Run};
use super::product::{Activations, Cores, Grain, Write, project};
use super::scratch::Scratch;
use super::weights::ConvWeights;
use crate::kernels::Conv;

/// Adds the convolution of `scratch.normed`, all rows of the batch, to `scratch.x`: for the rows that
/// go on, which are the picked ones after `last`, the last layer, and are the first there.
pub fn forward(
    cores: Cores<'_>,
    w: &ConvWeights<'_>,
    runs: &[Run<'_, '_>],
    rows: &mut Rows<'_>,
    last: bool,
    scratch: &mut Scratch<'_>,
) {
    let hidden = w.out_proj.shape.rows;
    let count = rows.count();
    let grain = Grain::Plain;
    let width = grain.width(cores.kernels);
    let bcx = &mut scratch.wide[..count * 3 * hidden];
    let normed = &scratch.normed[..count * hidden];
    let x = Activations::quantise(cores, normed, hidden, width, grain, scratch.quants);
    project(cores, w.in_proj, x, Write::Store, bcx);

    let inner = &mut scratch.inner[..count * hidden];
    let state = &mut scratch.window[..w.taps.len() - hidden];
    let newest = state.len() - hidden;
    let mut both = bcx.chunks_exact(3 * hidden).zip(inner.chunks_exact_mut(hidden));
    for (number, run) in runs.iter().enumerate() {
        run.memory.window(w.index, state);
        for (position, (bcx, y)) in (run.memory.len()..).zip(both.by_ref().take(run.tokens.len())) {
            (cores.kernels.conv)(Conv { bcx, taps: w.taps, state, y });
            rows.stage(number, w.index, position, &state[newest..]);
        }
    }

    let mut through = count;
    if last {
        rows.pick(inner, hidden);
        through = rows.picked().len();
    }
    let grain = Grain::Fine;
    let width = grain.width(cores.kernels);
    let inner = &inner[..through * hidden];
    let x = Activations::quantise(cores, inner, hidden, width, grain, scratch.quants);
    project(cores, w.out_proj, x, Write::Add, &mut scratch.x[..through * hidden]);
}
