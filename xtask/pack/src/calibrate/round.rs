//! Chooses the int4 values of 16 rows of weights at a time, so that their outputs change least.

use half::f16;
use rill::image::layout::{BLOCK, TILE_ROWS};

use super::factor::Factor;
use crate::forward::{Lanes, products};
use crate::quantise::{Q4_TRIALS, nearest};

/// A column of 16 rows for each column of a block.
type BlockLanes = [Lanes; BLOCK];

/// Sixteen rows of int4 values.
#[derive(Debug)]
pub struct Rounded {
    /// Integers, column by column.
    pub quants: Vec<Lanes>,
    /// Bits of the scales, block by block.
    pub scales: Vec<[u16; TILE_ROWS]>,
    /// What the errors of each row cost.
    pub cost: [f64; TILE_ROWS],
}

/// Rounds rows of weights (cols,) block by block. Each block's scale is searched among those of the plain
/// rounding, each refined by least squares, by what it costs once earlier errors are made up for.
pub fn round(weights: &[Lanes], factor: &Factor) -> Rounded {
    let blocks = factor.cols() / BLOCK;
    let mut errors = vec![[0.0; TILE_ROWS]; factor.cols()];
    let mut rounded = Rounded { quants: Vec::new(), scales: Vec::new(), cost: [0.0; TILE_ROWS] };
    for index in 0..blocks {
        let first = index * BLOCK;
        let (weights, _) = weights[first..].split_first_chunk::<BLOCK>().expect("whole blocks");
        let block = Block::new(weights, &carried(&errors, factor, first), factor, first);
        let choice = block.choose();
        for (j, (errors, quants)) in errors[first..].iter_mut().zip(&choice.quants).enumerate() {
            for lane in 0..TILE_ROWS {
                errors[lane] = weights[j][lane] - choice.scales[lane] * quants[lane];
            }
        }
        rounded.quants.extend(choice.quants);
        rounded.scales.push(choice.scales.map(|scale| f16::from_f32(scale).to_bits()));
        for (sum, cost) in rounded.cost.iter_mut().zip(choice.cost) {
            *sum += f64::from(cost);
        }
    }
    rounded
}

/// What errors of 16 rows cost.
pub fn cost(errors: &[Lanes], factor: &Factor) -> [f64; TILE_ROWS] {
    let mut sums = [0.0; TILE_ROWS];
    for first in (0..factor.cols()).step_by(BLOCK) {
        let (of_block, _) = errors[first..].split_first_chunk::<BLOCK>().expect("whole blocks");
        let block = Block::new(of_block, &carried(errors, factor, first), factor, first);
        for (values, weight) in block.values.iter().zip(block.weights) {
            for (sum, &value) in sums.iter_mut().zip(values) {
                *sum += f64::from(weight * value * value);
            }
        }
    }
    sums
}

/// What errors before column `first` cost in each column of the block that begins there:
/// `sum over k < first of a_jk e_k`.
fn carried(errors: &[Lanes], factor: &Factor, first: usize) -> BlockLanes {
    let mut all = [[0.0; TILE_ROWS]; BLOCK];
    for (group, sums) in all.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let row = |i: usize| Some(&factor.coefficients(first + group * 4 + i)?[..first]);
        let (Some(a), Some(b), Some(c), Some(d)) = (row(0), row(1), row(2), row(3)) else {
            continue;
        };
        *sums = products([a, b, c, d], &errors[..first]);
    }
    all
}

/// A block of weights while its values are chosen.
struct Block<'f> {
    /// For trial scales: the weights with what earlier blocks carry over.
    wanted: BlockLanes,
    /// `v_j`: what column `j` would cost were the block's integers all 0.
    values: BlockLanes,
    /// `a_jk` within the block.
    coefficients: [[f32; BLOCK]; BLOCK],
    weights: &'f [f32],
}

/// Integers of a block for given scales.
#[derive(Clone)]
struct Choice {
    scales: Lanes,
    quants: BlockLanes,
    cost: Lanes,
    /// The scales that would cost least with these integers.
    refined: Lanes,
}

