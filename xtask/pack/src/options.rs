use std::ops::ControlFlow;
use std::path::PathBuf;

use rill::image::layout::Format;

use crate::manifest::Slot;

/// How weights are stored that cannot be carried over as they are.
///
/// Q4_0 and Q8_0 tensors are carried over exactly whatever is chosen here, unless they share a
/// matrix (or, for experts, the pages) with tensors that must be quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The experts.
    pub experts: Format,
    /// Projections and dense feed-forward parts.
    pub dense: Format,
    /// The token embedding and the output head.
    pub embedding: Format,
}

impl Default for Options {
    fn default() -> Self {
        Self { experts: Format::Q4, dense: Format::Q8, embedding: Format::Q8 }
    }
}

impl Options {
    /// What is asked for a matrix.
    pub(crate) fn format(&self, slot: Slot) -> Format {
        match slot {
            Slot::Embedding | Slot::Head => self.embedding,
            Slot::Dense { .. } => self.dense,
            Slot::GateUp | Slot::Down => self.experts,
        }
    }
}

/// What int4 values are chosen with, and how many bytes the image may have.
#[derive(Debug, Clone, Copy)]
pub struct Calibration<'a> {
    /// Files of sample texts (see [`Reader::read`](crate::texts::Reader::read)).
    pub texts: &'a [PathBuf],
    /// Most bytes of the image. Where there is one, it decides on formats instead of [`Options`]: each matrix
    /// is int4 or int8, whichever mix loses least.
    pub target_size: Option<u64>,
}

impl<'a> Calibration<'a> {
    /// With these texts, in the formats that [`Options`] name.
    pub const fn with(texts: &'a [PathBuf]) -> Self {
        Self { texts, target_size: None }
    }
}

/// Hears how far packing is.
pub trait Progress {
    /// So much of the choice of formats for a size is done, before calibration. `Break` stops it.
    fn choose(&self, done: usize, of: usize) -> ControlFlow<()> {
        let _ = (done, of);
        ControlFlow::Continue(())
    }
    /// So much of calibration is done, before anything else is written. `Break` stops it; what is done of
    /// it is kept.
    fn calibrate(&self, done: usize, of: usize) -> ControlFlow<()> {
        let _ = (done, of);
        ControlFlow::Continue(())
    }
    /// The image will have this many bytes.
    fn start(&self, bytes: u64);
    /// This many more are written. `Break` stops packing.
    fn advance(&self, bytes: u64) -> ControlFlow<()>;
    /// This many more were there already, from an attempt that ended early.
    fn pass(&self, bytes: u64) -> ControlFlow<()> {
        self.advance(bytes)
    }
}

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn start(&self, _: u64) {}
    fn advance(&self, _: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}
