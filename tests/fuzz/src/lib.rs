//! What the fuzz targets share: damage to a sound file, and a tiny model to damage.
//!
//! `cargo xtask test --only fuzz` runs each for a fixed number of inputs, from the seeds in `seeds/`
//! on. For longer, and with a sanitizer, from the top of the repository, with a nightly compiler and
//! `cargo-fuzz`: `cargo +nightly fuzz run --fuzz-dir tests/fuzz image -- -max_total_time=600`, or
//! `gguf`, or `reseal`.

use arbitrary::Arbitrary;

#[path = "../../../xtask/pack/tests/common/mod.rs"]
pub mod common;

/// Bytes that stand somewhere else than they should, or should not be there at all.
#[derive(Debug, Arbitrary)]
pub enum Edit {
    /// These bytes stand at `at`.
    Put { at: u32, bytes: Vec<u8> },
    /// One bit differs.
    Flip { at: u32, bit: u8 },
    /// The number that stands at `at`, 8 bytes wide, is larger by so much.
    Add { at: u32, amount: i16 },
    /// `len` bytes at `from` stand at `to` too.
    Copy { from: u32, to: u32, len: u16 },
}

impl Edit {
    /// Changes `bytes`; places beyond the end wrap round.
    pub fn apply(&self, bytes: &mut [u8]) {
        let len = bytes.len();
        if len == 0 {
            return;
        }
        let place = |at: u32| at as usize % len;
        match *self {
            Self::Put { at, bytes: ref put } => {
                bytes[place(at)..].iter_mut().zip(put).for_each(|(byte, put)| *byte = *put);
            }
            Self::Flip { at, bit } => bytes[place(at)] ^= 1 << (bit % 8),
            Self::Add { at, amount } => {
                if let Some(number) = bytes[place(at)..].first_chunk_mut::<8>() {
                    let sum = u64::from_le_bytes(*number).wrapping_add_signed(amount.into());
                    *number = sum.to_le_bytes();
                }
            }
            Self::Copy { from, to, len: count } => {
                let (from, to) = (place(from), place(to));
                let count = usize::from(count).min(len - from).min(len - to);
                bytes.copy_within(from..from + count, to);
            }
        }
    }
}

/// A model of a few hundred KiB.
pub fn tiny() -> common::tiny::Tiny {
    common::tiny::Tiny {
        hidden: 32,
        heads: 2,
        kv_heads: 1,
        dense_ff: 32,
        experts: 3,
        attention: vec![false, true, false],
        ..Default::default()
    }
}
