//! Products with matrices of f32. Every sum runs over the columns in order, so that its value depends on
//! no thread, no chunk and no CPU.

use half::f16;
use rill::image::layout::{BLOCK, MatrixShape, TILE_ROWS, get_block};

use crate::threads;

/// A column of a tile row.
pub type Lanes = [f32; TILE_ROWS];

/// A matrix in tile rows of 16: `[tile row][column][16]`. Rows that do not fill the last one are 0.
#[derive(Debug, Clone)]
pub struct Tiles {
    cols: usize,
    lanes: Vec<Lanes>,
}

/// Rows of inputs that go through a tile together.
const TOGETHER: usize = 4;
/// Most rows of inputs that a thread takes at a time; fewer where some threads would have none.
const CHUNK: usize = 64;

impl Tiles {
    /// A matrix of zeros.
    pub fn zeros(tile_rows: usize, cols: usize) -> Self {
        Self { cols, lanes: vec![[0.0; TILE_ROWS]; tile_rows * cols] }
    }

    /// The values of a matrix of an image, or of some of its tile rows.
    pub fn packed(shape: MatrixShape, bytes: &[u8]) -> Self {
        let width = shape.format.tile_row_bytes(shape.blocks());
        let mut tiles = Self::zeros(bytes.len() / width, shape.cols);
        threads::each(&mut tiles.lanes, shape.cols, |tile, lanes| {
            let bytes = &bytes[tile * width..][..width];
            for row in 0..TILE_ROWS {
                for block in 0..shape.blocks() {
                    let (quants, scale) = get_block(shape.format, bytes, row, block);
                    let scale = f16::from_bits(scale).to_f32();
                    for (lanes, q) in lanes[block * BLOCK..].iter_mut().zip(quants) {
                        lanes[row] = scale * f32::from(q);
                    }
                }
            }
        });
        tiles
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Rows, those of a padded last tile row included.
    pub fn rows(&self) -> usize {
        self.lanes.len() / self.cols * TILE_ROWS
    }

    /// A tile row, column by column.
    pub fn tile(&self, tile_row: usize) -> &[Lanes] {
        &self.lanes[tile_row * self.cols..][..self.cols]
    }

    /// Writes a row into `out`.
    pub fn get_row(&self, row: usize, out: &mut [f32]) {
        for (out, lanes) in out.iter_mut().zip(self.tile(row / TILE_ROWS)) {
            *out = lanes[row % TILE_ROWS];
        }
    }

    /// Sets a row.
    pub fn set_row(&mut self, row: usize, weights: &[f32]) {
        let tile = &mut self.lanes[row / TILE_ROWS * self.cols..][..self.cols];
        for (lanes, &weight) in tile.iter_mut().zip(weights) {
            lanes[row % TILE_ROWS] = weight;
        }
    }

    /// The product with each row of `inputs` (n, cols): (n, rows), padding included.
    pub fn apply(&self, inputs: &[f32]) -> Vec<f32> {
        let (rows, count) = (self.rows(), inputs.len() / self.cols);
        let mut out = vec![0.0; count * rows];
        let each = count.div_ceil(threads::count()).next_multiple_of(TOGETHER);
        let each = each.clamp(TOGETHER, CHUNK);
        threads::each(&mut out, each * rows, |chunk, out| {
            let inputs = &inputs[chunk * each * self.cols..];
            for tile_row in 0..rows / TILE_ROWS {
                let tile = self.tile(tile_row);
                let at = tile_row * TILE_ROWS;
                for (index, out) in out.chunks_mut(TOGETHER * rows).enumerate() {
                    let inputs = &inputs[index * TOGETHER * self.cols..];
                    let count = out.len() / rows;
                    // A group that is not full computes its last row several times.
                    let row = |i: usize| &inputs[i.min(count - 1) * self.cols..][..self.cols];
                    let sums = products([row(0), row(1), row(2), row(3)], tile);
                    for (out, sums) in out.chunks_exact_mut(rows).zip(&sums) {
                        out[at..at + TILE_ROWS].copy_from_slice(sums);
                    }
                }
            }
        });
        out
    }
}

/// The products of rows with the columns of a tile row: `sum over k of rows[i][k] * tile[k]`.
pub fn products(rows: [&[f32]; TOGETHER], tile: &[Lanes]) -> [Lanes; TOGETHER] {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { products_avx2(rows, tile) };
    }
    products_here(rows, tile)
}

/// The same instructions twice as wide: products and sums of f32 are rounded alike at any width.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn products_avx2(rows: [&[f32]; TOGETHER], tile: &[Lanes]) -> [Lanes; TOGETHER] {
    products_here(rows, tile)
}

#[inline(always)]
fn products_here(rows: [&[f32]; TOGETHER], tile: &[Lanes]) -> [Lanes; TOGETHER] {
    let rows = rows.map(|row| &row[..tile.len()]);
    let mut sums = [[0.0; TILE_ROWS]; TOGETHER];
    for (k, lanes) in tile.iter().enumerate() {
        for (sums, row) in sums.iter_mut().zip(&rows) {
            let x = row[k];
            for (sum, lane) in sums.iter_mut().zip(lanes) {
                *sum += x * lane;
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_the_sum_in_column_order() {
        let (rows, cols) = (37, 64);
        let weight = |r: usize, c: usize| ((r * 31 + c * 17) % 23) as f32 / 7.0 - 1.5;
        let mut tiles = Tiles::zeros(3, cols);
        for row in 0..rows {
            let weights: Vec<f32> = (0..cols).map(|col| weight(row, col)).collect();
            tiles.set_row(row, &weights);
            let mut back = vec![0.0; cols];
            tiles.get_row(row, &mut back);
            assert_eq!(back, weights);
        }
        for count in [1, 3, 4, 70] {
            let inputs: Vec<f32> = (0..count * cols).map(|i| (i % 13) as f32 * 0.3 - 2.0).collect();
            let out = tiles.apply(&inputs);
            for (input, out) in inputs.chunks(cols).zip(out.chunks(48)) {
                for (row, &sum) in out[..rows].iter().enumerate() {
                    let columns = input.iter().enumerate();
                    let expected = columns.fold(0.0, |sum, (c, x)| sum + x * weight(row, c));
                    assert_eq!(sum, expected);
                }
                assert!(out[rows..].iter().all(|&x| x == 0.0));
            }
        }
    }
}
