//! Beginnings of prompts that need not be computed again: the one place where answers meet what the
//! engine remembers.

use rill::engine::Engine;
use rill::sequence::{Sequence, SequenceError};

/// Makes `tokens` the sequence, which was empty. Returns how many of them need no computing.
pub fn begin<'a>(
    engine: &mut Engine<'a>,
    sequence: &mut Sequence<'a>,
    tokens: &[u32],
) -> Result<usize, SequenceError> {
    engine.append(sequence, tokens)?;
    Ok(engine.reuse(sequence))
}

/// Gives back what a sequence has; what was computed of it is known from now on.
pub fn end<'a>(engine: &mut Engine<'a>, sequence: &mut Sequence<'a>) {
    engine.remember(sequence);
    engine.reset(sequence);
}
