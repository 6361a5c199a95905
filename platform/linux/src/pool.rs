//! Threads that run one loop at a time.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::thread::{Builder, JoinHandle, yield_now};
use std::time::{Duration, Instant};

use rill::seams::{Crew, Parallel, Park};
use rustix::thread::futex;

/// A [`Crew`] of threads.
#[derive(Debug)]
pub struct Pool {
    crew: Arc<Crew<Futex>>,
    workers: Vec<JoinHandle<()>>,
}

/// How long an idle thread watches for work before it sleeps: longer than the caller takes between
/// two loops of a layer, and about what it takes to wake a thread on a virtual machine.
const SPIN: Duration = Duration::from_micros(100);
/// Kernels need a few KiB; only what is touched is ever backed by RAM.
const STACK: usize = 256 << 10;

impl Pool {
    /// Most threads that a program may ask for, those of the largest machines: a process that starts as
    /// many as the system allows has no memory map left for the next one's stack, and is ended for it.
    pub const MOST: usize = 1024;

    /// Starts `width - 1` threads, or fewer where the system refuses more or they would be more than
    /// [`Self::MOST`] with the caller, and waits until they run.
    pub fn new(width: usize) -> Self {
        let mut pool = Self { crew: Arc::new(Crew::new(Futex)), workers: Vec::new() };
        for number in 1..width.min(Self::MOST) {
            let crew = Arc::clone(&pool.crew);
            let thread = Builder::new().name(format!("rill-core-{number}")).stack_size(STACK);
            let Ok(worker) = thread.spawn(move || crew.serve()) else { break };
            pool.workers.push(worker);
        }
        // A thread allocates while it starts: afterwards nothing does.
        while pool.crew.width() <= pool.workers.len() {
            yield_now();
        }
        pool
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.crew.stop();
        for worker in self.workers.drain(..) {
            // A worker cannot panic: the process ends.
            let _ = worker.join();
        }
    }
}

impl Parallel for Pool {
    fn width(&self) -> usize {
        self.crew.width()
    }

    fn run(&self, parts: usize, body: &(dyn Fn(usize) + Sync)) {
        self.crew.run(parts, body);
    }
}

/// Sleeping as the kernel offers it.
#[derive(Debug)]
struct Futex;

impl Park for Futex {
    fn watch(&self, condition: &dyn Fn() -> bool) -> bool {
        let mut start = None;
        loop {
            for _ in 0..64 {
                if condition() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if start.get_or_insert_with(Instant::now).elapsed() >= SPIN {
                return condition();
            }
        }
    }

    fn sleep(&self, word: &AtomicU32, value: u32) {
        // An error means that the word has changed already, or a signal: the caller looks again.
        let _ = futex::wait(word, futex::Flags::PRIVATE, value, None);
    }

    fn wake(&self, word: &AtomicU32) {
        let _ = futex::wake(word, futex::Flags::PRIVATE, i32::MAX as u32);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn check_all_parts_run_once(pool: &Pool, parts: usize) {
        let counts: Vec<AtomicU32> = (0..parts).map(|_| AtomicU32::new(0)).collect();
        pool.run(parts, &|part| {
            counts[part].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{parts} parts");
    }

    #[test]
    fn every_part_runs_once_at_every_width() {
        for width in [1, 2, 3, 8, 33] {
            let pool = Pool::new(width);
            assert_eq!(pool.width(), width);
            for parts in (0..20).chain([100, 1000]) {
                check_all_parts_run_once(&pool, parts);
            }
        }
    }

    #[test]
    fn nobody_gets_more_threads_than_a_machine_has() {
        assert!(Pool::new(usize::MAX).width() <= Pool::MOST);
    }

    #[test]
    fn many_short_loops_with_more_threads_than_cores() {
        let pool = Pool::new(16);
        let total = AtomicUsize::new(0);
        for round in 0..5000 {
            pool.run(round % 7, &|part| {
                total.fetch_add(part + 1, Ordering::Relaxed);
            });
        }
        let expected: usize = (0..5000).map(|round| (round % 7) * (round % 7 + 1) / 2).sum();
        assert_eq!(total.load(Ordering::Relaxed), expected);
    }

    #[test]
    fn workers_that_fell_asleep_wake_up() {
        let pool = Pool::new(4);
        for _ in 0..20 {
            std::thread::sleep(SPIN * 20);
            check_all_parts_run_once(&pool, 9);
        }
    }

    #[test]
    fn a_caller_sleeps_until_a_slow_part_is_done() {
        let pool = Pool::new(2);
        let done = AtomicU32::new(0);
        pool.run(2, &|_| {
            std::thread::sleep(Duration::from_millis(5));
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 2);
    }

    #[test]
    fn loops_inside_loops_and_two_callers_are_served() {
        let pool = Pool::new(3);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let count = AtomicU32::new(0);
                        pool.run(5, &|_| {
                            pool.run(4, &|_| {
                                count.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                        assert_eq!(count.into_inner(), 20);
                    }
                });
            }
        });
    }
}
