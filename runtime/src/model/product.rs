//! Products of a batch of activations with a weight matrix, split over the cores by rows.
//!
//! Every result is one kernel sum over all columns, whatever the split and the batch: see
//! [`crate::kernels`].

use core::ops::Range;

use crate::image::layout::{BLOCK, Format, TILE_ROWS};
use crate::kernels::{BLOCK_WORDS, FinePanel, Kernels, MAX_WIDTH, Matrix, Panel, Quantised, panel};
use crate::seams::{Parallel, Shared};

/// Outputs of a SwiGLU that are computed together: they make one block of the next activations.
pub const UNIT: usize = BLOCK;
/// Tile rows behind one unit: gate and up of 32 rows.
pub const UNIT_TILE_ROWS: usize = 2 * UNIT / TILE_ROWS;
/// Most tile rows that are computed at once.
pub const GROUP: usize = 4;
/// Weights that are worth handing to another core: many times what a kernel fetches ahead, which
/// at the end of a part is another core's.
const PART_BYTES: usize = 128 << 10;

/// How a batch of tokens is divided into panels of nearly equal width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    tokens: usize,
    panels: usize,
}

impl Tiling {
    /// The fewest panels of at most `width` tokens.
    pub const fn new(tokens: usize, width: usize) -> Self {
        Self { tokens, panels: tokens.div_ceil(width) }
    }

    /// How many panels.
    pub const fn panels(&self) -> usize {
        self.panels
    }

    /// The tokens of panel `index`.
    pub const fn tokens(&self, index: usize) -> Range<usize> {
        self.tokens * index / self.panels..self.tokens * (index + 1) / self.panels
    }
}

/// How closely activations are quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    /// To integers of 8 bits.
    Plain,
    /// To integers of 16 bits. For what a convolution gives out, products whose outliers spoil a
    /// block, and for dense SwiGLUs, whose errors all routers see.
    ///
    /// On the kiosk model (Q4_0 weights, median relative error of the logits against the same
    /// weights in float, geometric mean over the reference cases) every activation in 8 bits gives
    /// 0.0086, these finer 0.0059, all dense layers finer 0.0051; rounding the weights to Q4_0
    /// gives 0.064. The routers of the int8 model choose as the reference 3580, 3705 and 3699
    /// times of 3816.
    Fine,
}

impl Grain {
    /// Words of quantised activations for `tokens` tokens of `cols` columns.
    pub const fn words(self, tokens: usize, cols: usize) -> usize {
        match self {
            Self::Plain => Panel::len(tokens, cols),
            Self::Fine => FinePanel::len(tokens, cols),
        }
    }

    /// Most tokens of a panel.
    pub const fn width(self, kernels: &Kernels) -> usize {
        match self {
            Self::Plain => kernels.width,
            Self::Fine => kernels.fine_width,
        }
    }

    /// Quantises rows of equal length into a panel.
    fn quantise(self, kernels: &Kernels, x: &[f32], width: usize, panel: &mut [i32]) {
        match self {
            Self::Plain => (kernels.quantise)(x, width, panel),
            Self::Fine => (kernels.quantise_fine)(x, width, panel),
        }
    }
}

/// Quantised activations of a batch: panels, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Activations<'x> {
    words: &'x [i32],
    tiling: Tiling,
    blocks: usize,
    grain: Grain,
}

impl<'x> Activations<'x> {
    /// Takes the first words of `words` as panels of `cols` columns.
    pub fn new(words: &'x [i32], tiling: Tiling, cols: usize, grain: Grain) -> Self {
        let words = &words[..grain.words(tiling.tokens, cols)];
        Self { words, tiling, blocks: cols / BLOCK, grain }
    }

    /// Quantises `x`, rows of `cols` values, into `words`, in panels of at most `width` rows.
    pub fn quantise(
        cores: Cores<'_>,
        x: &[f32],
        cols: usize,
        width: usize,
        grain: Grain,
        words: &'x mut [i32],
    ) -> Self {
        let tiling = Tiling::new(x.len() / cols, width);
        let shared = Shared::new(words);
        let body = |index| {
            let tokens: Range<usize> = tiling.tokens(index);
            let rows = &x[tokens.start * cols..tokens.end * cols];
            let at = grain.words(tokens.start, cols);
            // SAFETY: panels do not overlap, and each index is run once.
            let panel = unsafe { shared.part(at, grain.words(tokens.len(), cols)) };
            grain.quantise(cores.kernels, rows, tokens.len(), panel);
        };
        if tiling.panels() == 1 {
            // Not worth waking anybody.
            body(0);
        } else {
            cores.parallel.run(tiling.panels(), &body);
        }
        Self::new(words, tiling, cols, grain)
    }

