//! How a matrix lies in the image: tiles in the order in which the kernels read them.
//!
//! A matrix of `rows x cols` weights is cut into *tile rows* of 16 rows (the last one is padded
//! with zero weights of zero scale); a tile row is cut into blocks of 32 columns. One block is:
//!
//! | format | bytes | content |
//! |---|---|---|
//! | Q4 | 256 | 4 runs of 64 bytes. Run `j`, byte `4 r + i`: row `r`, column `8 j + i` in the low nibble and column `8 j + 4 + i` in the high nibble, stored as weight + 8 (0..=15) |
//! |    | 32 | the 16 rows' scales, f16 |
//! | Q8 | 512 | 8 runs of 64 bytes. Run `j`, byte `4 r + i`: row `r`, column `4 j + i`, signed |
//! |    | 32 | the 16 rows' scales, f16 |
//!
//! Weight = stored integer x scale: the values of the GGUF types Q4_0 and Q8_0, rearranged. A
//! 32-bit lane holds four consecutive columns of one row, so that an integer dot product by lanes
//! (`vpdpbusd`, `sdot` by element) needs a broadcast of four activations and no horizontal sum.
//!
//! A *gate-up* matrix interleaves the tile rows of two matrices: gate 0, up 0, gate 1, up 1 ...,
//! so that a SwiGLU is complete after each pair. The rows of each are padded to a multiple of 32:
//! one unit of 32 values is one block of the next product's activations.
//!
//! The F32 router is stored as `[tile row][column][16]`, its rows padded alike.

use serde::{Deserialize, Serialize};

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// Columns of a block: they share a scale.
pub const BLOCK: usize = 32;
/// Every tensor and section part starts at a multiple of this many bytes.
pub const TENSOR_ALIGN: usize = 64;

/// How the weights of a matrix are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Format {
    /// 4-bit integers, an f16 scale for 32 of them (Q4_0).
    Q4,
    /// 8-bit integers, an f16 scale for 32 of them (Q8_0).
    Q8,
}

impl Format {
    /// Every format, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Q4, Self::Q8];

    /// Bytes of the integers of one block of one tile row.
    pub const fn quant_bytes(self) -> usize {
        match self {
            Self::Q4 => TILE_ROWS * BLOCK / 2,
            Self::Q8 => TILE_ROWS * BLOCK,
        }
    }

    /// Bytes of one block of one tile row, scales included.
    pub const fn block_bytes(self) -> usize {
        self.quant_bytes() + TILE_ROWS * 2
    }

    /// Bytes of one tile row of `blocks` blocks.
    pub const fn tile_row_bytes(self, blocks: usize) -> usize {
        blocks * self.block_bytes()
    }

    /// Where the integers of block `block` start in their tile row.
    #[inline(always)]
    pub const fn quants_at(self, block: usize) -> usize {
        block * self.block_bytes()
    }

    /// Where the 16 scales of block `block` start in their tile row.
    #[inline(always)]
    pub const fn scales_at(self, block: usize) -> usize {
        block * self.block_bytes() + self.quant_bytes()
    }

    /// The short name, as in options and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q4 => "q4",
            Self::Q8 => "q8",
        }
    }
}

/// The shape of a quantised matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct MatrixShape {
    /// Storage format.
    pub format: Format,
    /// Outputs, without padding.
    pub rows: usize,
    /// Inputs; a multiple of [`BLOCK`].
    pub cols: usize,
}

impl MatrixShape {
    /// Blocks of a row.
    pub const fn blocks(&self) -> usize {
        self.cols / BLOCK
    }

    /// Tile rows, the padded last one included.
    pub const fn tile_rows(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Bytes in the image.
    pub const fn bytes(&self) -> usize {
        self.tile_rows() * self.format.tile_row_bytes(self.blocks())
    }
}

/// Rounds `value` up to a multiple of `unit`.
pub const fn align_up(value: usize, unit: usize) -> usize {
    value.div_ceil(unit) * unit
}

/// Puts one row's block of 32 weights into a tile row.
///
/// `quants` are the signed integers (Q4: -8..=7) and `scale` the bits of their f16 scale.
pub fn put_block(
    format: Format,
    tile_row: &mut [u8],
    row: usize,
    block: usize,
    quants: &[i8; BLOCK],
    scale: u16,
) {
    let at = format.quants_at(block);
    match format {
        Format::Q4 => {
            for (run, eight) in quants.as_chunks::<8>().0.iter().enumerate() {
                for i in 0..4 {
                    let low = (eight[i] + 8) as u8 & 15;
                    let high = (eight[i + 4] + 8) as u8 & 15;
                    tile_row[at + run * 64 + row * 4 + i] = low | high << 4;
                }
            }
        }
        Format::Q8 => {
            for (run, four) in quants.as_chunks::<4>().0.iter().enumerate() {
                for (i, &q) in four.iter().enumerate() {
                    tile_row[at + run * 64 + row * 4 + i] = q as u8;
                }
            }
        }
    }
    let at = format.scales_at(block) + row * 2;
    tile_row[at..at + 2].copy_from_slice(&scale.to_le_bytes());
}

/// Takes one row's block of 32 weights out of a tile row: the inverse of [`put_block`].
pub fn get_block(format: Format, tile_row: &[u8], row: usize, block: usize) -> ([i8; BLOCK], u16) {
    let at = format.quants_at(block);
    let mut quants = [0; BLOCK];
    match format {
        Format::Q4 => {
            for (run, eight) in quants.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                for i in 0..4 {
                    let byte = tile_row[at + run * 64 + row * 4 + i];
                    eight[i] = (byte & 15) as i8 - 8;
                    eight[i + 4] = (byte >> 4) as i8 - 8;
                }
            }
        }
        Format::Q8 => {
            for (run, four) in quants.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                for (i, q) in four.iter_mut().enumerate() {
                    *q = tile_row[at + run * 64 + row * 4 + i] as i8;
                }
            }
        }
    }
    let at = format.scales_at(block) + row * 2;
    (quants, u16::from_le_bytes([tile_row[at], tile_row[at + 1]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_is_got(
            q8 in any::<bool>(),
            row in 0..TILE_ROWS,
            block in 0..3_usize,
            bytes in proptest::array::uniform32(any::<i8>()),
            scale in any::<u16>(),
            noise in any::<u8>(),
        ) {
            let format = if q8 { Format::Q8 } else { Format::Q4 };
            let quants = if q8 { bytes } else { bytes.map(|b| (b & 15) - 8) };
            let mut tile_row = std::vec![noise; format.tile_row_bytes(3)];
            let before = tile_row.clone();
            put_block(format, &mut tile_row, row, block, &quants, scale);
            prop_assert_eq!(get_block(format, &tile_row, row, block), (quants, scale));
            // The other rows and blocks are untouched.
            for (r, b) in (0..TILE_ROWS).flat_map(|r| (0..3).map(move |b| (r, b))) {
                if (r, b) != (row, block) {
                    prop_assert_eq!(get_block(format, &tile_row, r, b), get_block(format, &before, r, b));
                }
            }
        }
    }
}
