//! Products of a batch of activations with a weight matrix, split over the cores by rows.
//!
//! Every result is one kernel sum over all columns, whatever the split and the batch: see
//! [`crate::kernels`].

use core::ops::Range;

use super::weights::Matrix;
use crate::image::layout::{BLOCK, TILE_ROWS};
use crate::kernels::{BLOCK_WORDS, Kernels, MAX_WIDTH, Panel, panel};
use crate::seams::{Parallel, Shared};

/// Outputs of a SwiGLU that are computed together: they make one block of the next activations.
pub const UNIT: usize = BLOCK;
/// Tile rows behind one unit: gate and up of 32 rows.
pub const UNIT_TILE_ROWS: usize = 2 * UNIT / TILE_ROWS;
/// Most tile rows that are computed at once.
const GROUP: usize = 4;
/// Weights that are worth handing to another core.
const PART_BYTES: usize = 64 << 10;

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

/// Words of quantised activations for `tokens` tokens of `cols` columns.
pub const fn activation_words(tokens: usize, cols: usize) -> usize {
    Panel::len(tokens, cols)
}

/// Quantised activations of a batch: panels, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Activations<'x> {
    words: &'x [i32],
    tiling: Tiling,
    blocks: usize,
}

impl<'x> Activations<'x> {
    /// Takes the first words of `words` as panels of `cols` columns.
    pub fn new(words: &'x [i32], tiling: Tiling, cols: usize) -> Self {
        let words = &words[..activation_words(tiling.tokens, cols)];
        Self { words, tiling, blocks: cols / BLOCK }
    }

    /// Quantises `x`, rows of `cols` values, into `words`, in panels of at most `width` tokens.
    pub fn quantise(
        cores: Cores<'_>,
        x: &[f32],
        cols: usize,
        width: usize,
        words: &'x mut [i32],
    ) -> Self {
        let tiling = Tiling::new(x.len() / cols, width);
        let shared = Shared::new(words);
        cores.parallel.run(tiling.panels(), &|index| {
            let tokens = tiling.tokens(index);
            let x = &x[tokens.start * cols..tokens.end * cols];
            let at = panel_words(&tokens, cols / BLOCK);
            // SAFETY: panels do not overlap, and each index is run once.
            let panel = unsafe { shared.part(at.start, at.len()) };
            (cores.kernels.quantise)(x, tokens.len(), panel);
        });
        Self::new(words, tiling, cols)
    }

    /// Gathers some `rows`, activations in panels of width 1, into `words`, in panels of at most
    /// `width` tokens.
    pub fn gather(rows: &Self, tokens: &[u32], width: usize, words: &'x mut [i32]) -> Self {
        let tiling = Tiling::new(tokens.len(), width);
        for index in 0..tiling.panels() {
            let range = tiling.tokens(index);
            let panel = &mut words[panel_words(&range, rows.blocks)];
            panel::gather(rows.words, rows.blocks, &tokens[range], panel);
        }
        Self::new(words, tiling, rows.blocks * BLOCK)
    }

    /// The one row of token `token`, of activations in panels of width 1.
    pub fn row(&self, token: usize) -> Self {
        let words = &self.words[panel_words(&(token..token + 1), self.blocks)];
        Self { words, tiling: Tiling::new(1, 1), blocks: self.blocks }
    }

    /// Panel `index`.
    pub fn panel(&self, index: usize) -> Panel<'x> {
        let tokens = self.tiling.tokens(index);
        Panel::new(&self.words[panel_words(&tokens, self.blocks)], tokens.len())
    }

    /// How the batch is divided.
    pub const fn tiling(&self) -> Tiling {
        self.tiling
    }
}

