use core::marker::PhantomData;
use core::ptr::NonNull;

use super::super::StorageError;
use super::PAST_END;

/// A part of a read, to be performed once: its bytes belong to whoever holds it.
#[derive(Debug)]
#[must_use = "a read is complete only when all of its pieces have come back"]
pub struct Piece<'a> {
    /// The read's place.
    pub(super) read: usize,
    pub(super) offset: u64,
    pub(super) start: NonNull<u8>,
    pub(super) progress: Progress,
    buffer: PhantomData<&'a mut [u8]>,
}

// SAFETY: a piece is the only access to its bytes, which were an exclusive slice.
unsafe impl Send for Piece<'_> {}

impl Piece<'_> {
    /// `len` bytes from `offset` of the device on, to be written from `start` on.
    ///
    /// # Safety
    /// The memory is valid for `'a`, and nobody else touches it while the piece exists.
    pub(super) unsafe fn new(read: usize, offset: u64, start: NonNull<u8>, len: usize) -> Self {
        Self { read, offset, start, progress: Progress::new(len), buffer: PhantomData }
    }

    /// First byte of the device that is still missing.
    pub fn offset(&self) -> u64 {
        self.offset + self.progress.bytes as u64
    }

    /// The bytes that are still missing.
    pub fn buffer(&mut self) -> &mut [u8] {
        // SAFETY: `new` was promised that these bytes are nobody else's.
        let whole =
            unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.progress.len) };
        &mut whole[self.progress.bytes..]
    }
}

/// What a device says of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// So many more bytes have arrived, from the first missing one on; 0 at the end of the device.
    Arrived(usize),
    /// Nothing arrived, which says nothing of the device: it is tried again at once, some
    /// dozens of times; then it is this error.
    Interrupted(StorageError),
    /// It cannot be read.
    Failed(StorageError),
}

/// How often a piece may be interrupted.
pub(super) const INTERRUPTIONS: u32 = 64;

/// How far a piece, or another read that may come short, has got.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Bytes that are wanted.
    len: usize,
    /// Bytes that have arrived.
    bytes: usize,
    interruptions: u32,
}

impl Progress {
    /// None of `len` bytes yet.
    pub const fn new(len: usize) -> Self {
        Self { len, bytes: 0, interruptions: 0 }
    }

    /// Bytes that have arrived.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether all bytes have arrived.
    pub const fn is_whole(&self) -> bool {
        self.bytes == self.len
    }

    /// How often it was interrupted.
    pub const fn interruptions(&self) -> u32 {
        self.interruptions
    }

    /// Takes what the device said, which reads in steps of `alignment`.
    ///
    /// # Panics
    /// When more arrived than was wanted: memory cannot be trusted any more.
    pub fn advance(&mut self, outcome: Outcome, alignment: usize) -> Result<(), StorageError> {
        match outcome {
            // A device stops within a block only where it ends.
            Outcome::Arrived(bytes) if bytes == 0 || !bytes.is_multiple_of(alignment) => {
                Err(PAST_END)
            }
            Outcome::Arrived(bytes) => {
                assert!(bytes <= self.len - self.bytes, "more arrived than was asked for");
                self.bytes += bytes;
                Ok(())
            }
            Outcome::Interrupted(_) if self.interruptions < INTERRUPTIONS => {
                self.interruptions += 1;
                Ok(())
            }
            Outcome::Interrupted(error) | Outcome::Failed(error) => Err(error),
        }
    }
}
