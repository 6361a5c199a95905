//! What int4 loses in each matrix by itself.

use std::ops::{ControlFlow, Range};

use rill::image::MatrixExtent;

use crate::checkpoint::{Ffn, Swiglu};
use crate::forward::{Net, Routed, Supply, Tiles};
use crate::manifest::Slot;
use crate::matrix::{Joint, MatrixError};
use crate::reference::{Exact, Half, outputs, ranges};
use crate::softmax::Softmax;
use crate::threads;

/// Most rows that go through a layer together.
const ROWS_MOST: usize = 1 << 15;
/// Tokens whose logits are computed at a time.
const STEP: usize = 64;
/// One in so many tokens, those that lose most, does not count. There an expert was chosen otherwise, which any
/// of many small errors brings about: such losses do not add up, and a few of them outweigh all others. With
/// them the kiosk model's embedding stayed int4, and its mean KL was 1.78e-2 instead of 1.11e-2 at
/// the same size.
const RARE: usize = 20;

/// The samples on their way through the model with one matrix in int4.
struct Trial {
    slot: Slot,
    /// (tokens, hidden); empty as long as they are those of the model as it is.
    rows: Vec<f32>,
}

/// KL divergence, in nats, of the model with one of `slots` in int4 from the model as it is, for each of them:
/// the mean of all tokens but rare ones. `net` is that of a manifest with int4 in all of them. `progress`
/// hears of layers that are done, of how many, the head being one; `None` when it stopped it.
pub fn losses(
    net: &Net<'_>,
    slots: &[Slot],
    samples: &[&[u32]],
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<Vec<f64>>, MatrixError> {
    let ids = samples.concat();
    let texts = ranges(samples.iter().map(|ids| ids.len()));
    let mut trials: Vec<Trial> =
        slots.iter().map(|&slot| Trial { slot, rows: Vec::new() }).collect();
    let mut rows = net.embed(&ids)?;
    if let Some(trial) = trials.iter_mut().find(|trial| trial.slot == Slot::Embedding) {
        let table = net.embedding().joint().rounded(&net.checkpoint.files)?;
        trial.rows = rows.clone();
        for (row, &id) in trial.rows.chunks_exact_mut(table.cols()).zip(&ids) {
            table.get_row(id as usize, row);
        }
    }
    let layers = net.layers.len();
    for layer in 0..layers {
        if progress(layer, layers + 1).is_break() {
            return Ok(None);
        }
        let has_experts = matches!(net.checkpoint.layers[layer].ffn, Ffn::Moe { .. });
        let mut others = vec![];
        for trial in &mut trials {
            let tried = match trial.slot {
                Slot::Dense { layer: its, .. } => its == layer,
                Slot::GateUp | Slot::Down => has_experts,
                Slot::Embedding | Slot::Head => false,
            };
            if tried {
                if trial.rows.is_empty() {
                    trial.rows.clone_from(&rows);
                }
                let mut supply = Int4 { exact: Exact { net }, slot: trial.slot };
                net.layer(layer, &mut trial.rows, &texts, &mut supply)?;
            } else if !trial.rows.is_empty() {
                others.push(&mut trial.rows);
            }
        }
        others.push(&mut rows);
        let together = (ROWS_MOST / ids.len().max(1)).max(1);
        for some in others.chunks_mut(together) {
            pass(net, layer, some, &texts)?;
        }
    }
    divergences(net, &rows, &trials, ids.len(), progress)
}

/// Takes several versions of the same texts through a layer.
fn pass(
    net: &Net<'_>,
    layer: usize,
    versions: &mut [&mut Vec<f32>],
    texts: &[Range<usize>],
) -> Result<(), MatrixError> {
    let tokens = texts.last().map_or(0, |last| last.end);
    let shifted = (0..versions.len()).flat_map(|version| {
        texts.iter().map(move |text| text.start + version * tokens..text.end + version * tokens)
    });
    let all_texts: Vec<Range<usize>> = shifted.collect();
    let mut all = Vec::new();
    versions.iter().for_each(|rows| all.extend_from_slice(rows));
    net.layer(layer, &mut all, &all_texts, &mut Exact { net })?;
    let each = (all.len() / versions.len()).max(1);
    for (rows, passed) in versions.iter_mut().zip(all.chunks_exact(each)) {
        rows.copy_from_slice(passed);
    }
    Ok(())
}

fn divergences(
    net: &Net<'_>,
    rows: &[f32],
    trials: &[Trial],
    tokens: usize,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<Vec<f64>>, MatrixError> {
    let files = &net.checkpoint.files;
    let tied = net.checkpoint.head.is_none();
    let of_head = |slot| slot == Slot::Head || tied && slot == Slot::Embedding;
    let head = net.head().joint().floats(files)?;
    let int4_head = trials.iter().any(|trial| of_head(trial.slot));
    let int4_head = int4_head.then(|| net.head().joint().rounded(files)).transpose()?;
    let (cols, vocab, layers) = (head.cols(), net.shape.vocab as usize, net.layers.len());
    let last = net.finish(rows)?;
    let mut trials_last = Vec::new();
    for trial in trials {
        let own = !trial.rows.is_empty();
        trials_last.push(own.then(|| net.finish(&trial.rows)).transpose()?);
    }
    let mut found = vec![vec![0.0; tokens]; trials.len()];
    for first in (0..tokens).step_by(STEP) {
        if progress(layers, layers + 1).is_break() {
            return Ok(None);
        }
        let some = first * cols..tokens.min(first + STEP) * cols;
        let logits = head.apply(&last[some.clone()]);
        for ((trial, rows), found) in trials.iter().zip(&trials_last).zip(&mut found) {
            let rows = &rows.as_deref().unwrap_or(&last)[some.clone()];
            let head = int4_head.as_ref().filter(|_| of_head(trial.slot)).unwrap_or(&head);
            let others = head.apply(rows);
            let found = &mut found[first..][..rows.len() / cols];
            threads::each(found, 1, |token, found| {
                let at = token * head.rows()..token * head.rows() + vocab;
                let [ours, other] = [&logits, &others].map(|all| Softmax::new(&all[at.clone()]));
                found[0] = ours.divergence(&other);
            });
        }
    }
    Ok(Some(found.iter_mut().map(|found| usual(found)).collect()))
}

/// The mean of all but the largest.
fn usual(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    let some = &all[..all.len() - all.len() / RARE];
    some.iter().sum::<f64>() / some.len().max(1) as f64
}

/// Matrices as the source has them, but for one, or one of each expert, in int4.
struct Int4<'n> {
    exact: Exact<'n>,
    slot: Slot,
}

impl Supply for Int4<'_> {
    type Error = MatrixError;

    fn dense(
        &mut self,
        joint: &Joint<'_>,
        place: &MatrixExtent,
        inputs: &[f32],
    ) -> Result<Tiles, MatrixError> {
        let net = self.exact.net;
        match self.slot {
            Slot::Dense { layer, which }
                if net.dense(layer)[which as usize].place.extent.start == place.extent.start =>
            {
                joint.rounded(&net.checkpoint.files)
            }
            _ => self.exact.dense(joint, place, inputs),
        }
    }

    fn together(&self) -> usize {
        self.exact.together()
    }

    fn experts(
        &mut self,
        _: usize,
        _: usize,
        experts: &[Swiglu],
        routed: &[Routed],
        inputs: &[f32],
    ) -> Result<Vec<Vec<f32>>, MatrixError> {
        let (net, files) = (self.exact.net, &self.exact.net.checkpoint.files);
        outputs(net, experts, routed, inputs, |half, joint| {
            let tried = match half {
                Half::GateUp => self.slot == Slot::GateUp,
                Half::Down => self.slot == Slot::Down,
            };
            if tried { joint.rounded(files) } else { joint.floats(files) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_losses_do_not_count() {
        let mut all = [1.0; 40];
        all[3] = 100.0;
        all[7] = 100.0;
        assert_eq!(usual(&mut all), 1.0);
        assert_eq!(usual(&mut [3.0, 1.0]), 2.0);
        assert_eq!(usual(&mut []), 0.0);
    }
}
