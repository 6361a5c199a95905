//! Reads under way on a block device.
//!
//! A page of several MiB is read in pieces, so that a guess never holds up for long what is needed
//! now. Bookkeeping only: a [`Driver`] moves the bytes.

use core::ptr::NonNull;

use heapless::Deque;
use rill::seams::{
    Clock, Completion, Geometry, Micros, Read, Storage, StorageError, StorageErrorKind, Urgency,
};

use super::{BLOCK, Driver, Finished, MAX_DEPTH};

/// How many reads may be under way.
pub const REQUESTS: usize = 32;
/// Bytes of a piece.
const PIECE: usize = 512 << 10;
/// A device that finishes nothing for so long is started anew.
pub const STALL: Micros = 3_000_000;

/// A block device, or a part of it, as the engine sees it.
pub struct Queue<D> {
    driver: D,
    clock: &'static dyn Clock,
    /// Hears that something went on.
    alive: fn(),
    /// First byte and bytes of the part.
    start: u64,
    len: u64,
    requests: [Option<Request>; REQUESTS],
    demand: Deque<usize, REQUESTS>,
    ahead: Deque<usize, REQUESTS>,
    done: Deque<Completion<'static>, REQUESTS>,
    /// Whose piece each slot of the driver moves.
    slots: [Option<Owner>; MAX_DEPTH],
    /// How a read outside the queue ended.
    direct: Option<Result<(), StorageError>>,
    /// When the device last did something, or was idle.
    progress: Micros,
}

/// Who gets a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Request(usize),
    /// A read outside the queue.
    Direct,
}

struct Request {
    tag: u32,
    offset: u64,
    into: NonNull<[u8]>,
    /// Bytes handed to the driver.
    issued: usize,
    /// Pieces that have not come back.
    outstanding: usize,
    result: Result<(), StorageError>,
}

impl<D: Driver> Queue<D> {
    /// The whole device. `alive` is called whenever a piece is back or a device that did nothing is
    /// given up: a watchdog wants to hear of it.
    pub fn new(driver: D, clock: &'static dyn Clock, alive: fn()) -> Self {
        let len = driver.blocks().saturating_mul(BLOCK as u64);
        Self {
            driver,
            clock,
            alive,
            start: 0,
            len,
            requests: [const { None }; REQUESTS],
            demand: Deque::new(),
            ahead: Deque::new(),
            done: Deque::new(),
            slots: [None; MAX_DEPTH],
            direct: None,
            progress: 0,
        }
    }

    /// From now on only `len` bytes from `start` are seen; both are multiples of a block.
    pub fn narrow(&mut self, start: u64, len: u64) {
        assert!(self.is_idle(), "reads are under way");
        let end = self.driver.blocks().saturating_mul(BLOCK as u64);
        self.start = start.min(end);
        self.len = len.min(end - self.start);
    }