impl<'f> Block<'f> {
    fn new(weights: &BlockLanes, carried: &BlockLanes, factor: &'f Factor, first: usize) -> Self {
        let mut coefficients = [[0.0; BLOCK]; BLOCK];
        for (j, row) in coefficients.iter_mut().enumerate() {
            if let Some(all) = factor.coefficients(first + j) {
                row.copy_from_slice(&all[first..first + BLOCK]);
            }
        }
        let mut wanted = *carried;
        for (wanted, weights) in wanted.iter_mut().zip(weights) {
            wanted.iter_mut().zip(weights).for_each(|(x, w)| *x += w);
        }
        let mut values = wanted;
        for j in 0..BLOCK {
            for k in 0..j {
                for lane in 0..TILE_ROWS {
                    values[j][lane] += coefficients[j][k] * weights[k][lane];
                }
            }
        }
        Self { wanted, values, coefficients, weights: &factor.weights()[first..first + BLOCK] }
    }

    /// The best of all trials, row by row.
    fn choose(&self) -> Choice {
        let mut extreme = [0.0_f32; TILE_ROWS];
        for column in &self.wanted {
            for (extreme, &x) in extreme.iter_mut().zip(column) {
                if x.abs() > extreme.abs() {
                    *extreme = x;
                }
            }
        }
        let mut best = self.with(&[0.0; TILE_ROWS]);
        for trial in Q4_TRIALS {
            let first = self.with(&extreme.map(|x| f16::from_f32(x / trial).to_f32()));
            let second = self.with(&first.refined);
            best.take(&first);
            best.take(&second);
        }
        best
    }

    /// The integers for scales that an f16 holds.
    fn with(&self, scales: &Lanes) -> Choice {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2.
            return unsafe { self.with_avx2(scales) };
        }
        self.with_here(scales)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn with_avx2(&self, scales: &Lanes) -> Choice {
        self.with_here(scales)
    }

    #[inline(always)]
    fn with_here(&self, scales: &Lanes) -> Choice {
        // The inverse of a subnormal scale may be infinite; 0 x infinity must stay 0.
        let inverse =
            scales.map(|s| if s == 0.0 { 0.0 } else { (1.0 / s).clamp(f32::MIN, f32::MAX) });
        let mut quants = [[0.0; TILE_ROWS]; BLOCK];
        let (mut cost, mut vp, mut pp) = ([0.0; TILE_ROWS], [0.0; TILE_ROWS], [0.0_f32; TILE_ROWS]);
        for j in 0..BLOCK {
            let mut before = [0.0; TILE_ROWS];
            for (a, quants) in self.coefficients[j][..j].iter().zip(&quants) {
                for (before, quant) in before.iter_mut().zip(quants) {
                    *before += a * quant;
                }
            }
            let weight = self.weights[j];
            for lane in 0..TILE_ROWS {
                let value = self.values[j][lane];
                let target = value - scales[lane] * before[lane];
                let quant = nearest((target * inverse[lane]).clamp(-8.0, 7.0));
                let left = target - scales[lane] * quant;
                let product = before[lane] + quant;
                quants[j][lane] = quant;
                cost[lane] += weight * left * left;
                vp[lane] += weight * value * product;
                pp[lane] += weight * product * product;
            }
        }
        let mut refined = *scales;
        for lane in 0..TILE_ROWS {
            if pp[lane] > 0.0 {
                refined[lane] = f16::from_f32(vp[lane] / pp[lane]).to_f32();
            }
        }
        Choice { scales: *scales, quants, cost, refined }
    }
}

impl Choice {
    /// Takes over the rows that `other` has at less cost.
    fn take(&mut self, other: &Self) {
        for lane in 0..TILE_ROWS {
            if other.cost[lane] < self.cost[lane] && other.scales[lane].is_finite() {
                self.cost[lane] = other.cost[lane];
                self.scales[lane] = other.scales[lane];
                for (quants, others) in self.quants.iter_mut().zip(&other.quants) {
                    quants[lane] = others[lane];
                }
            }
        }
    }
}
