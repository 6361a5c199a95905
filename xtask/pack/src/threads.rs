//! Threads that encode weights: as many as there are cores, or as many as the system allows.

use std::num::NonZero;
use std::sync::OnceLock;
use std::thread::available_parallelism;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// The threads; `None` when there is only the caller's.
pub fn pool() -> Option<&'static ThreadPool> {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    let start = |threads| ThreadPoolBuilder::new().num_threads(threads).build().ok();
    POOL.get_or_init(|| largest(available_parallelism().map_or(1, NonZero::get), start)).as_ref()
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
mod tests {
    use super::*;

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
