//! Block devices: [`Queue`] makes the engine's storage of a [`Driver`], which moves blocks.

mod queue;
pub mod sdhci;

use core::ptr::NonNull;

use rill::seams::StorageError;

pub use queue::{Queue, REQUESTS, STALL};

/// Bytes of a block.
pub const BLOCK: usize = 512;
/// Most pieces that a driver moves at once.
pub const MAX_DEPTH: usize = 16;

/// A piece that a driver is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Its slot.
    pub slot: usize,
    /// Whether all of it was read.
    pub result: Result<(), StorageError>,
}

/// A device that reads blocks, several pieces at once where it can.
pub trait Driver {
    /// As in reports.
    fn name(&self) -> &'static str;

    /// Blocks of the device.
    fn blocks(&self) -> u64;

    /// How many pieces it takes at once, 1..=[`MAX_DEPTH`].
    fn depth(&self) -> usize;

    /// Starts to read `into.len()` bytes, whole blocks, from `block` on. `slot`, below the depth,
    /// names the piece and is not in use.
    ///
    /// # Safety
    /// `into` is valid for writes and nobody else touches it until [`poll`](Self::poll) has
    /// returned the slot, or this call an error, or [`reset`](Self::reset) has returned.
    unsafe fn start(
        &mut self,
        slot: usize,
        block: u64,
        into: NonNull<[u8]>,
    ) -> Result<(), StorageError>;

    /// A piece that is finished, if there is one.
    fn poll(&mut self) -> Option<Finished>;

    /// Lets the core rest until the device may have something to say; it MUST return within
    /// milliseconds all the same.
    fn rest(&mut self);

    /// Stops the device and makes it ready for new pieces. Afterwards it touches no buffer that
    /// was given to it before.
    fn reset(&mut self);
}
