//! Memory for one step of whichever sequence an engine works on.

use crate::arena::{Arena, ArenaFull};
use crate::image::Manifest;
use crate::sampler::set_words;
use crate::tokenizer::SCRATCH_WORDS_PER_BYTE;

/// Longest run of text without a place to cut, in bytes.
pub const PIECE_BYTES: usize = 8 << 10;

/// What an engine writes on, for whichever sequence it works.
#[derive(Debug)]
pub struct Desk<'a> {
    /// Of some rows of the last batch, (rows, vocab).
    pub logits: &'a mut [f32],
    /// One row of them, for the sampler to spoil.
    pub choice: &'a mut [f32],
    /// Room for a set of tokens.
    pub marks: &'a mut [u32],
    /// Scratch of the tokenizer.
    pub pieces: &'a mut [u32],
}

impl<'a> Desk<'a> {
    /// Bytes it takes, for the logits of `rows` rows.
    pub fn bytes(manifest: &Manifest, rows: usize) -> usize {
        let vocab = manifest.shape.vocab as usize;
        Arena::cost::<f32>(vocab * rows)
            + Arena::cost::<f32>(vocab)
            + Arena::cost::<u32>(set_words(vocab))
            + Arena::cost::<u32>(PIECE_BYTES * SCRATCH_WORDS_PER_BYTE)
    }

    /// Takes its memory.
    pub fn new(manifest: &Manifest, rows: usize, arena: &mut Arena<'a>) -> Result<Self, ArenaFull> {
        let vocab = manifest.shape.vocab as usize;
        Ok(Self {
            logits: arena.zeros(vocab * rows)?,
            choice: arena.zeros(vocab)?,
            marks: arena.zeros(set_words(vocab))?,
            pieces: arena.zeros(PIECE_BYTES * SCRATCH_WORDS_PER_BYTE)?,
        })
    }
}
