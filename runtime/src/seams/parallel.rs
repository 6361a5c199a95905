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

/// A slice of which different cores may write different parts at the same time.
pub struct Shared<'s, T> {
    start: *mut T,
    len: usize,
    data: PhantomData<&'s mut [T]>,
}

// SAFETY: a `Shared` only hands out disjoint `&mut [T]` (a duty of `part`'s caller), which may be
// sent to other threads when `T` may.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'s, T> Shared<'s, T> {
    /// Shares `data` among the parts of a loop.
    pub fn new(data: &'s mut [T]) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len(), data: PhantomData }
    }

    /// The elements `from..from + len`.
    ///
    /// # Safety
    /// No two live references may overlap: within one [`Parallel::run`] each element is asked for
    /// by one part only, and that part drops one reference before it asks for the same again.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that parts do not overlap")]
    pub unsafe fn part(&self, from: usize, len: usize) -> &mut [T] {
        assert!(from <= self.len && len <= self.len - from);
        // SAFETY: the range lies inside the slice borrowed for 's, and the caller promises that
        // nobody else holds any of it.
        unsafe { core::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}

/// Calls `body(index, chunk)` for every chunk of `chunk` elements of `data`, the last may be
/// shorter, spread over the cores.
pub fn for_each_chunk<T: Send>(
    parallel: &dyn Parallel,
    data: &mut [T],
    chunk: usize,
    body: impl Fn(usize, &mut [T]) + Sync,
) {
    let len = data.len();
    let shared = Shared::new(data);
    parallel.run(len.div_ceil(chunk), &|index| {
        let from = index * chunk;
        // SAFETY: `run` calls each index exactly once and chunks do not overlap.
        body(index, unsafe { shared.part(from, chunk.min(len - from)) });
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
