//! An expert's page with calibrated int4 values.

use rill::image::PageShape;

use super::encode::{Costs, applies, encode};
use super::factor::Factor;
use super::moments::Moments;
use crate::checkpoint::Rows;
use crate::forward::{Routed, Tiles, gated, gather};
use crate::matrix::{Joint, Loss, MatrixError};

/// An expert with fewer samples than this many times its inputs is helped out by other tokens.
const ENOUGH: usize = 2;
/// What these are multiplied by: a hundredth of what a sample of its own counts for.
const OTHERS: f32 = 0.1;

/// Samples from which on an expert is left to its own.
pub fn enough(page: &PageShape) -> usize {
    ENOUGH * page.gate_up.cols
}

/// An expert that is to be rounded.
pub struct Job<'c> {
    /// Gate and up, and down.
    pub joints: [Joint<'c>; 2],
    /// What they are made of, whole.
    pub sources: [Vec<Rows<'c>>; 2],
    /// Its samples.
    pub routed: &'c Routed,
    /// What the inputs of each token are multiplied by.
    pub factors: &'c [f32],
}

/// A page, and the samples' way through it.
pub struct Made {
    /// Its bytes.
    pub page: Vec<u8>,
    /// Gate's, up's and down's.
    pub losses: [Loss; 3],
    /// What was gained in gate and up, and in down, where there was anything to choose.
    pub costs: [Option<Costs>; 2],
    /// (samples, hidden), not weighed.
    pub outputs: Vec<f32>,
}

impl Job<'_> {
    /// Rounds the expert for its rows of `inputs`. The router's weights do not count: with them less is kept of
    /// texts that were not seen.
    pub fn make(&self, page: &PageShape, inputs: &[f32]) -> Result<Made, MatrixError> {
        let cols = page.gate_up.cols;
        let own = self.routed.gather(inputs, cols);
        let others = gather(&self.others(inputs.len() / cols, enough(page)), inputs, cols);
        let mut bytes = vec![0; page.bytes()];
        let mut losses = [Loss::default(); 3];
        let (front, rest) = bytes.split_at_mut(page.down_at());
        let (of_gate_up, of_down) = losses.split_at_mut(2);
        let front = &mut front[..page.gate_up.bytes()];
        let gate_up_costs = self.round(0, [&own, &others], front, of_gate_up)?;
        let gate_up = Tiles::packed(page.gate_up, front);
        let inner = [gated(&gate_up, &own), gated(&gate_up, &others)];
        drop(gate_up);
        let rest = &mut rest[..page.down.bytes()];
        let down_costs = self.round(1, [&inner[0], &inner[1]], rest, of_down)?;
        let outputs = Tiles::packed(page.down, rest).apply(&inner[0]);
        Ok(Made { page: bytes, losses, costs: [gate_up_costs, down_costs], outputs })
    }

    /// Tokens of others, evenly spaced, that fill up too few own ones.
    fn others(&self, tokens: usize, enough: usize) -> Vec<usize> {
        let wanted = enough.saturating_sub(self.routed.tokens.len());
        let mut own = self.routed.tokens.iter().copied().peekable();
        let others: Vec<usize> =
            (0..tokens).filter(|&token| own.next_if_eq(&token).is_none()).collect();
        let count = wanted.min(others.len());
        (0..count).map(|index| others[index * others.len() / count]).collect()
    }

    /// Rounds one of the two matrices for its inputs, the expert's own and others'.
    fn round(
        &self,
        which: usize,
        [own, others]: [&[f32]; 2],
        out: &mut [u8],
        losses: &mut [Loss],
    ) -> Result<Option<Costs>, MatrixError> {
        let (joint, sources) = (&self.joints[which], &self.sources[which]);
        let whole = 0..joint.shape.tile_rows();
        if !applies(joint) {
            joint.encode_from(sources, whole, out, losses)?;
            return Ok(None);
        }
        let mut moments = Moments::new(joint.shape.cols);
        moments.add(own, |index| self.factors[self.routed.tokens[index]]);
        moments.add(others, |_| OTHERS);
        let factor = Factor::new(&moments);
        encode(joint, sources, whole, &factor, out, losses).map(Some)
    }
}
