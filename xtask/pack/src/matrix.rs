//! From rows of source tensors to tile rows of the image.

use half::f16;
use rayon::prelude::*;
use rill::image::PageShape;
use rill::image::layout::{BLOCK, Format, MatrixShape, TILE_ROWS, put_block};
use std::ops::Range;

use crate::checkpoint::{CheckpointError, Files, Part, Rows, Swiglu};
use crate::forward::Tiles;
use crate::quantise::{Unrepresentable, quantise, squared_error};
use crate::stored::{Stored, q4_0, q8_0};
use crate::threads;

/// A matrix of the image and the tensors it is made of.
#[derive(Debug)]
pub struct Joint<'c> {
    /// One tensor, or several of the same width.
    pub parts: &'c [&'c Part],
    /// How their rows are arranged.
    pub weave: Weave,
    /// The shape in the image: at least as many rows and columns as the parts have.
    pub shape: MatrixShape,
}

/// The tensors of an expert, as its page has them.
#[derive(Debug)]
pub struct ExpertParts<'c> {
    gate_up: [&'c Part; 2],
    down: [&'c Part; 1],
}

impl<'c> ExpertParts<'c> {
    /// Those of an expert.
    pub fn new(Swiglu { gate_up: [gate, up], down }: &'c Swiglu) -> Self {
        Self { gate_up: [gate, up], down: [down] }
    }

    /// Gate and up, and down, of a page of this shape.
    pub fn joints(&self, page: &PageShape) -> [Joint<'_>; 2] {
        [
            Joint { parts: &self.gate_up, weave: Weave::Interleave, shape: page.gate_up },
            Joint { parts: &self.down, weave: Weave::Stack, shape: page.down },
        ]
    }
}

/// How the rows of several tensors make one matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weave {
    /// One after the other.
    Stack,
    /// Tile row by tile row in turn.
    Interleave,
}

/// What rounding cost: sums over all weights.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Loss {
    /// Squared weights.
    pub power: f64,
    /// Squared differences.
    pub error: f64,
}

impl Loss {
    /// Adds another's sums.
    pub fn add(&mut self, other: Self) {
        self.power += other.power;
        self.error += other.error;
    }

    /// Root mean square of the differences, relative to that of the weights.
    pub fn relative_rms(&self) -> f64 {
        if self.power > 0.0 { (self.error / self.power).sqrt() } else { 0.0 }
    }
}

/// Why a tensor cannot be laid out.
#[derive(Debug, thiserror::Error)]
pub enum MatrixError {
    /// Its source failed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A weight is not a number, infinite, or beyond what an f16 scale can hold.
    #[error(
        "the tensor {0} holds a weight that is not finite or far too large; the checkpoint is damaged"
    )]
    Weight(String),
}

/// Whether `stored` can go into `format` without changing a value.
pub const fn is_exact(stored: Stored, format: Format) -> bool {
    matches!((stored, format), (Stored::Q4_0, Format::Q4 | Format::Q8) | (Stored::Q8_0, Format::Q8))
}

/// The format for a matrix (or all pages' matrices) made of these encodings: the smallest that
/// keeps every value when there is one, else `chosen`.
pub fn format_for(encodings: &[Stored], chosen: Format) -> Format {
    let mut exact = Format::Q4;
    for stored in encodings {
        match stored {
            Stored::Q4_0 => {}
            Stored::Q8_0 => exact = Format::Q8,
            _ => return chosen,
        }
    }
    exact
}

/// The same where int8 may be rounded too: `chosen` unless all are Q4_0.
pub fn format_rounding(encodings: &[Stored], chosen: Format) -> Format {
    let exact = encodings.iter().all(|&stored| is_exact(stored, Format::Q4));
    if exact { Format::Q4 } else { chosen }
}

