//! Threads that run one loop at a time.

use std::io;
use std::process::abort;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle, yield_now};
use std::time::{Duration, Instant};

use rill::seams::Parallel;
use rustix::thread::futex;

/// A group of threads for [`Parallel::run`]; the caller is one of them.
///
/// Parts are claimed one by one, so a thread that the system has not scheduled holds nobody up:
/// the caller works through the loop itself and waits only for parts that somebody has begun. Idle
/// threads spin for a moment, because layers follow each other within microseconds, then sleep.
/// A panic in the loop's body ends the process: the other threads may still be using its data.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// How long an idle thread watches for work before it sleeps.
const SPIN: Duration = Duration::from_micros(30);
/// Kernels need a few KiB; only what is touched is ever backed by RAM.
const STACK: usize = 256 << 10;
/// Low bits of a ticket: the parts left. The rest: the number of the loop.
const PART_BITS: u32 = 24;
const PART_MASK: u64 = (1 << PART_BITS) - 1;

type Body<'b> = &'b (dyn Fn(usize) + Sync);

/// What the threads share.
///
/// One word, `ticket`, says which loop runs and how many of its parts nobody has claimed yet. A
/// part is claimed by a compare-and-swap from (loop, n) to (loop, n - 1), so a finished loop,
/// (loop, 0), cannot be claimed from by a thread that comes late. `parts` and `body` are read
/// after a claim: they change only between loops, and a loop does not end before every claimed
/// part is counted in `finished`.
#[derive(Debug, Default)]
struct Shared {
    ticket: AtomicU64,
    parts: AtomicUsize,
    /// Points to the fat reference on the stack of the running loop's caller.
    body: AtomicPtr<Body<'static>>,
    /// Parts of the running loop that are finished; the caller may sleep on it.
    finished: AtomicU32,
    caller_sleeps: AtomicBool,
    /// Changes with every loop; idle workers sleep on it.
    signal: AtomicU32,
    sleepers: AtomicU32,
    /// A loop is running: another caller, or a loop inside the loop, runs alone.
    busy: AtomicBool,
    /// Workers that have begun.
    started: AtomicUsize,
    stop: AtomicBool,
}

impl Pool {
    /// Starts `width - 1` threads and waits until they run.
    pub fn new(width: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut pool = Self { shared, workers: Vec::new() };
        for number in 1..width {
            let shared = Arc::clone(&pool.shared);
            let thread = Builder::new().name(format!("rill-core-{number}")).stack_size(STACK);
            pool.workers.push(thread.spawn(move || shared.serve())?);
        }
        // A thread allocates while it starts: afterwards nothing does.
        while pool.shared.started.load(Ordering::Relaxed) < pool.workers.len() {
            yield_now();
        }
        Ok(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake_workers();
        for worker in self.workers.drain(..) {
            // A worker cannot panic: it aborts.
            let _ = worker.join();
        }
    }
}

impl Parallel for Pool {
    fn width(&self) -> usize {
        self.workers.len() + 1
    }

    fn run(&self, parts: usize, body: &(dyn Fn(usize) + Sync)) {
        if parts <= 1 || self.workers.is_empty() || self.shared.busy.swap(true, Ordering::Acquire) {
            return (0..parts).for_each(body);
        }
        self.shared.run(parts, body);
        self.shared.busy.store(false, Ordering::Release);
    }
}

impl Shared {
    /// Runs one loop; `busy` is held.
    fn run(&self, parts: usize, body: Body<'_>) {
        assert!(parts as u64 <= PART_MASK, "a loop of {parts} parts is too finely cut");
        // SAFETY: this only lengthens the lifetime. A worker follows the pointer only after a
        // successful claim of a part, and this function returns only when every part has been
        // finished, so `body` outlives every call; no part can be claimed afterwards.
        let body: Body<'static> = unsafe { std::mem::transmute(body) };
        self.finished.store(0, Ordering::Relaxed);
        self.parts.store(parts, Ordering::Relaxed);
        self.body.store(ptr::from_ref(&body).cast_mut(), Ordering::Relaxed);
        let number = (self.ticket.load(Ordering::Relaxed) >> PART_BITS).wrapping_add(1);
        // Publishes the three stores above.
        self.ticket.store(number << PART_BITS | parts as u64, Ordering::SeqCst);
        self.wake_workers();

        self.work();
        let parts = parts as u32;
        if !spin_until(|| self.finished.load(Ordering::Acquire) == parts) {
            // The last worker wakes us. Either it sees the flag, or we see its count.
            self.caller_sleeps.store(true, Ordering::SeqCst);
            loop {
                let finished = self.finished.load(Ordering::SeqCst);
                if finished == parts {
                    break;
                }
                // An error means that the count has changed already, or a signal: look again.
                let _ = futex::wait(&self.finished, futex::Flags::PRIVATE, finished, None);
            }
            self.caller_sleeps.store(false, Ordering::Relaxed);
        }
    }

