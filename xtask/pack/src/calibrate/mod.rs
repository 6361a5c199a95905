//! Chooses int4 values by what they do to the model's outputs over sample texts, not by how near each is to
//! its weight.
//!
//! The samples go through the model in f32 once as it is, which says at which tokens it has a choice: errors
//! there count most. Then they go through it layer by layer. For each matrix that is rounded to int4, the
//! second moments of its inputs say what an error in each of its columns costs, and which later
//! columns can make up for it; then the samples go on through the layer as it was rounded. Pieces of
//! the image are written where they belong as they are made, and noted in its journal: what writes
//! the image afterwards takes them from there.
//!
//! What was tried and left out, because it keeps no more of texts that were not seen: inputs of experts weighed
//! as the router weighs their outputs; columns in the order of falling moments (a mean KL of 1.12e-2 on the
//! kiosk's tuning texts, not 1.06e-2); each integer chosen again once all others are there, with or without
//! scales fitted to them, in two or four rounds (layers are off by a thirtieth less, the mean KL is 1.17e-2 to
//! 1.61e-2). An expert that is chosen otherwise in a common phrase moves such figures by a seventh, even when a
//! sum was only rounded otherwise, so smaller gains prove nothing.
//!
//! In reading order: `weights` (what tokens count for), `moments`, `factor` (the mathematics), `round` (16
//! rows), `encode` (a matrix), `expert` (a page), `report`, `state` (what the next attempt goes on from).

mod encode;
mod expert;
mod factor;
mod moments;
mod report;
mod round;
mod state;
mod weights;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::{ControlFlow, Range};
use std::path::Path;

use rayon::prelude::*;
use rill::image::{Header, Manifest, MatrixExtent, Section};

use self::encode::{Costs, applies, encode};
use self::expert::{Job, Made, enough};
use self::factor::Factor;
use self::moments::Moments;
pub use self::report::{LayerReport, Report};
use self::state::State;
use crate::checkpoint::{Checkpoint, Ffn, Swiglu};
use crate::forward::{Net, Routed, Supply, Tiles};
use crate::image::{WriteError, steps};
use crate::journal::Journal;
use crate::matrix::{ExpertParts, Joint, Loss};
use crate::options::Progress;
use crate::reference::ranges;
use crate::texts::Text;
use crate::threads;

/// Most tokens that are used. More gain little, and each takes RAM: its row of every width of a layer.
const TOKENS_MOST: usize = 1 << 15;
/// Most experts at a time: each has its moments and their factors in RAM.
const TOGETHER_MOST: usize = 8;

/// An image under way.
pub struct Canvas<'a> {
    /// Where its sections lie.
    pub header: Header,
    /// Its file.
    pub file: &'a mut File,
    /// What of it is made.
    pub journal: &'a mut Journal,
    /// Where the state after each layer is kept.
    pub state: &'a Path,
}

/// Whether a model as this manifest has it leaves anything to choose. `header` is its image's.
pub fn is_of_use(checkpoint: &Checkpoint, manifest: &Manifest, header: &Header) -> bool {
    let net = Net::new(checkpoint, manifest);
    (0..net.layers.len()).any(|layer| !pieces(&net, layer, header).is_empty())
}

/// Those of the texts that are used: the first ones, up to a number of tokens.
pub fn used(texts: &[Text]) -> &[Text] {
    let mut tokens = 0;
    let count = texts.iter().take_while(|text| {
        tokens += text.ids.len();
        tokens <= TOKENS_MOST
    });
    &texts[..count.count().max(1).min(texts.len())]
}

