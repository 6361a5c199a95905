//! Reads under way on a block device: [`Pieces`] says what is next, a [`Driver`] moves the bytes.

use core::ptr::NonNull;

use rill::seams::pieces::{Outcome, Piece, Pieces, Tuning, rest};
use rill::seams::{
    Clock, Completion, Geometry, Micros, Read, Storage, StorageError, StorageErrorKind,
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
    pieces: Pieces<'static, REQUESTS, MAX_DEPTH>,
    /// What each slot of the driver moves.
    slots: [Option<Moved>; MAX_DEPTH],
    /// How a read outside the queue ended.
    direct: Option<Result<(), StorageError>>,
    /// When the device last did something, or was idle.
    progress: Micros,
}

/// What a driver moves.
enum Moved {
    Piece(Piece<'static>),
    /// A read outside the queue.
    Direct,
}

impl<D: Driver> Queue<D> {
    /// The whole device. `alive` is called whenever a piece is back or a device that did nothing is
    /// given up: a watchdog wants to hear of it.
    pub fn new(driver: D, clock: &'static dyn Clock, alive: fn()) -> Self {
        let len = driver.blocks().saturating_mul(BLOCK as u64);
        Self {
            clock,
            alive,
            start: 0,
            len,
            pieces: pieces(&driver, len),
            slots: [const { None }; MAX_DEPTH],
            direct: None,
            progress: 0,
            driver,
        }
    }

    /// From now on only `len` bytes from `start` are seen; both are multiples of a block.
    pub fn narrow(&mut self, start: u64, len: u64) {
        assert!(self.is_idle() && !self.pieces.is_busy(), "reads are under way");
        let end = self.driver.blocks().saturating_mul(BLOCK as u64);
        self.start = start.min(end);
        self.len = len.min(end - self.start);
        self.pieces = pieces(&self.driver, self.len);
    }

    /// Reads of the queue write only inside `arena` from now on; others fail.
    pub fn confine(&mut self, arena: &[u8]) {
        self.pieces.confine(arena);
    }

    /// The device.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    fn is_idle(&self) -> bool {
        self.slots.iter().all(Option::is_none)
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
            && let Some(mut piece) = self.pieces.next(self.clock.now())
        {
            let (offset, into) = (piece.offset(), NonNull::from(piece.buffer()));
            self.begin(slot, Moved::Piece(piece), offset, into);
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
        self.pieces.fail(error);
        self.progress = self.clock.now();
    }

    fn free_slot(&self) -> Option<usize> {
        self.slots[..depth(&self.driver)].iter().position(Option::is_none)
    }

    /// Hands bytes to the driver.
    fn begin(&mut self, slot: usize, moved: Moved, offset: u64, into: NonNull<[u8]>) {
        self.slots[slot] = Some(moved);
        let block = (self.start + offset) / BLOCK as u64;
        // SAFETY: the bytes belong to what lies in the slot: nobody touches them before `finish` has
        // been called for it, which happens when the driver says so or after its `reset`.
        if let Err(error) = unsafe { self.driver.start(slot, block, into) } {
            self.finish(slot, Err(error));
        }
    }

    /// What the driver moved has come back.
    fn finish(&mut self, slot: usize, result: Result<(), StorageError>) {
        match self.slots[slot].take() {
            Some(Moved::Piece(mut piece)) => {
                let bytes = piece.buffer().len();
                let outcome = result.map_or_else(Outcome::Failed, |()| Outcome::Arrived(bytes));
                self.pieces.finish(piece, outcome);
            }
            Some(Moved::Direct) => self.direct = Some(result),
            None => {}
        }
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
        self.begin(slot, Moved::Direct, offset, NonNull::from(into));
        loop {
            if let Some(result) = self.direct.take() {
                return result;
            }
            self.driver.rest();
            self.turn();
        }
    }
}

/// Pieces at once.
fn depth(driver: &impl Driver) -> usize {
    driver.depth().min(MAX_DEPTH)
}

/// The scheduler for `len` bytes of a device.
fn pieces(driver: &impl Driver, len: u64) -> Pieces<'static, REQUESTS, MAX_DEPTH> {
    Pieces::new(Tuning { split: PIECE, depth: depth(driver) }, len, BLOCK)
}

impl<D: Driver> Storage<'static> for Queue<D> {
    fn geometry(&self) -> Geometry {
        Geometry { len: self.len, alignment: BLOCK as u32, depth: REQUESTS as u16 }
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        assert!(
            offset.is_multiple_of(BLOCK as u64) && into.len().is_multiple_of(BLOCK),
            "reads are whole blocks"
        );
        if offset.checked_add(into.len() as u64).is_none_or(|end| end > self.len) {
            return Err(StorageError { kind: StorageErrorKind::PastEnd, code: 0 });
        }
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
        self.pieces.accept(read, self.clock.now())?;
        self.turn();
        Ok(())
    }

    fn hurry(&mut self, tag: u32) {
        self.pieces.hurry(tag);
    }

    fn abandon(&mut self, tag: u32) {
        self.pieces.abandon(tag);
    }

    fn poll(&mut self) -> Option<Completion<'static>> {
        self.turn();
        self.pieces.take_done()
    }

    fn wait(&mut self) -> Option<Completion<'static>> {
        loop {
            if let Some(completion) = self.poll() {
                return Some(completion);
            }
            if !self.pieces.is_busy() {
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

    use rill::seams::Urgency;

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
        let bytes = std::vec![0; (blocks + 1) * BLOCK].leak();
        let aligned = bytes.as_ptr().align_offset(BLOCK);
        let into = &mut bytes[aligned..aligned + blocks * BLOCK];
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
    fn a_guess_that_was_wrong_is_not_read() {
        let mut queue = queue(1);
        queue.driver.allowed = 0;
        for (tag, block) in [(1, 100), (2, 200), (3, 300)] {
            assert!(queue.submit(read(tag, block, 2000, Urgency::Ahead)).is_ok());
        }
        queue.abandon(1);
        queue.abandon(2);
        queue.driver.allowed = usize::MAX;
        let ends: Vec<_> = std::iter::from_fn(|| queue.wait()).collect();
        let ends: Vec<_> = ends.iter().map(|done| (done.tag, done.result.is_ok())).collect();
        assert_eq!(ends, [(2, false), (1, false), (3, true)]);
        // Of the first no more than what the device had; of the second nothing.
        assert_eq!(queue.driver.started, [100, 300, 1324]);
    }

    #[test]
    fn a_read_that_failed_rests_before_it_goes_again() {
        let mut queue = queue(1);
        let submitted = queue.clock.now();
        assert!(queue.submit(Read { attempt: 4, ..read(1, 0, 1, Urgency::Demand) }).is_ok());
        assert!(queue.submit(read(2, 9, 1, Urgency::Ahead)).is_ok());
        assert_eq!(queue.wait().unwrap().tag, 2, "others do not wait for it");
        assert_eq!(queue.wait().unwrap().tag, 1);
        assert!(queue.clock.now() - submitted >= rest(4));
        assert_eq!((&queue.driver.started[..], queue.driver.resets), (&[9, 0][..], 0));
    }

    #[test]
    fn nothing_is_written_outside_the_arena() {
        let mut queue = queue(1);
        queue.confine(&[]);
        assert!(queue.submit(read(1, 0, 1, Urgency::Demand)).is_ok());
        assert_eq!(queue.wait().unwrap().result.unwrap_err().kind, StorageErrorKind::Permanent);
        assert!(queue.driver.started.is_empty());
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
