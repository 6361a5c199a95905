//! Where images come from on Linux.
//!
//! A [`Disk`] is an image file, or an ExecuTorch program that holds an image (`program`). Its reads go straight into their buffers ([`Source`]), in pieces
//! ([`rill::seams::pieces`]), by workers of their own (`service`): one with io_uring or, where that is
//! missing or forbidden, a few that block.

mod disk;
mod probe;
mod program;
mod queue;
mod service;
mod source;
#[cfg(test)]
mod suite;
mod threads;
mod uring;

pub use disk::{Disk, OpenError, Via};
pub use probe::{Probe, probe, probe_file, tune};
pub use program::image_in;
pub use queue::Queue;
pub use service::{MAX_DEPTH, REQUESTS};
pub use source::Source;
