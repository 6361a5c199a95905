//! All of the engine's memory: one slice that the caller owns, cut once, before the first token.

use core::mem::{MaybeUninit, align_of, needs_drop, size_of};

use bytemuck::{Pod, Zeroable};

/// Every piece starts at a multiple of this: a cache line, and what vector loads like best.
pub const PIECE_ALIGN: usize = 64;

/// What is left of an arena.
#[derive(Debug)]
pub struct Arena<'a> {
    rest: &'a mut [u8],
}

/// An arena that is too small for what its plan says. A plan and the code that carves disagree:
/// a bug, not the user's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaFull;

impl<'a> Arena<'a> {
    /// Takes over `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// Cuts off `len` bytes that start at a multiple of `align`.
    pub fn bytes(&mut self, len: usize, align: usize) -> Result<&'a mut [u8], ArenaFull> {
        let rest = core::mem::take(&mut self.rest);
        let skip = rest.as_ptr().align_offset(align);
        match skip.checked_add(len) {
            Some(end) if end <= rest.len() => {
                let (piece, rest) = rest.split_at_mut(end);
                self.rest = rest;
                Ok(&mut piece[skip..])
            }
            _ => {
                self.rest = rest;
                Err(ArenaFull)
            }
        }
    }

    /// Cuts off a sub-arena of `len` bytes.
    pub fn section(&mut self, len: usize, align: usize) -> Result<Self, ArenaFull> {
        self.bytes(len, align).map(Self::new)
    }

    /// `len` zeros.
    pub fn zeros<T: Pod + Zeroable>(&mut self, len: usize) -> Result<&'a mut [T], ArenaFull> {
        let bytes = size_of::<T>().checked_mul(len).ok_or(ArenaFull)?;
        let piece = self.bytes(bytes, PIECE_ALIGN)?;
        piece.fill(0);
        Ok(bytemuck::cast_slice_mut(piece))
    }

    /// `len` elements, each made by `make(index)`.
    pub fn build<T>(
        &mut self,
        len: usize,
        mut make: impl FnMut(usize) -> Result<T, ArenaFull>,
    ) -> Result<&'a mut [T], ArenaFull> {
        const { assert!(!needs_drop::<T>() && align_of::<T>() <= PIECE_ALIGN) };
        let bytes = size_of::<T>().checked_mul(len).ok_or(ArenaFull)?;
        let piece = self.bytes(bytes, PIECE_ALIGN)?;
        let start = piece.as_mut_ptr().cast::<MaybeUninit<T>>();
        // SAFETY: the piece is exclusive, aligned for T and `len` times its size; MaybeUninit<T>
        // may hold any bytes.
        let piece = unsafe { core::slice::from_raw_parts_mut(start, len) };
        for (index, element) in piece.iter_mut().enumerate() {
            element.write(make(index)?);
        }
        // SAFETY: the loop above wrote every element; one that failed left the function.
        Ok(unsafe { core::slice::from_raw_parts_mut(start.cast::<T>(), len) })
    }

    /// Bytes that [`zeros`](Self::zeros) or [`build`](Self::build) take for `len` elements, at
    /// worst.
    pub const fn cost<T>(len: usize) -> usize {
        (size_of::<T>() * len).next_multiple_of(PIECE_ALIGN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_aligned_disjoint_and_end_in_an_error() {
        let mut memory = std::vec![0xff_u8; 1000];
        let mut arena = Arena::new(&mut memory);
        let a = arena.zeros::<f32>(10).unwrap();
        let b = arena.build(3, |i| Ok((i, "x"))).unwrap();
        assert_eq!((a.len(), a[9]), (10, 0.0));
        assert_eq!(b, [(0, "x"), (1, "x"), (2, "x")]);
        assert!((a.as_ptr() as usize).is_multiple_of(PIECE_ALIGN));
        assert_eq!(arena.zeros::<u8>(1000), Err(ArenaFull));
        assert_eq!(arena.zeros::<u64>(usize::MAX), Err(ArenaFull));
        // A failure takes nothing.
        assert!(arena.zeros::<u8>(700).is_ok());
    }
}