/// The numbers of a part, row by row.
pub fn numbers(files: &Files, part: &Part) -> Result<Vec<f32>, MatrixError> {
    let rows = files.read(part, 0..part.rows)?;
    let mut numbers = vec![0.0; part.rows * part.cols];
    for (row, numbers) in numbers.chunks_exact_mut(part.cols).enumerate() {
        rows.decode(row, numbers);
    }
    if numbers.iter().any(|x| !x.is_finite()) {
        return Err(MatrixError::Weight(part.name.clone()));
    }
    Ok(numbers)
}

impl<'c> Joint<'c> {
    /// Its values as the source has them.
    pub fn floats(&self, files: &Files) -> Result<Tiles, MatrixError> {
        let all = 0..self.shape.tile_rows();
        self.floats_from(&self.sources(files, &all)?, all)
    }

    /// The same of the given tile rows, from what [`Self::sources`] read.
    pub fn floats_from(
        &self,
        sources: &[Rows<'_>],
        tile_rows: Range<usize>,
    ) -> Result<Tiles, MatrixError> {
        let mut tiles = Tiles::zeros(tile_rows.len(), self.shape.cols);
        let mut weights = Vec::new();
        for row in 0..tiles.rows() {
            let place = self.place(tile_rows.start * TILE_ROWS + row);
            let Some((index, row_of_part)) = place else { continue };
            weights.resize(self.parts[index].cols, 0.0);
            sources[index].decode(row_of_part, &mut weights);
            if weights.iter().any(|x| !x.is_finite()) {
                return Err(MatrixError::Weight(self.parts[index].name.clone()));
            }
            tiles.set_row(row, &weights);
        }
        Ok(tiles)
    }

    /// Its values as an image has them.
    pub fn rounded(&self, files: &Files) -> Result<Tiles, MatrixError> {
        let mut bytes = vec![0; self.shape.bytes()];
        let mut losses = vec![Loss::default(); self.parts.len()];
        self.encode(files, 0..self.shape.tile_rows(), &mut bytes, &mut losses)?;
        Ok(Tiles::packed(self.shape, &bytes))
    }

    /// Reads what the given tile rows are made of.
    pub fn sources(
        &self,
        files: &Files,
        tile_rows: &Range<usize>,
    ) -> Result<Vec<Rows<'c>>, MatrixError> {
        let mut sources = Vec::new();
        for (index, &part) in self.parts.iter().enumerate() {
            sources.push(files.read(part, self.rows_of(index, tile_rows))?);
        }
        Ok(sources)
    }

    /// Writes the given tile rows into `out`, and adds each part's loss to `losses`.
    pub fn encode(
        &self,
        files: &Files,
        tile_rows: Range<usize>,
        out: &mut [u8],
        losses: &mut [Loss],
    ) -> Result<(), MatrixError> {
        let sources = self.sources(files, &tile_rows)?;
        self.encode_from(&sources, tile_rows, out, losses)
    }