/// Where the words of the panel with these tokens are.
const fn panel_words(tokens: &Range<usize>, blocks: usize) -> Range<usize> {
    let row = blocks * BLOCK_WORDS;
    tokens.start * row..tokens.end * row
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
pub struct Rows<'o, 's> {
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
    let rows = Rows { out: &out, index: None, write };
    run_split(cores.parallel, tile_rows, GROUP, bytes, &|part| {
        // SAFETY: the parts of a split do not overlap, and each is run once.
        unsafe { project_tile_rows(cores.kernels, w, x, part, &rows) };
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
/// No other core touches the columns of these tile rows in `rows` meanwhile.
pub unsafe fn project_tile_rows(
    kernels: &Kernels,
    w: Matrix<'_>,
    x: Activations<'_>,
    tile_rows: Range<usize>,
    rows: &Rows<'_, '_>,
) {
    let row_bytes = w.shape.format.tile_row_bytes(w.shape.blocks());
    let mut y = [0.0; GROUP * MAX_WIDTH * TILE_ROWS];
    for first in tile_rows.clone().step_by(GROUP) {
        let last = (first + GROUP).min(tile_rows.end);
        let weights = &w.bytes[first * row_bytes..last * row_bytes];
        for index in 0..x.tiling.panels() {
            let tokens = x.tiling.tokens(index);
            let y = &mut y[..(last - first) * tokens.len() * TILE_ROWS];
            kernels.matmul(w.shape.format, weights, x.panel(index), y);
            let mut results = y.as_chunks::<TILE_ROWS>().0.iter();
            for column in (first..last).map(|tile_row| tile_row * TILE_ROWS) {
                let len = TILE_ROWS.min(w.shape.rows - column);
                for (token, y) in tokens.clone().zip(&mut results) {
                    let row = rows.index.map_or(token, |index| index[token] as usize);
                    // SAFETY: the caller promises these columns to this core alone.
                    let out = unsafe { rows.out.part(row * w.shape.rows + column, len) };
                    match rows.write {
                        Write::Store => out.copy_from_slice(&y[..len]),
                        Write::Add => out.iter_mut().zip(y).for_each(|(out, y)| *out += y),
                    }
                }
            }
        }
    }
}

/// `h = quantised(silu(gate x) * (up x))`: panels like those of `x`, half as wide as `w` has rows.
pub fn gate_up<'h>(
    cores: Cores<'_>,
    w: Matrix<'_>,
    x: Activations<'_>,
    words: &'h mut [i32],
) -> Activations<'h> {
    let cols = w.shape.rows / 2;
    let bytes = w.shape.format.tile_row_bytes(w.shape.blocks()) * UNIT_TILE_ROWS;
    let shared = Shared::new(words);
    run_split(cores.parallel, cols / UNIT, 1, bytes, &|part| {
        // SAFETY: the parts of a split do not overlap, and each is run once.
        unsafe { gate_up_units(cores.kernels, w, x, part, &shared, 0) };
    });
    Activations::new(words, x.tiling, cols)
}

/// Computes some units (of 32 outputs) of a SwiGLU for the whole batch, into the panels that start
/// at `words_from`.
///
/// # Safety
/// No other core touches these units' blocks in `words` meanwhile.
pub unsafe fn gate_up_units(
    kernels: &Kernels,
    w: Matrix<'_>,
    x: Activations<'_>,
    units: Range<usize>,
    words: &Shared<'_, i32>,
    words_from: usize,
) {
    const HALF: usize = MAX_WIDTH * UNIT;
    let unit_bytes = w.shape.format.tile_row_bytes(w.shape.blocks()) * UNIT_TILE_ROWS;
    let blocks = w.shape.rows / 2 / UNIT;
    let mut y = [0.0; 2 * HALF];
    let [mut gate, mut up] = [[0.0; HALF]; 2];
    for unit in units {
        let weights = &w.bytes[unit * unit_bytes..(unit + 1) * unit_bytes];
        for index in 0..x.tiling.panels() {
            let tokens = x.tiling.tokens(index);
            let width = tokens.len();
            let y = &mut y[..UNIT_TILE_ROWS * width * TILE_ROWS];
            kernels.matmul(w.shape.format, weights, x.panel(index), y);
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
            let from = words_from + panel_words(&tokens, blocks).start + unit * width * BLOCK_WORDS;
            // SAFETY: the caller promises this unit's blocks to this core alone.
            let block = unsafe { words.part(from, width * BLOCK_WORDS) };
            (kernels.quantise)(gate, width, block);
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
