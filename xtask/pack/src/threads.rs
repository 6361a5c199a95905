//! Threads that encode weights: as many as there are cores, or as many as the system allows.

use std::num::NonZero;
use std::sync::OnceLock;
use std::thread::available_parallelism;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// The threads; `None` when there is only the caller's.
pub fn pool() -> Option<&'static ThreadPool> {
    #[cfg(test)]
    if tests::ALONE.get() {
        return None;
    }
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    let start = |threads| ThreadPoolBuilder::new().num_threads(threads).build().ok();
    POOL.get_or_init(|| largest(available_parallelism().map_or(1, NonZero::get), start)).as_ref()
}

/// How many there are, the caller's alone included.
pub fn count() -> usize {
    pool().map_or(1, ThreadPool::current_num_threads)
}

/// Calls `work` with the number and the content of each run of `len` elements, in any order.
pub fn each<T: Send>(all: &mut [T], len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let len = len.max(1);
    match pool() {
        Some(pool) => pool.install(|| {
            all.par_chunks_mut(len).enumerate().for_each(|(index, run)| work(index, run));
        }),
        None => all.chunks_mut(len).enumerate().for_each(|(index, run)| work(index, run)),
    }
}

/// Starts `most` threads, or half as many, and so on. A limit on processes may allow none.
fn largest<T>(most: usize, start: impl Fn(usize) -> Option<T>) -> Option<T> {
    let mut threads = most;
    while threads > 1 {
        if let Some(pool) = start(threads) {
            return Some(pool);
        }
        threads /= 2;
    }
    None
}

#[cfg(test)]
pub mod tests {
    use std::cell::Cell;

    use super::*;

    std::thread_local! {
        /// Whether a thread of a test is to work alone.
        pub static ALONE: Cell<bool> = const { Cell::new(false) };
    }

    #[test]
    fn as_many_threads_as_can_be_had_are_used() {
        for (most, allowed, expected) in
            [(8, 8, Some(8)), (8, 3, Some(2)), (8, 1, None), (8, 0, None), (1, 1, None)]
        {
            let start = |threads| (threads <= allowed).then_some(threads);
            assert_eq!(largest(most, start), expected);
        }
    }
}
