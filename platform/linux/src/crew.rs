//! Threads for one task that shares itself out.

use std::panic::resume_unwind;
use std::thread::{Builder, scope};

/// Runs `work` on the calling thread and on `threads - 1` others, or fewer where the system refuses
/// more (`RLIMIT_NPROC`), and collects the results. Each takes the next piece of work until none is
/// left, so the task is done whatever the number of threads.
pub fn crew<T: Send>(threads: usize, work: impl Fn() -> T + Sync) -> Vec<T> {
    scope(|scope| {
        let start = |_| Builder::new().spawn_scoped(scope, &work).ok();
        let helpers: Vec<_> = (1..threads).map_while(start).collect();
        let own = work();
        let others = helpers
            .into_iter()
            .map(|helper| helper.join().unwrap_or_else(|panic| resume_unwind(panic)));
        std::iter::once(own).chain(others).collect()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn all_work_is_done_by_any_number_of_threads() {
        for threads in [0, 1, 2, 7] {
            let next = AtomicUsize::new(0);
            let taken = crew(threads, || {
                let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&n| n < 100);
                std::iter::from_fn(take).count()
            });
            assert_eq!(taken.len(), threads.max(1));
            assert_eq!(taken.iter().sum::<usize>(), 100);
        }
    }
}