/// Writes the calibrated pieces of an image, and returns where they lie.
pub fn run(
    checkpoint: &Checkpoint,
    manifest: &Manifest,
    texts: &[Text],
    canvas: Canvas<'_>,
    progress: &dyn Progress,
) -> Result<(Report, BTreeSet<u64>), WriteError> {
    let net = Net::new(checkpoint, manifest);
    let samples = used(texts);
    let ids: Vec<u32> = samples.iter().flat_map(|text| &text.ids).copied().collect();
    let runs = ranges(samples.iter().map(|text| text.ids.len()));
    let of_layer = |layer: usize| pieces(&net, layer, &canvas.header);
    let all = (0..net.layers.len()).flat_map(of_layer).map(|(at, _)| at).collect();
    let path = canvas.state;
    let hidden = net.shape.hidden as usize;
    let earlier = State::load(path, ids.len(), hidden).filter(|state| {
        let mut made = (0..state.layers.len().min(net.layers.len())).flat_map(of_layer);
        state.layers.len() <= net.layers.len() && made.all(|(at, len)| canvas.journal.has(at, len))
    });
    // The first pass counts as one for each layer.
    let pass = net.layers.len();
    let total = pass + (0..net.layers.len()).map(|layer| work(&net, layer)).sum::<usize>();
    let mut state = match earlier {
        Some(state) => state,
        None => {
            let mut passed = |done, _| progress.calibrate(done, total);
            let weights = weights::of(&net, &ids, &runs, &mut passed)?;
            let weights = weights.ok_or(WriteError::Cancelled)?;
            let state = State { layers: Vec::new(), weights, rows: net.embed(&ids)? };
            state.save(path)?;
            state
        }
    };
    // Of inputs, whose squares they weigh.
    let factors: Vec<f32> = state.weights.iter().map(|weight| weight.sqrt()).collect();
    let done = pass + (0..state.layers.len()).map(|layer| work(&net, layer)).sum::<usize>();
    let layer = LayerReport::default();
    let mut calibrator =
        Calibrator { net: &net, canvas, factors: &factors, progress, layer, done, total };
    calibrator.go_on(0)?;
    for layer in state.layers.len()..net.layers.len() {
        let before = calibrator.done;
        net.layer(layer, &mut state.rows, &runs, &mut calibrator)?;
        calibrator.done = before;
        calibrator.go_on(work(&net, layer))?;
        state.layers.push(std::mem::take(&mut calibrator.layer));
        // The pieces are on the device before a state says that they are.
        calibrator.canvas.file.sync_data()?;
        state.save(path)?;
    }
    let report = Report {
        texts: samples.len(),
        tokens: ids.len(),
        left: texts.len() - samples.len(),
        layers: state.layers,
    };
    Ok((report, all))
}

/// How much a layer has to do, in experts.
fn work(net: &Net<'_>, layer: usize) -> usize {
    match &net.checkpoint.layers[layer].ffn {
        Ffn::Dense(_) => 2,
        Ffn::Moe { experts, .. } => 1 + experts.len(),
    }
}

/// Where the pieces of a layer lie that calibration makes, and their lengths.
fn pieces(net: &Net<'_>, layer: usize, header: &Header) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    for dense in net.dense(layer) {
        if applies(&dense.joint()) {
            all.extend(steps(dense.place).map(|rows| span_of(header, dense.place, &rows)));
        }
    }
    if let (Ffn::Moe { experts, .. }, Some(shape)) = (&net.checkpoint.layers[layer].ffn, &net.page)
    {
        let (first, len) = (net.first_page(layer), shape.bytes() as u64);
        for (index, expert) in experts.iter().enumerate() {
            if ExpertParts::new(expert).joints(shape).iter().any(applies) {
                let at = header.span(Section::Pages).offset;
                all.push((at + (first + index) as u64 * len, len));
            }
        }
    }
    all
}

/// Where some tile rows of a matrix lie, and their length.
fn span_of(header: &Header, place: &MatrixExtent, rows: &Range<usize>) -> (u64, u64) {
    let width = place.shape.format.tile_row_bytes(place.shape.blocks());
    let at = place.extent.start + rows.start * width;
    (header.span(Section::Resident).offset + at as u64, (rows.len() * width) as u64)
}

