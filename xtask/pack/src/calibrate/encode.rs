//! Tile rows of a matrix with calibrated int4 values.

use std::ops::Range;

use half::f16;
use rayon::prelude::*;
use rill::image::layout::{BLOCK, Format, TILE_ROWS, put_block};

use super::factor::Factor;
use super::round::{cost, round};
use crate::checkpoint::Rows;
use crate::forward::{Lanes, Tiles};
use crate::matrix::{Joint, Loss, MatrixError, is_exact};
use crate::threads;

/// Squared errors of a matrix's outputs over the samples, up to a common factor.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Costs {
    /// The squared outputs themselves.
    pub power: f64,
    /// With weights rounded plainly.
    pub plain: f64,
    /// With weights as they were chosen.
    pub chosen: f64,
}

impl Costs {
    /// Adds another's sums.
    pub fn add(&mut self, other: Self) {
        self.power += other.power;
        self.plain += other.plain;
        self.chosen += other.chosen;
    }
}

/// Whether calibration has a say in a matrix: it is rounded to int4 from weights that have more.
pub fn applies(joint: &Joint<'_>) -> bool {
    let format = joint.shape.format;
    format == Format::Q4 && joint.parts.iter().any(|part| !is_exact(part.stored, format))
}

/// Writes the given tile rows into `out`; row by row what costs less, the calibrated values or the plain
/// ones. Adds each part's loss to `losses`.
pub fn encode(
    joint: &Joint<'_>,
    sources: &[Rows<'_>],
    tile_rows: Range<usize>,
    factor: &Factor,
    out: &mut [u8],
    losses: &mut [Loss],
) -> Result<Costs, MatrixError> {
    let width = joint.shape.format.tile_row_bytes(joint.shape.blocks());
    let tile = |(index, out): (usize, &mut [u8])| {
        encode_tile_row(joint, sources, tile_rows.start + index, factor, out)
    };
    let made: Vec<(Costs, Vec<Loss>)> = match threads::pool() {
        Some(pool) => pool.install(|| {
            out.par_chunks_exact_mut(width).enumerate().map(tile).collect::<Result<_, _>>()
        }),
        None => out.chunks_exact_mut(width).enumerate().map(tile).collect(),
    }?;
    let mut costs = Costs::default();
    for (more, tile_losses) in made {
        costs.add(more);
        losses.iter_mut().zip(tile_losses).for_each(|(loss, more)| loss.add(more));
    }
    Ok(costs)
}

fn encode_tile_row(
    joint: &Joint<'_>,
    sources: &[Rows<'_>],
    tile_row: usize,
    factor: &Factor,
    out: &mut [u8],
) -> Result<(Costs, Vec<Loss>), MatrixError> {
    let mut losses = joint.encode_tile_row(sources, tile_row, out, &mut Vec::new())?;
    let (format, blocks) = (joint.shape.format, joint.shape.blocks());
    let floats = joint.floats_from(sources, tile_row..tile_row + 1)?;
    let plain = Tiles::packed(joint.shape, out);
    let weights = floats.tile(0);
    let errors: Vec<Lanes> = (weights.iter().zip(plain.tile(0)))
        .map(|(weights, plain)| std::array::from_fn(|lane| weights[lane] - plain[lane]))
        .collect();
    let (power, plain) = (cost(weights, factor), cost(&errors, factor));
    let rounded = round(weights, factor);
    let mut costs = Costs::default();
    for lane in 0..TILE_ROWS {
        let Some((index, _)) = joint.place(tile_row * TILE_ROWS + lane) else { continue };
        costs.add(Costs { power: power[lane], plain: plain[lane], chosen: plain[lane] });
        if is_exact(joint.parts[index].stored, format) || rounded.cost[lane] >= plain[lane] {
            continue;
        }
        costs.chosen += rounded.cost[lane] - plain[lane];
        let loss = &mut losses[index];
        for block in 0..blocks {
            let columns = block * BLOCK..(block + 1) * BLOCK;
            let bits = rounded.scales[block][lane];
            let scale = f16::from_bits(bits).to_f32();
            let quants: [i8; BLOCK] =
                std::array::from_fn(|i| rounded.quants[columns.start + i][lane] as i8);
            for (col, q) in columns.zip(quants) {
                let error = f64::from(weights[col][lane] - scale * f32::from(q));
                loss.error += error * error - f64::from(errors[col][lane]).powi(2);
            }
            put_block(format, out, lane, block, &quants, bits);
        }
    }
    Ok((costs, losses))
}
