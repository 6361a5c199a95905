//! The block device of the board.

#[cfg(block = "virtio")]
pub mod virtio;

#[cfg(block = "virtio")]
pub use virtio::open;