    /// The device.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    fn is_idle(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    fn check(&self, offset: u64, len: usize) -> Result<(), StorageError> {
        assert!(
            offset.is_multiple_of(BLOCK as u64) && len.is_multiple_of(BLOCK),
            "reads are whole blocks"
        );
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(StorageError { kind: StorageErrorKind::PastEnd, code: 0 }),
        }
    }

    /// Takes what the device has finished, starts what can be started, and gives up on a device
    /// that does nothing.
    fn turn(&mut self) {
        while let Some(Finished { slot, result }) = self.driver.poll() {
            self.progress = self.clock.now();
            (self.alive)();
            self.finish(slot, result);
        }
        if self.is_idle() {
            self.progress = self.clock.now();
        } else if self.clock.now().saturating_sub(self.progress) > STALL {
            self.give_up();
        }
        while let Some(slot) = self.free_slot()
            && let Some((index, offset, into)) = self.cut()
        {
            self.begin(slot, Owner::Request(index), offset, into);
        }
    }

    /// Starts the device anew. Every read under way fails: the engine asks again a few times, and
    /// each time all of them cost one time limit together.
    fn give_up(&mut self) {
        // A stalled device is not a hung program: the engine gives up after a few times.
        (self.alive)();
        self.driver.reset();
        let error = StorageError { kind: StorageErrorKind::Stalled, code: 0 };
        (0..MAX_DEPTH).for_each(|slot| self.finish(slot, Err(error)));
        self.demand.clear();
        self.ahead.clear();
        for index in 0..REQUESTS {
            if let Some(request) = &mut self.requests[index] {
                request.result = Err(error);
                self.complete(index);
            }
        }
        self.progress = self.clock.now();
    }

    fn free_slot(&self) -> Option<usize> {
        self.slots[..self.driver.depth().min(MAX_DEPTH)].iter().position(Option::is_none)
    }

    /// Hands a piece to the driver.
    fn begin(&mut self, slot: usize, owner: Owner, offset: u64, into: NonNull<[u8]>) {
        self.slots[slot] = Some(owner);
        let block = (self.start + offset) / BLOCK as u64;
        // SAFETY: the bytes belong to a read that is under way: they were an exclusive slice, and
        // nobody touches them before `finish` has been called for this slot, which happens when
        // the driver says so or after its `reset`.
        if let Err(error) = unsafe { self.driver.start(slot, block, into) } {
            self.finish(slot, Err(error));
        }
    }

    /// Cuts a piece off the first request in line.
    fn cut(&mut self) -> Option<(usize, u64, NonNull<[u8]>)> {
        let line = if self.demand.is_empty() { &mut self.ahead } else { &mut self.demand };
        let index = *line.front()?;
        let request = self.requests[index].as_mut()?;
        let from = request.issued;
        let len = PIECE.min(request.into.len() - from);
        request.issued += len;
        request.outstanding += 1;
        if request.issued == request.into.len() {
            line.pop_front();
        }
        // SAFETY: `from` lies within the request's bytes.
        let start = unsafe { request.into.cast::<u8>().add(from) };
        Some((index, request.offset + from as u64, NonNull::slice_from_raw_parts(start, len)))
    }

    /// A piece has come back.
    fn finish(&mut self, slot: usize, result: Result<(), StorageError>) {
        let index = match self.slots[slot].take() {
            Some(Owner::Request(index)) => index,
            Some(Owner::Direct) => {
                self.direct = Some(result);
                return;
            }
            None => return,
        };
        let Some(request) = &mut self.requests[index] else { return };
        request.outstanding -= 1;
        request.result = request.result.and(result);
        if request.result.is_err() && request.issued < request.into.len() {
            // The rest is not worth reading.
            request.issued = request.into.len();
            for line in [&mut self.demand, &mut self.ahead] {
                remove(line, index);
            }
        }
        if request.issued == request.into.len() && request.outstanding == 0 {
            self.complete(index);
        }
    }

    fn complete(&mut self, index: usize) {
        let Some(Request { tag, mut into, result, .. }) = self.requests[index].take() else {
            return;
        };
        // SAFETY: this was the `&'static mut [u8]` of a read, and every piece of it is back.
        let into = unsafe { into.as_mut() };
        let kept = self.done.push_back(Completion { tag, into, result });
        assert!(kept.is_ok(), "`submit` leaves room for every read");
    }

    /// Reads one piece and waits for it.
    fn read_piece(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let slot = loop {
            self.turn();
            match self.free_slot() {
                Some(slot) => break slot,
                None => self.driver.rest(),
            }
        };
        self.direct = None;
        self.begin(slot, Owner::Direct, offset, NonNull::from(into));
        loop {
            if let Some(result) = self.direct.take() {
                return result;
            }
            self.driver.rest();
            self.turn();
        }
    }
}

/// How long a device rests whose read failed `attempts` times.
fn rest(attempts: u8) -> Micros {
    1000 << attempts.min(6)
}

/// Takes `index` out of a line, the others keep their order.
fn remove(line: &mut Deque<usize, REQUESTS>, index: usize) -> bool {
    let before = line.len();
    for _ in 0..before {
        if let Some(other) = line.pop_front()
            && other != index
        {
            // It has just left, so there is room.
            let _ = line.push_back(other);
        }
    }
    line.len() < before
}