    /// The same from what [`Self::sources`] read.
    pub fn encode_from(
        &self,
        sources: &[Rows<'_>],
        tile_rows: Range<usize>,
        out: &mut [u8],
        losses: &mut [Loss],
    ) -> Result<(), MatrixError> {
        let width = self.shape.format.tile_row_bytes(self.shape.blocks());
        let first = tile_rows.start;
        let tile_losses: Vec<Vec<Loss>> = match threads::pool() {
            Some(pool) => pool.install(|| {
                out.par_chunks_exact_mut(width)
                    .enumerate()
                    .map_init(Vec::new, |weights, (i, tile)| {
                        self.encode_tile_row(sources, first + i, tile, weights)
                    })
                    .collect::<Result<_, _>>()
            }),
            None => {
                let mut weights = Vec::new();
                let tiles = out.chunks_exact_mut(width).enumerate();
                tiles
                    .map(|(i, tile)| self.encode_tile_row(sources, first + i, tile, &mut weights))
                    .collect()
            }
        }?;
        // Summed in order, so that the figures do not depend on the number of threads.
        for tile in tile_losses {
            for (loss, more) in losses.iter_mut().zip(tile) {
                loss.add(more);
            }
        }
        Ok(())
    }

    /// Which part, and which of its rows, is row `row` of the matrix; `None` for padding.
    pub fn place(&self, row: usize) -> Option<(usize, usize)> {
        match self.weave {
            Weave::Stack => {
                let mut row = row;
                for (index, part) in self.parts.iter().enumerate() {
                    if row < part.rows {
                        return Some((index, row));
                    }
                    row -= part.rows;
                }
                None
            }
            Weave::Interleave => {
                let (tile, lane) = (row / TILE_ROWS, row % TILE_ROWS);
                let index = tile % self.parts.len();
                let row = tile / self.parts.len() * TILE_ROWS + lane;
                (row < self.parts[index].rows).then_some((index, row))
            }
        }
    }

    /// The rows of a part that lie in the given tile rows: always a run.
    fn rows_of(&self, part: usize, tile_rows: &Range<usize>) -> Range<usize> {
        let rows = tile_rows.start * TILE_ROWS..tile_rows.end * TILE_ROWS;
        let mut used = rows.filter_map(|row| self.place(row)).filter(|&(p, _)| p == part);
        let Some((_, first)) = used.next() else { return 0..0 };
        first..used.next_back().map_or(first, |(_, row)| row) + 1
    }

    /// Writes one tile row made of `sources`, and returns each part's loss.
    pub fn encode_tile_row(
        &self,
        sources: &[Rows<'_>],
        tile_row: usize,
        out: &mut [u8],
        weights: &mut Vec<f32>,
    ) -> Result<Vec<Loss>, MatrixError> {
        let mut losses = vec![Loss::default(); self.parts.len()];
        for lane in 0..TILE_ROWS {
            let Some((index, row)) = self.place(tile_row * TILE_ROWS + lane) else {
                self.pad(out, lane, 0);
                continue;
            };
            let rows = &sources[index];
            let (part, bytes) = (rows.part(), rows.stored(row));
            let format = self.shape.format;
            let done = match part.stored {
                Stored::Q4_0 => carry(format, bytes, part.stored, q4_0, out, lane),
                Stored::Q8_0 if format == Format::Q8 => {
                    carry(format, bytes, part.stored, q8_0, out, lane)
                }
                _ => {
                    weights.clear();
                    weights.resize(part.cols.next_multiple_of(BLOCK), 0.0);
                    rows.decode(row, &mut weights[..part.cols]);
                    round(format, weights, out, lane, &mut losses[index])
                }
            };
            let blocks = done.map_err(|Unrepresentable| MatrixError::Weight(part.name.clone()))?;
            self.pad(out, lane, blocks);
        }
        Ok(losses)
    }

    /// Zero weights of zero scale from block `from` on.
    fn pad(&self, out: &mut [u8], lane: usize, from: usize) {
        for block in from..self.shape.blocks() {
            put_block(self.shape.format, out, lane, block, &[0; BLOCK], 0);
        }
    }
}

/// Carries a row of blocks over as it is; returns how many blocks that were.
fn carry(
    format: Format,
    row: &[u8],
    stored: Stored,
    decode: impl Fn(&[u8]) -> ([i8; BLOCK], u16),
    out: &mut [u8],
    lane: usize,
) -> Result<usize, Unrepresentable> {
    let blocks = row.chunks_exact(stored.block_bytes());
    let count = blocks.len();
    for (block, bytes) in blocks.enumerate() {
        let (quants, scale) = decode(bytes);
        if !f16::from_bits(scale).is_finite() {
            return Err(Unrepresentable);
        }
        put_block(format, out, lane, block, &quants, scale);
    }
    Ok(count)
}

/// Quantises a row; returns how many blocks that were.
fn round(
    format: Format,
    weights: &[f32],
    out: &mut [u8],
    lane: usize,
    loss: &mut Loss,
) -> Result<usize, Unrepresentable> {
    let blocks = weights.as_chunks::<BLOCK>().0;
    for (block, weights) in blocks.iter().enumerate() {
        let made = quantise(format, weights)?;
        put_block(format, out, lane, block, &made.0, made.1);
        loss.power += weights.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>();
        loss.error += squared_error(weights, &made);
    }
    Ok(blocks.len())
}