    /// Gathers some `rows`, activations in panels of width 1, into `words`, in panels of at most
    /// `width` tokens.
    pub fn gather(rows: &Self, tokens: &[u32], width: usize, words: &'x mut [i32]) -> Self {
        let tiling = Tiling::new(tokens.len(), width);
        for index in 0..tiling.panels() {
            let range = tiling.tokens(index);
            let [start, len] = [range.start, range.len()].map(|n| n * rows.blocks * BLOCK_WORDS);
            let panel = &mut words[start..][..len];
            panel::gather(rows.words, rows.blocks, &tokens[range], panel);
        }
        Self::new(words, tiling, rows.blocks * BLOCK, Grain::Plain)
    }

    /// The one row of token `token`, of activations in panels of width 1.
    pub fn row(&self, token: usize) -> Self {
        Self { words: self.words(&(token..token + 1)), tiling: Tiling::new(1, 1), ..*self }
    }

    /// Panel `index` times whole tile rows of weights; `y` is (tile rows, tokens, 16).
    fn matmul(&self, kernels: &Kernels, format: Format, w: &[u8], index: usize, y: &mut [f32]) {
        let tokens = self.tiling.tokens(index);
        let words = self.words(&tokens);
        match self.grain {
            Grain::Plain => kernels.matmul(format, w, Quantised::new(words, tokens.len()), y),
            Grain::Fine => kernels.matmul_fine(format, w, Quantised::new(words, tokens.len()), y),
        }
    }

    /// The words of the panel with these tokens.
    fn words(&self, tokens: &Range<usize>) -> &'x [i32] {
        let cols = self.blocks * BLOCK;
        &self.words[self.grain.words(tokens.start, cols)..self.grain.words(tokens.end, cols)]
    }
}

/// Who computes, and how.
#[derive(Clone, Copy)]
pub struct Cores<'c> {
    /// The table.
    pub kernels: &'c Kernels,
    /// The cores.
    pub parallel: &'c dyn Parallel,
}

/// What to do with a product's results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Overwrite.
    Store,
    /// Add: the residual stream.
    Add,
}

/// Where the rows of a product go: rows as long as the matrix has rows.
pub struct Output<'o, 's> {
    /// All rows.
    pub out: &'o Shared<'s, f32>,
    /// The row for each token of the batch; `None` for token `t` to row `t`.
    pub index: Option<&'o [u32]>,
    /// Overwrite or add.
    pub write: Write,
}

/// `out[t, r] (+)= sum_k w[r, k] x[t, k]`; rows of `out` are `w.shape.rows` long.
pub fn project(cores: Cores<'_>, w: Matrix<'_>, x: Activations<'_>, write: Write, out: &mut [f32]) {
    let tile_rows = w.shape.tile_rows();
    let bytes = w.shape.format.tile_row_bytes(w.shape.blocks());
    let out = Shared::new(out);
    let output = Output { out: &out, index: None, write };
    run_split(cores.parallel, tile_rows, GROUP, bytes, &|part| {
        // SAFETY: the parts of a split do not overlap, and each is run once.
        unsafe { project_tile_rows(cores.kernels, w, x, part, &output) };
    });
}

/// Splits `0..count` into parts worth handing over, whole multiples of `group` where possible,
/// and runs them on all cores. `bytes` are the weights behind each of the `count`.
pub fn run_split(
    parallel: &dyn Parallel,
    count: usize,
    group: usize,
    bytes: usize,
    body: &(dyn Fn(Range<usize>) + Sync),
) {
    let part = part_len(parallel, count, group, bytes);
    parallel.run(count.div_ceil(part), &|index| {
        body(index * part..((index + 1) * part).min(count));
    });
}

/// How many of `count` pieces with `bytes` of weights each make a part.
pub fn part_len(parallel: &dyn Parallel, count: usize, group: usize, bytes: usize) -> usize {
    if parallel.width() == 1 {
        return count;
    }
    PART_BYTES.div_ceil(bytes).next_multiple_of(group).min(count).max(1)
}