struct Calibrator<'a, 'c> {
    net: &'a Net<'c>,
    canvas: Canvas<'a>,
    /// What each token's inputs are multiplied by.
    factors: &'a [f32],
    progress: &'a dyn Progress,
    /// The layer under way.
    layer: LayerReport,
    done: usize,
    total: usize,
}

impl Calibrator<'_, '_> {
    /// Some work more is done.
    fn go_on(&mut self, more: usize) -> Result<(), WriteError> {
        self.done += more;
        match self.progress.calibrate(self.done, self.total) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(WriteError::Cancelled),
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8], losses: &[Loss]) -> io::Result<()> {
        self.canvas.file.seek(SeekFrom::Start(at))?;
        self.canvas.file.write_all(bytes)?;
        self.canvas.journal.keep(at, bytes, losses)
    }
}

impl Supply for Calibrator<'_, '_> {
    type Error = WriteError;

    fn dense(
        &mut self,
        joint: &Joint<'_>,
        place: &MatrixExtent,
        inputs: &[f32],
    ) -> Result<Tiles, WriteError> {
        let files = &self.net.checkpoint.files;
        if !applies(joint) {
            return Ok(joint.rounded(files)?);
        }
        let mut bytes = vec![0; place.shape.bytes()];
        let mut moments = Moments::new(place.shape.cols);
        moments.add(inputs, |token| self.factors[token]);
        let factor = Factor::new(&moments);
        drop(moments);
        let mut costs = Costs::default();
        let mut rest = &mut bytes[..];
        for rows in steps(place) {
            let (at, len) = span_of(&self.canvas.header, place, &rows);
            let (piece, more) = rest.split_at_mut(len as usize);
            rest = more;
            let sources = joint.sources(files, &rows)?;
            let mut losses = vec![Loss::default(); joint.parts.len()];
            costs.add(encode(joint, &sources, rows, &factor, piece, &mut losses)?);
            self.write(at, piece, &losses)?;
            self.go_on(0)?;
        }
        self.layer.add(costs);
        Ok(Tiles::packed(place.shape, &bytes))
    }

    fn together(&self) -> usize {
        threads::count().min(TOGETHER_MOST)
    }

    fn experts(
        &mut self,
        page: usize,
        first: usize,
        experts: &[Swiglu],
        routed: &[Routed],
        inputs: &[f32],
    ) -> Result<Vec<Vec<f32>>, WriteError> {
        let (net, files) = (self.net, &self.net.checkpoint.files);
        let Some(shape) = net.page else { return Ok(Vec::new()) };
        let parts: Vec<_> = experts.iter().map(ExpertParts::new).collect();
        let mut jobs = Vec::new();
        for (parts, routed) in parts.iter().zip(routed) {
            let joints = parts.joints(&shape);
            let sources = [
                joints[0].sources(files, &(0..shape.gate_up.tile_rows()))?,
                joints[1].sources(files, &(0..shape.down.tile_rows()))?,
            ];
            jobs.push(Job { joints, sources, routed, factors: self.factors });
        }
        let make = |job: &Job<'_>| job.make(&shape, inputs);
        let made: Vec<Made> = match threads::pool() {
            Some(pool) => pool.install(|| jobs.par_iter().map(make).collect::<Result<_, _>>()),
            None => jobs.iter().map(make).collect(),
        }?;
        let mut outputs = Vec::new();
        for (index, (made, routed)) in made.into_iter().zip(routed).enumerate() {
            if made.costs.iter().any(Option::is_some) {
                let at = self.canvas.header.span(Section::Pages).offset;
                let len = shape.bytes();
                self.write(at + ((page + index) * len) as u64, &made.page, &made.losses)?;
                made.costs.into_iter().flatten().for_each(|costs| self.layer.add(costs));
                if routed.tokens.len() < enough(&shape) {
                    self.layer.few.push((first + index, routed.tokens.len()));
                }
            }
            outputs.push(made.outputs);
            self.go_on(1)?;
        }
        Ok(outputs)
    }
}
