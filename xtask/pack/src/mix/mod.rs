//! Which matrices are int8 in an image that may be larger than one of int4 alone.
//!
//! Each matrix that may be either is tried by itself: sample texts go through the model with only it in
//! int4, and the KL divergence of what is expected next, from the model as it is, is what int4 loses there
//! (`trial`). Then the bytes go where they keep most (`choose`). What int8 loses is some two hundred times
//! less and counts for nothing.
//!
//! All experts share one format for gate and up, and one for down: pages of one size are what the cache
//! is made of.

mod choose;
mod losses;
mod trial;

use std::fmt;
use std::path::Path;

use rill::image::{Header, Manifest, ManifestError};
use rill::size::Size;

use crate::checkpoint::Checkpoint;
use crate::forward::Net;
use crate::image::WriteError;
use crate::manifest::Slot;
use crate::options::Progress;
use crate::texts::Text;

/// Most tokens that are tried: of all samples, evenly.
const TOKENS_MOST: usize = 1 << 12;
/// Most bytes that they take in RAM on their many ways through the model.
const BYTES_MOST: usize = 1 << 29;

/// What calibration, which comes afterwards, leaves of a loss in the matrices that it rounds: on the kiosk model
/// 0.27 to 0.44 of the squared errors of a layer's outputs.
const CALIBRATED: f64 = 0.35;

/// What a format was chosen by.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The matrix, or the matrices that share it.
    pub name: String,
    /// Whether it is int8.
    pub int8: bool,
    /// KL divergence, in nats, of the usual token that int4 there costs by itself.
    pub loss: f64,
    /// Bytes that int8 takes more.
    pub bytes: u64,
}

/// How the bytes of an image were spent.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Most bytes that it may have.
    pub size: u64,
    /// Tokens that were tried.
    pub tokens: usize,
    /// What could be int4 or int8.
    pub choices: Vec<Choice>,
}

/// The mix for an image of at most `size` bytes. `smallest` is the manifest with int4 everywhere, `free`
/// where int8 would keep more, and `header` is an image's with int8 in some of these. What is measured is
/// kept at `path`, and taken from there when it is there already.
pub fn of(
    checkpoint: &Checkpoint,
    (smallest, free): (&Manifest, &[Slot]),
    texts: &[Text],
    size: u64,
    header: &dyn Fn(&[bool]) -> Result<Header, ManifestError>,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Report, WriteError> {
    let row = smallest.shape.hidden as usize * size_of::<f32>();
    let most = BYTES_MOST / (row * (free.len() + 1));
    let samples = spread(texts, most.min(TOKENS_MOST));
    let losses = match losses::load(path, free.len()) {
        Some(losses) => losses,
        None => {
            let net = Net::new(checkpoint, smallest);
            let mut hears = |done, of| progress.choose(done, of);
            let losses = trial::losses(&net, free, &samples, &mut hears)?;
            let losses = losses.ok_or(WriteError::Cancelled)?;
            losses::save(path, &losses)?;
            losses
        }
    };
    let left = |(slot, loss): (&Slot, f64)| match slot {
        Slot::Embedding | Slot::Head => loss,
        Slot::Dense { .. } | Slot::GateUp | Slot::Down => CALIBRATED * loss,
    };
    let losses: Vec<f64> = free.iter().zip(losses).map(left).collect();
    // What is aligned takes a little more or less together than each by itself.
    let content = |header: &Header| header.spans.iter().map(|span| span.len).sum::<u64>();
    let least = header(&vec![false; free.len()])?;
    let alone = |index| {
        let mut int8 = vec![false; free.len()];
        int8[index] = true;
        Ok(content(&header(&int8)?) - content(&least))
    };
    let bytes: Vec<u64> = (0..free.len()).map(alone).collect::<Result<_, ManifestError>>()?;
    let mut room = size.saturating_sub(least.file_len);
    let int8 = loop {
        let int8 = choose::choose(&losses, &bytes, room);
        match header(&int8)?.file_len.saturating_sub(size) {
            0 => break int8,
            over => room = room.saturating_sub(over),
        }
    };
    let choices = free.iter().zip(int8).zip(losses.iter().zip(bytes));
    let choice = |((slot, int8), (&loss, bytes)): ((&Slot, bool), (&f64, u64))| Choice {
        name: slot.to_string(),
        int8,
        loss,
        bytes,
    };
    let tokens = samples.iter().map(|ids| ids.len()).sum();
    Ok(Report { size, tokens, choices: choices.map(choice).collect() })
}

/// Some of the texts, evenly, with this many tokens at most; the last of them may be cut.
fn spread(texts: &[Text], most: usize) -> Vec<&[u32]> {
    let tokens: usize = texts.iter().map(|text| text.ids.len()).sum();
    let step = tokens.div_ceil(most.max(1)).max(1);
    let mut left = most;
    let mut some = Vec::new();
    for text in texts.iter().step_by(step) {
        let ids = &text.ids[..text.ids.len().min(left)];
        left -= ids.len();
        if !ids.is_empty() {
            some.push(ids);
        }
    }
    some
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "mix for {}, by what the usual token of {} loses in q4 (KL, calibrated)",
            Size(self.size),
            self.tokens,
        )?;
        for Choice { name, int8, loss, bytes } in &self.choices {
            let format = if *int8 { "q8" } else { "q4" };
            writeln!(f, "  {format}  {loss:>8.1e}, {:>9} more in q8  {name}", Size(*bytes))?;
        }
        Ok(())
    }
}
