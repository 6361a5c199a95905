use core::marker::PhantomData;

/// A fixed group of cores that run one loop at a time.
///
/// `run` MUST call `body` exactly once for every part in `0..parts`, on any core and in any order,
/// and MUST NOT return before all calls have returned. The engine splits work so that no result
/// depends on which core did what, nor on how many there are.
pub trait Parallel: Sync {
    /// How many cores take part.
    fn width(&self) -> usize;
    /// Runs `body(0)` to `body(parts - 1)`.
    fn run(&self, parts: usize, body: &(dyn Fn(usize) + Sync));
}

/// One core: a plain loop, no synchronisation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serial;

impl Parallel for Serial {
    fn width(&self) -> usize {
        1
    }
    fn run(&self, parts: usize, body: &(dyn Fn(usize) + Sync)) {
        (0..parts).for_each(body);
    }
}

/// A slice cut into equal chunks that different cores may write at the same time.
pub struct Chunks<'s, T> {
    start: *mut T,
    len: usize,
    chunk: usize,
    data: PhantomData<&'s mut [T]>,
}

// SAFETY: a `Chunks` only hands out disjoint `&mut [T]` (a duty of `get`'s caller), which may be
// sent to other threads when `T` may.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

impl<'s, T> Chunks<'s, T> {
    /// Cuts `data` into chunks of `chunk` elements; the last may be shorter.
    pub fn new(data: &'s mut [T], chunk: usize) -> Self {
        assert!(chunk > 0);
        Self { start: data.as_mut_ptr(), len: data.len(), chunk, data: PhantomData }
    }

    /// How many chunks there are.
    pub fn count(&self) -> usize {
        self.len.div_ceil(self.chunk)
    }

    /// Chunk `index`.
    ///
    /// # Safety
    /// No two live references may be to the same chunk: within one [`Parallel::run`] each index is
    /// asked for by one part only, once.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that chunks are not aliased")]
    pub unsafe fn get(&self, index: usize) -> &mut [T] {
        let from = index * self.chunk;
        assert!(from < self.len);
        let len = self.chunk.min(self.len - from);
        // SAFETY: `from + len <= self.len` keeps it inside the slice borrowed for 's, and the
        // caller promises that nobody else holds this chunk.
        unsafe { core::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}

/// Calls `body(index, chunk)` for every chunk of `data`, spread over the cores.
pub fn for_each_chunk<T: Send>(
    parallel: &dyn Parallel,
    data: &mut [T],
    chunk: usize,
    body: impl Fn(usize, &mut [T]) + Sync,
) {
    let chunks = Chunks::new(data, chunk);
    parallel.run(chunks.count(), &|index| {
        // SAFETY: `run` calls each index exactly once.
        body(index, unsafe { chunks.get(index) });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_visited_once_and_the_last_may_be_short() {
        let mut data = [0_u8; 11];
        for_each_chunk(&Serial, &mut data, 4, |index, chunk| {
            assert_eq!(chunk.len(), [4, 4, 3][index]);
            chunk.iter_mut().for_each(|x| *x += 1 + index as u8);
        });
        assert_eq!(data, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]);
    }
}