    /// Claims and runs parts until there are none left.
    fn work(&self) {
        let unwinding = AbortOnUnwind;
        let mut ticket = self.ticket.load(Ordering::Acquire);
        while ticket & PART_MASK > 0 {
            let claim = self.ticket.compare_exchange_weak(
                ticket,
                ticket - 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            if let Err(now) = claim {
                ticket = now;
                continue;
            }
            let (parts, body) =
                (self.parts.load(Ordering::Relaxed), self.body.load(Ordering::Relaxed));
            // SAFETY: the claim succeeded, so the loop of this ticket is running: its caller is
            // inside `run`, where the reference that `body` points to lives, until this part is
            // counted below.
            let call = unsafe { *body };
            call(parts - (ticket & PART_MASK) as usize);
            ticket -= 1;
            // Release: the caller sees what the part wrote. Sequential: see `run`.
            let finished = self.finished.fetch_add(1, Ordering::SeqCst) + 1;
            if finished as usize == parts && self.caller_sleeps.load(Ordering::SeqCst) {
                let _ = futex::wake(&self.finished, futex::Flags::PRIVATE, 1);
            }
        }
        std::mem::forget(unwinding);
    }

    /// The life of a worker.
    fn serve(&self) {
        let mut seen = self.signal.load(Ordering::SeqCst);
        self.started.fetch_add(1, Ordering::Relaxed);
        while !self.stop.load(Ordering::SeqCst) {
            self.work();
            if !spin_until(|| self.signal.load(Ordering::Acquire) != seen) {
                // Either `wake_workers` sees this sleeper, or the wait sees the new signal and
                // returns at once.
                self.sleepers.fetch_add(1, Ordering::SeqCst);
                let _ = futex::wait(&self.signal, futex::Flags::PRIVATE, seen, None);
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
            seen = self.signal.load(Ordering::SeqCst);
        }
    }

    fn wake_workers(&self) {
        self.signal.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let _ = futex::wake(&self.signal, futex::Flags::PRIVATE, i32::MAX as u32);
        }
    }
}

/// Ends the process when a panic unwinds through its scope.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        abort();
    }
}

/// Watches a condition for a short while; says whether it came true.
fn spin_until(condition: impl Fn() -> bool) -> bool {
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

#[cfg(test)]
mod tests {
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
            let pool = Pool::new(width).unwrap();
            assert_eq!(pool.width(), width);
            for parts in (0..20).chain([100, 1000]) {
                check_all_parts_run_once(&pool, parts);
            }
        }
    }

    #[test]
    fn many_short_loops_with_more_threads_than_cores() {
        let pool = Pool::new(16).unwrap();
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
        let pool = Pool::new(4).unwrap();
        for _ in 0..20 {
            std::thread::sleep(SPIN * 20);
            check_all_parts_run_once(&pool, 9);
        }
    }

    #[test]
    fn a_caller_sleeps_until_a_slow_part_is_done() {
        let pool = Pool::new(2).unwrap();
        let done = AtomicU32::new(0);
        pool.run(2, &|_| {
            std::thread::sleep(Duration::from_millis(5));
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 2);
    }

    #[test]
    fn loops_inside_loops_and_two_callers_are_served() {
        let pool = Pool::new(3).unwrap();
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
