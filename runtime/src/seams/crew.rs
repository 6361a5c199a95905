use core::ops::Range;
use core::ptr;
use core::sync::atomic::Ordering;
#[cfg(not(loom))]
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};

use super::Parallel;

#[cfg(all(loom, test))]
#[path = "crew_model.rs"]
mod model;

/// How cores wait for each other: a platform's way to sleep.
pub trait Park: Sync {
    /// Watches `condition` for as long as that is cheaper than sleeping, and says whether it came
    /// true. It MAY give up at once.
    fn watch(&self, condition: &dyn Fn() -> bool) -> bool;

    /// Sleeps until `word` is something else than `value`. It MAY return early; it MUST return
    /// when [`wake`](Self::wake) is called for this word after the change, also when that happens
    /// between the caller's last look and the sleep.
    fn sleep(&self, word: &AtomicU32, value: u32);

    /// Wakes everybody who sleeps on `word`.
    fn wake(&self, word: &AtomicU32);
}

/// A group of cores for [`Parallel::run`]; the caller is one of them, the others are in
/// [`serve`](Self::serve).
///
/// Each core has a share of the parts, in order: neighbouring parts read neighbouring memory, which
/// the CPU's prefetchers follow from one part to the next only when one core reads them. Parts are
/// claimed one by one, and a core whose share is done helps with the others', so a core that has
/// not been scheduled holds nobody up: the caller works through the loop itself and waits only for
/// parts that somebody has begun. Idle cores watch for a moment, because layers follow each other
/// within microseconds, then sleep. A panic in the loop's body ends the program: the other cores
/// may still be using its data.
///
/// One word for each share, its ticket, says which loop runs and how many of the share's parts
/// nobody has claimed yet. A part is claimed by a compare-and-swap from (loop, n) to (loop, n - 1),
/// so a finished share, (loop, 0), cannot be claimed from by a core that comes late. `parts`,
/// `shares` and `body` are read after a claim: they change only between loops, and a loop does not
/// end before every claimed part is counted in `finished`.
#[derive(Debug)]
pub struct Crew<P> {
    park: P,
    tickets: [Ticket; MOST_SHARES],
    parts: AtomicUsize,
    /// How many tickets the running loop uses.
    shares: AtomicUsize,
    /// Points to the fat reference on the stack of the running loop's caller.
    body: AtomicPtr<Body<'static>>,
    /// Parts of the running loop that are finished; the caller may sleep on it.
    finished: AtomicU32,
    caller_sleeps: AtomicBool,
    /// Changes with every loop; idle members sleep on it.
    signal: AtomicU32,
    sleepers: AtomicU32,
    /// A loop is running: another caller, or a loop inside the loop, runs alone.
    busy: AtomicBool,
    /// Members that serve.
    serving: AtomicUsize,
    stop: AtomicBool,
}

/// Cores beyond these only help the others. The model has few: it tries every order of events.
const MOST_SHARES: usize = if cfg!(loom) { 2 } else { 32 };

/// Alone in its cache lines: other cores look at it only when they have nothing else to do.
#[derive(Debug)]
#[repr(align(128))]
struct Ticket(AtomicU64);

/// Low bits of a ticket: the parts left. The rest: the number of the loop.
const PART_BITS: u32 = 24;
const PART_MASK: u64 = (1 << PART_BITS) - 1;

type Body<'b> = &'b (dyn Fn(usize) + Sync);

