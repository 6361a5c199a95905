//! A matrix of weights in RAM.

use super::math::from_f16;
use crate::image::layout::{BLOCK, MatrixShape, TILE_ROWS, get_block};

/// A quantised matrix in RAM.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// Its shape.
    pub shape: MatrixShape,
    /// Tile rows, see [`crate::image::layout`].
    pub bytes: &'a [u8],
}

impl Matrix<'_> {
    /// Writes row `row`, dequantised, into `out` (cols,).
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let bytes = self.shape.format.tile_row_bytes(self.shape.blocks());
        let tile_row = &self.bytes[row / TILE_ROWS * bytes..][..bytes];
        for (block, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let (quants, scale) = get_block(self.shape.format, tile_row, row % TILE_ROWS, block);
            let scale = from_f16(scale);
            for (out, quant) in out.iter_mut().zip(quants) {
                *out = f32::from(quant) * scale;
            }
        }
    }
}
