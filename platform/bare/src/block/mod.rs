//! The block device of the board.

#[cfg(block = "sdhci")]
mod card;
#[cfg(block = "virtio")]
pub mod virtio;

#[cfg(block = "sdhci")]
pub use card::open;
#[cfg(block = "virtio")]
pub use virtio::open;

/// No block device answers, or somebody has it already.
#[derive(Debug)]
pub struct NoDevice;