impl<P: Park> Crew<P> {
    /// A crew that nobody serves in yet: the caller works alone.
    #[cfg(not(loom))]
    pub const fn new(park: P) -> Self {
        Self {
            park,
            tickets: [const { Ticket(AtomicU64::new(0)) }; MOST_SHARES],
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

    /// The life of a member other than the caller: works at loops until [`stop`](Self::stop).
    pub fn serve(&self) {
        let mut seen = self.signal.load(Ordering::SeqCst);
        let number = self.serving.fetch_add(1, Ordering::Release) + 1;
        while !self.stop.load(Ordering::SeqCst) {
            self.work(number);
            if !self.park.watch(&|| self.signal.load(Ordering::Acquire) != seen) {
                // Either `wake_members` sees this sleeper, or the sleep sees the new signal and
                // returns at once.
                self.sleepers.fetch_add(1, Ordering::SeqCst);
                fence();
                self.park.sleep(&self.signal, seen);
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
            seen = self.signal.load(Ordering::SeqCst);
        }
    }

    /// Ends the members' service.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.wake_members();
    }

    /// Runs one loop; `busy` is held.
    fn run_loop(&self, parts: usize, body: Body<'_>) {
        assert!(parts as u64 <= PART_MASK, "a loop of {parts} parts is too finely cut");
        // SAFETY: this only lengthens the lifetime. A member follows the pointer only after a
        // successful claim of a part, and this function returns only when every part has been
        // finished, so `body` outlives every call; no part can be claimed afterwards.
        let body: Body<'static> = unsafe { core::mem::transmute(body) };
        self.finished.store(0, Ordering::Relaxed);
        self.parts.store(parts, Ordering::Relaxed);
        self.body.store(ptr::from_ref(&body).cast_mut(), Ordering::Relaxed);
        let shares = self.width().min(MOST_SHARES);
        self.shares.store(shares, Ordering::Relaxed);
        let number = (self.tickets[0].0.load(Ordering::Relaxed) >> PART_BITS).wrapping_add(1);
        for (share, ticket) in self.tickets[..shares].iter().enumerate() {
            let len = share_of(parts, share, shares).len() as u64;
            // Publishes the four stores above.
            ticket.0.store(number << PART_BITS | len, Ordering::SeqCst);
        }
        self.wake_members();

        self.work(0);
        let parts = parts as u32;
        if !self.park.watch(&|| self.finished.load(Ordering::Acquire) == parts) {
            // The last member wakes us. Either it sees the flag, or we see its count.
            self.caller_sleeps.store(true, Ordering::SeqCst);
            fence();
            loop {
                let finished = self.finished.load(Ordering::SeqCst);
                if finished == parts {
                    break;
                }
                self.park.sleep(&self.finished, finished);
            }
            self.caller_sleeps.store(false, Ordering::Relaxed);
        }
    }

    /// Claims and runs parts until there are none left, first those of core `number`'s own share.
    fn work(&self, number: usize) {
        let unwinding = EndOnUnwind;
        // When a new loop begins meanwhile, this may be the number of the last one: then some
        // shares get no help from this core.
        let shares = self.shares.load(Ordering::Relaxed);
        for share in (0..shares).map(|next| (number + next) % shares) {
            self.work_on(share);
        }
        core::mem::forget(unwinding);
    }

    /// Claims and runs parts of a share until there are none left.
    fn work_on(&self, share: usize) {
        let ticket = &self.tickets[share].0;
        let mut left = ticket.load(Ordering::Acquire);
        while left & PART_MASK > 0 {
            let claim =
                ticket.compare_exchange_weak(left, left - 1, Ordering::AcqRel, Ordering::Acquire);
            if let Err(now) = claim {
                left = now;
                continue;
            }
            let parts = self.parts.load(Ordering::Relaxed);
            let range = share_of(parts, share, self.shares.load(Ordering::Relaxed));
            let body = self.body.load(Ordering::Relaxed);
            // SAFETY: the claim succeeded, so the loop of this ticket is running: its caller is
            // inside `run_loop`, where the reference that `body` points to lives, until this part
            // is counted below.
            let call = unsafe { *body };
            call(range.end - (left & PART_MASK) as usize);
            left -= 1;
            // Release: the caller sees what the part wrote. Sequential: see `run_loop`.
            let finished = self.finished.fetch_add(1, Ordering::SeqCst) + 1;
            fence();
            if finished as usize == parts && self.caller_sleeps.load(Ordering::SeqCst) {
                self.park.wake(&self.finished);
            }
        }
    }

    fn wake_members(&self) {
        self.signal.fetch_add(1, Ordering::SeqCst);
        fence();
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.park.wake(&self.signal);
        }
    }
}

impl<P: Park> Parallel for Crew<P> {
    fn width(&self) -> usize {
        self.serving.load(Ordering::Acquire) + 1
    }

    fn run(&self, parts: usize, body: &(dyn Fn(usize) + Sync)) {
        if parts <= 1 || self.width() == 1 || self.busy.swap(true, Ordering::Acquire) {
            return (0..parts).for_each(body);
        }
        self.run_loop(parts, body);
        self.busy.store(false, Ordering::Release);
    }
}

/// Sequential operations have one order of all; the model knows that of fences only.
fn fence() {
    #[cfg(loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}

/// The parts of a share: all shares are nearly equal.
fn share_of(parts: usize, share: usize, shares: usize) -> Range<usize> {
    parts * share / shares..parts * (share + 1) / shares
}

/// Ends the program when a panic unwinds through its scope: a panic while one unwinds aborts.
struct EndOnUnwind;

impl Drop for EndOnUnwind {
    fn drop(&mut self) {
        panic!("a part of a loop panicked while other cores may be using its data");
    }
}
