//! What can be wrong with what was kept elsewhere, and the tokens in it.

use crate::sequence::SequenceError;

/// Why a sequence, or what is known, was not written or taken back. `E` is the own error of whoever keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveError<E> {
    /// The sequence says no: its context or the memory for keys and values is too small.
    Sequence(SequenceError),
    /// Whoever keeps it cannot.
    Keeper(E),
    /// It contradicts itself.
    Damaged,
}

/// Reads tokens of a model that has `vocab` of them.
pub fn read_tokens<E>(
    tokens: &mut [u32],
    vocab: u32,
    read: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
) -> Result<(), SaveError<E>> {
    read(bytemuck::cast_slice_mut(tokens)).map_err(SaveError::Keeper)?;
    if tokens.iter().all(|&id| id < vocab) { Ok(()) } else { Err(SaveError::Damaged) }
}

/// Reads so many bytes for nobody.
pub(crate) fn pass_over<E>(
    bytes: u64,
    read: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffer = [0; 256];
    let mut left = bytes;
    while left > 0 {
        let part = left.min(buffer.len() as u64);
        read(&mut buffer[..part as usize])?;
        left -= part;
    }
    Ok(())
}