impl<D: Driver> Storage<'static> for Queue<D> {
    fn geometry(&self) -> Geometry {
        Geometry { len: self.len, alignment: BLOCK as u32, depth: REQUESTS as u16 }
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        self.check(offset, into.len())?;
        let mut at = offset;
        for piece in into.chunks_mut(PIECE) {
            self.read_piece(at, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn rest(&mut self, attempt: u8) {
        let due = self.clock.now() + rest(attempt);
        while self.clock.now() < due {
            (self.alive)();
            self.driver.rest();
        }
    }

    fn submit(&mut self, read: Read<'static>) -> Result<(), Read<'static>> {
        let count = self.requests.iter().flatten().count() + self.done.len();
        let free = self.requests.iter().position(Option::is_none);
        let Some(index) = free.filter(|_| count < REQUESTS) else { return Err(read) };
        let Read { tag, offset, into, urgency, .. } = read;
        let result = self.check(offset, into.len());
        let whole = result.is_err() || into.is_empty();
        let issued = if whole { into.len() } else { 0 };
        let into = NonNull::from(into);
        self.requests[index] = Some(Request { tag, offset, into, issued, outstanding: 0, result });
        if whole {
            self.complete(index);
            return Ok(());
        }
        let line = match urgency {
            Urgency::Demand => &mut self.demand,
            Urgency::Ahead => &mut self.ahead,
        };
        let kept = line.push_back(index);
        assert!(kept.is_ok(), "a line has room for every request");
        self.turn();
        Ok(())
    }

    fn hurry(&mut self, tag: u32) {
        let is_it = |index: &usize| self.requests[*index].as_ref().is_some_and(|r| r.tag == tag);
        if let Some(index) = self.ahead.iter().copied().find(is_it) {
            remove(&mut self.ahead, index);
            let kept = self.demand.push_back(index);
            assert!(kept.is_ok(), "a line has room for every request");
        }
    }

    fn poll(&mut self) -> Option<Completion<'static>> {
        self.turn();
        self.done.pop_front()
    }

    fn wait(&mut self) -> Option<Completion<'static>> {
        loop {
            if let Some(completion) = self.poll() {
                return Some(completion);
            }
            if self.requests.iter().all(Option::is_none) {
                return None;
            }
            self.driver.rest();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::vec::Vec;

    use super::*;

    /// A device whose pieces finish when the test says so.
    #[derive(Default)]
    struct Fake {
        depth: usize,
        flying: VecDeque<(usize, u64, NonNull<[u8]>)>,
        /// How many pieces may finish.
        allowed: usize,
        /// What the next pieces say instead of success.
        errors: VecDeque<StorageError>,
        resets: usize,
        rests: usize,
        started: Vec<u64>,
    }

    impl Driver for Fake {
        fn name(&self) -> &'static str {
            "fake"
        }
        fn blocks(&self) -> u64 {
            10_000
        }
        fn depth(&self) -> usize {
            self.depth
        }
        unsafe fn start(
            &mut self,
            slot: usize,
            block: u64,
            into: NonNull<[u8]>,
        ) -> Result<(), StorageError> {
            self.started.push(block);
            self.flying.push_back((slot, block, into));
            Ok(())
        }
        fn poll(&mut self) -> Option<Finished> {
            self.allowed = self.allowed.checked_sub(1)?;
            let Some((slot, block, mut into)) = self.flying.pop_front() else {
                self.allowed += 1;
                return None;
            };
            // SAFETY: `start` was promised exclusive bytes.
            let into = unsafe { into.as_mut() };
            for (at, block_bytes) in into.chunks_mut(BLOCK).enumerate() {
                block_bytes.fill((block + at as u64) as u8);
            }
            let result = self.errors.pop_front().map_or(Ok(()), Err);
            Some(Finished { slot, result })
        }
        fn rest(&mut self) {
            self.rests += 1;
        }
        fn reset(&mut self) {
            self.resets += 1;
            self.flying.clear();
        }
    }

    /// A clock that moves only when it is looked at.
    struct Looked(AtomicU64);

    impl Clock for Looked {
        fn now(&self) -> Micros {
            // Each look takes a millisecond: a device that does nothing stalls after 3000.
            self.0.fetch_add(1000, Ordering::Relaxed)
        }
    }

    thread_local! {
        /// How often a queue of this test said that something went on.
        static ALIVE: Cell<usize> = const { Cell::new(0) };
    }

    fn queue(depth: usize) -> Queue<Fake> {
        let clock = Box::leak(Box::new(Looked(AtomicU64::new(0))));
        Queue::new(Fake { depth, allowed: usize::MAX, ..Fake::default() }, clock, || {
            ALIVE.set(ALIVE.get() + 1);
        })
    }

    fn read(tag: u32, block: u64, blocks: usize, urgency: Urgency) -> Read<'static> {
        let into = std::vec![0; blocks * BLOCK].leak();
        Read { tag, offset: block * BLOCK as u64, into, urgency, attempt: 0 }
    }

    #[test]
    fn a_read_in_pieces_arrives_whole() {
        let mut queue = queue(2);
        queue.narrow(7 * BLOCK as u64, 5000 * BLOCK as u64);
        assert!(queue.submit(read(3, 10, 2500, Urgency::Demand)).is_ok());
        let done = queue.wait().unwrap();
        assert_eq!((done.tag, done.result), (3, Ok(())));
        for (at, block) in done.into.chunks(BLOCK).enumerate() {
            assert!(block.iter().all(|&byte| byte == (17 + at) as u8), "block {at}");
        }
        assert!(queue.wait().is_none());
        assert_eq!(ALIVE.get(), 3);
        let mut bytes = std::vec![0; 1100 * BLOCK];
        queue.read_at(3 * BLOCK as u64, &mut bytes).unwrap();
        assert_eq!((bytes[0], bytes[1099 * BLOCK]), (10, (10 + 1099) as u8));
    }

    #[test]
    fn nothing_is_read_past_the_end() {
        let mut queue = queue(1);
        queue.narrow(0, 8 * BLOCK as u64);
        let past = StorageErrorKind::PastEnd;
        assert_eq!(queue.read_at(8 * BLOCK as u64, &mut [0; BLOCK]).unwrap_err().kind, past);
        assert!(queue.submit(read(1, 7, 2, Urgency::Demand)).is_ok());
        assert_eq!(queue.wait().unwrap().result.unwrap_err().kind, past);
        assert!(queue.driver().started.is_empty());
        queue.narrow(9_999 * BLOCK as u64, u64::MAX);
        assert_eq!(queue.geometry().len, BLOCK as u64);
    }

    #[test]
    fn guesses_wait_behind_what_is_needed() {
        let mut queue = queue(1);
        queue.driver.allowed = 0;
        for (tag, block, urgency) in
            [(1, 100, Urgency::Ahead), (2, 200, Urgency::Ahead), (3, 300, Urgency::Demand)]
        {
            assert!(queue.submit(read(tag, block, 1, urgency)).is_ok());
        }
        queue.hurry(2);
        queue.driver.allowed = usize::MAX;
        let order: Vec<u32> = std::iter::from_fn(|| queue.wait()).map(|done| done.tag).collect();
        assert_eq!(order, [1, 3, 2]);
    }

    #[test]
    fn a_stalled_device_is_started_anew_and_its_reads_fail() {
        let mut queue = queue(2);
        queue.driver.allowed = 0;
        assert!(queue.submit(read(1, 0, 3000, Urgency::Demand)).is_ok());
        assert!(queue.submit(read(2, 0, 1, Urgency::Demand)).is_ok());
        let stalled = StorageError { kind: StorageErrorKind::Stalled, code: 0 };
        for tag in [1, 2] {
            let done = queue.wait().unwrap();
            assert_eq!((done.tag, done.result), (tag, Err(stalled)));
        }
        assert_eq!((queue.driver.resets, ALIVE.get()), (1, 1));
        assert!(queue.wait().is_none());
        queue.driver.allowed = usize::MAX;
        assert!(queue.submit(read(3, 0, 1, Urgency::Demand)).is_ok());
        assert_eq!(queue.wait().unwrap().result, Ok(()));
    }

    #[test]
    fn reads_outside_the_queue_are_tried_again_a_few_times() {
        let error = |kind| StorageError { kind, code: 5 };
        let mut queue = queue(1);
        queue.driver.errors.extend([error(StorageErrorKind::Transient); 4]);
        assert_eq!(queue.read_patiently(0, &mut [0; BLOCK]), Ok(()));
        assert!(queue.driver.rests > 0, "the device has a moment between two of them");
        queue.driver.errors.extend([error(StorageErrorKind::Transient); 5]);
        assert!(queue.read_patiently(0, &mut [0; BLOCK]).is_err());
        queue.driver.errors.push_back(error(StorageErrorKind::Permanent));
        assert!(queue.read_patiently(0, &mut [0; BLOCK]).is_err());
        assert_eq!(queue.driver.started.len(), 5 + 5 + 1);
    }

    #[test]
    fn an_error_ends_a_read_once_its_pieces_are_back() {
        let mut queue = queue(2);
        queue.driver.allowed = 0;
        let error = StorageError { kind: StorageErrorKind::Permanent, code: 9 };
        queue.driver.errors.push_back(error);
        assert!(queue.submit(read(1, 0, 9000, Urgency::Demand)).is_ok());
        queue.driver.allowed = 2;
        let done = queue.wait().unwrap();
        assert_eq!(done.result, Err(error));
        assert_eq!(queue.driver.started, [0, 1024]);
    }

    #[test]
    fn a_full_queue_hands_the_read_back() {
        let mut queue = queue(1);
        queue.driver.allowed = 0;
        for tag in 0..REQUESTS as u32 {
            assert!(queue.submit(read(tag, 0, 1, Urgency::Demand)).is_ok());
        }
        assert_eq!(queue.submit(read(99, 0, 1, Urgency::Demand)).unwrap_err().tag, 99);
        queue.driver.allowed = 1;
        assert!(queue.wait().is_some());
        assert!(queue.submit(read(99, 0, 1, Urgency::Demand)).is_ok());
    }
}