/// Computes some tile rows for the whole batch.
///
/// # Safety
/// No other core touches the columns of these tile rows in `output` meanwhile.
pub unsafe fn project_tile_rows(
    kernels: &Kernels,
    w: Matrix<'_>,
    x: Activations<'_>,
    tile_rows: Range<usize>,
    output: &Output<'_, '_>,
) {
    let row_bytes = w.shape.format.tile_row_bytes(w.shape.blocks());
    let mut y = [0.0; GROUP * MAX_WIDTH * TILE_ROWS];
    for first in tile_rows.clone().step_by(GROUP) {
        let last = (first + GROUP).min(tile_rows.end);
        let weights = &w.bytes[first * row_bytes..last * row_bytes];
        for index in 0..x.tiling.panels() {
            let tokens = x.tiling.tokens(index);
            let y = &mut y[..(last - first) * tokens.len() * TILE_ROWS];
            x.matmul(kernels, w.shape.format, weights, index, y);
            for (tile_row, y) in (first..last).zip(y.chunks_exact_mut(tokens.len() * TILE_ROWS)) {
                let column = tile_row * TILE_ROWS;
                let len = TILE_ROWS.min(w.shape.rows - column);
                for (token, y) in tokens.clone().zip(y.as_chunks::<TILE_ROWS>().0) {
                    let row = output.index.map_or(token, |index| index[token] as usize);
                    // SAFETY: the caller promises these columns to this core alone.
                    let out = unsafe { output.out.part(row * w.shape.rows + column, len) };
                    match output.write {
                        Write::Store => out.copy_from_slice(&y[..len]),
                        Write::Add => out.iter_mut().zip(y).for_each(|(out, y)| *out += *y),
                    }
                }
            }
        }
    }
}

/// `h = quantised(silu(gate x) * (up x))`: panels of the same tokens as those of `x`, half as wide
/// as `w` has rows.
pub fn gate_up<'h>(
    cores: Cores<'_>,
    w: Matrix<'_>,
    x: Activations<'_>,
    grain: Grain,
    words: &'h mut [i32],
) -> Activations<'h> {
    let cols = w.shape.rows / 2;
    let bytes = w.shape.format.tile_row_bytes(w.shape.blocks()) * UNIT_TILE_ROWS;
    let shared = Shared::new(words);
    let middle = Middle { words: &shared, from: 0, grain };
    run_split(cores.parallel, cols / UNIT, 1, bytes, &|part| {
        // SAFETY: the parts of a split do not overlap, and each is run once.
        unsafe { gate_up_units(cores.kernels, w, x, part, &middle) };
    });
    Activations::new(words, x.tiling, cols, grain)
}

/// Where the panels between gate-up and down go.
pub struct Middle<'o, 's> {
    /// All panels of the layer.
    pub words: &'o Shared<'s, i32>,
    /// Where those of this batch start.
    pub from: usize,
    /// How closely they are quantised.
    pub grain: Grain,
}

/// Computes some units (of 32 outputs) of a SwiGLU for the whole batch.
///
/// # Safety
/// No other core touches these units' blocks in `middle` meanwhile.
pub unsafe fn gate_up_units(
    kernels: &Kernels,
    w: Matrix<'_>,
    x: Activations<'_>,
    units: Range<usize>,
    middle: &Middle<'_, '_>,
) {
    const HALF: usize = MAX_WIDTH * UNIT;
    let unit_bytes = w.shape.format.tile_row_bytes(w.shape.blocks()) * UNIT_TILE_ROWS;
    let cols = w.shape.rows / 2;
    let mut y = [0.0; 2 * HALF];
    let [mut gate, mut up] = [[0.0; HALF]; 2];
    for unit in units {
        let weights = &w.bytes[unit * unit_bytes..(unit + 1) * unit_bytes];
        for index in 0..x.tiling.panels() {
            let tokens = x.tiling.tokens(index);
            let width = tokens.len();
            let y = &mut y[..UNIT_TILE_ROWS * width * TILE_ROWS];
            x.matmul(kernels, w.shape.format, weights, index, y);
            // (gate, up, gate, up) x (width, 16) to two of (width, 32).
            for (tile_row, y) in y.chunks_exact(width * TILE_ROWS).enumerate() {
                let to = if tile_row % 2 == 0 { &mut gate } else { &mut up };
                let half = tile_row / 2 * TILE_ROWS;
                for (token, y) in y.as_chunks::<TILE_ROWS>().0.iter().enumerate() {
                    to[token * UNIT + half..][..TILE_ROWS].copy_from_slice(y);
                }
            }
            let gate = &mut gate[..width * UNIT];
            (kernels.swiglu)(gate, &up[..width * UNIT]);
            // The panel of these tokens, and in it the block that is this unit.
            let len = middle.grain.words(width, UNIT);
            let panel = middle.from + middle.grain.words(tokens.start, cols);
            // SAFETY: the caller promises this unit's blocks to this core alone.
            let block = unsafe { middle.words.part(panel + unit * len, len) };
            middle.grain.quantise(kernels, gate, width, block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tilings_cover_the_batch_once_with_panels_of_nearly_equal_width() {
        for tokens in 1..100 {
            for width in 1..=MAX_WIDTH {
                let tiling = Tiling::new(tokens, width);
                let mut next = 0;
                for index in 0..tiling.panels() {
                    let range = tiling.tokens(index);
                    assert_eq!(range.start, next);
                    assert!((1..=width).contains(&range.len()));
                    assert!(range.len().abs_diff(tokens / tiling.panels()) <= 1);
                    next = range.end;
                }
                assert_eq!(next, tokens);
            }
        }
    }
}
