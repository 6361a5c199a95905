//! Second moments of a matrix's inputs.

use rill::image::layout::TILE_ROWS;

use crate::forward::{Tiles, products};
use crate::threads;

/// `sum of w^2 x x^T` over rows of inputs `x`: (cols, cols), of which the part below the diagonal, and a
/// little more, is filled.
#[derive(Debug)]
pub struct Moments {
    cols: usize,
    sums: Vec<f32>,
    rows: usize,
}

/// Rows whose products are summed before they are added: sums of thousands would lose digits.
const CHUNK: usize = 256;
/// Columns that are computed together.
const TOGETHER: usize = 4;

impl Moments {
    /// Of no rows. `cols` is a multiple of 32.
    pub fn new(cols: usize) -> Self {
        Self { cols, sums: vec![0.0; cols * cols], rows: 0 }
    }

    /// Columns of the inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How many rows were added.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Sum `i`, `j` of those up to the diagonal.
    pub fn at(&self, i: usize, j: usize) -> f64 {
        f64::from(self.sums[i * self.cols + j])
    }

    /// Adds rows (n, cols), each multiplied by its factor.
    pub fn add(&mut self, rows: &[f32], factors: impl Fn(usize) -> f32) {
        let cols = self.cols;
        for (chunk, rows) in rows.chunks(CHUNK * cols).enumerate() {
            let count = rows.len() / cols;
            let mut turned = vec![0.0; cols * count];
            for (row, inputs) in rows.chunks_exact(cols).enumerate() {
                let factor = factors(chunk * CHUNK + row);
                for (col, x) in inputs.iter().enumerate() {
                    turned[col * count + row] = factor * x;
                }
            }
            let mut tiles = Tiles::zeros(cols / TILE_ROWS, count);
            for (col, inputs) in turned.chunks_exact(count).enumerate() {
                tiles.set_row(col, inputs);
            }
            threads::each(&mut self.sums, TOGETHER * cols, |group, sums| {
                let first = group * TOGETHER;
                let row = |i: usize| &turned[(first + i) * count..][..count];
                for tile in 0..=first / TILE_ROWS {
                    let new = products([row(0), row(1), row(2), row(3)], tiles.tile(tile));
                    for (sums, new) in sums.chunks_exact_mut(cols).zip(&new) {
                        let sums = &mut sums[tile * TILE_ROWS..][..TILE_ROWS];
                        sums.iter_mut().zip(new).for_each(|(sum, new)| *sum += new);
                    }
                }
            });
            self.rows += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_weighed_sums_of_products() {
        let (cols, rows) = (64, 300);
        let x = |row: usize, col: usize| ((row * 7 + col * 13) % 19) as f32 / 9.0 - 1.0;
        let factor = |row: usize| if row.is_multiple_of(3) { 0.5 } else { 1.0 };
        let inputs: Vec<f32> = (0..rows * cols).map(|at| x(at / cols, at % cols)).collect();
        let mut moments = Moments::new(cols);
        moments.add(&inputs, factor);
        assert_eq!(moments.rows(), rows);
        for i in 0..cols {
            for j in 0..=i {
                let exact: f64 = (0..rows)
                    .map(|row| {
                        let product = f64::from(x(row, i)) * f64::from(x(row, j));
                        f64::from(factor(row)).powi(2) * product
                    })
                    .sum();
                assert!((moments.at(i, j) - exact).abs() < 1e-3, "{i} {j}");
            }
        }
    }
}
