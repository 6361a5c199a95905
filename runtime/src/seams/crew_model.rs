//! Every order in which the cores of a crew can meet, tried by loom: each part runs once, all that parts
//! wrote is seen by the caller, and nobody sleeps for good.

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::{Condvar, Mutex};
use loom::thread;

use super::*;

/// Sleeps at once: watching is a longer way to the same.
#[derive(Debug)]
struct Bed {
    lock: Mutex<()>,
    wakes: Condvar,
}

impl Park for Bed {
    fn watch(&self, condition: &dyn Fn() -> bool) -> bool {
        condition()
    }

    fn sleep(&self, word: &AtomicU32, value: u32) {
        let guard = self.lock.lock().unwrap();
        // As a futex does: what it finds under its lock decides.
        fence();
        if word.load(Ordering::SeqCst) == value {
            drop(self.wakes.wait(guard).unwrap());
        }
    }

    fn wake(&self, _: &AtomicU32) {
        drop(self.lock.lock().unwrap());
        self.wakes.notify_all();
    }
}

/// As [`Crew::new`], which is made when the program is built, as loom's atomics cannot be.
fn crew() -> Crew<Bed> {
    Crew {
        park: Bed { lock: Mutex::new(()), wakes: Condvar::new() },
        tickets: std::array::from_fn(|_| Ticket(AtomicU64::new(0))),
        parts: AtomicUsize::new(0),
        shares: AtomicUsize::new(1),
        body: AtomicPtr::new(ptr::null_mut()),
        finished: AtomicU32::new(0),
        caller_sleeps: AtomicBool::new(false),
        signal: AtomicU32::new(0),
        sleepers: AtomicU32::new(0),
        busy: AtomicBool::new(false),
        serving: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
    }
}

/// What the parts of a loop write; loom tells when two threads meet in one of them.
struct Cells([UnsafeCell<u32>; 2]);

// SAFETY: loom checks that no two threads use a cell at the same time, which is what is tried here.
unsafe impl Sync for Cells {}

/// Loops of two parts with one member besides the caller.
fn loops(count: u32) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let crew = Arc::new(crew());
        let member = Arc::clone(&crew);
        let member = thread::spawn(move || member.serve());
        while crew.width() == 1 {
            thread::yield_now();
        }
        let cells = Cells([UnsafeCell::new(0), UnsafeCell::new(0)]);
        for _ in 0..count {
            crew.run(2, &|part| {
                let cells = &cells;
                // SAFETY: each part has its cell.
                cells.0[part].with_mut(|cell| unsafe { *cell += 1 });
            });
        }
        for cell in &cells.0 {
            // SAFETY: the loops have ended.
            assert_eq!(cell.with(|cell| unsafe { *cell }), count);
        }
        crew.stop();
        member.join().unwrap();
    });
}

#[test]
fn a_loop_ends_when_all_its_parts_have() {
    loops(1);
}

#[test]
fn a_member_that_comes_late_does_no_part_of_the_next_loop_twice() {
    loops(2);
}
