//! Reads under way, cut into pieces.
//!
//! A page of several MiB is read in pieces of [`Tuning::split`] bytes, at most [`Tuning::depth`]
//! of them in the hands of the kernel: small enough that a guess never holds up what is needed
//! now, deep enough to keep the device busy. This is bookkeeping only; a back end performs the
//! pieces.

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use rill::seams::{Completion, Read, StorageError, StorageErrorKind, Urgency};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::source::Progress;

/// How many reads may be under way.
pub const REQUESTS: usize = 64;
/// Most pieces that may be in the hands of the kernel.
pub const MAX_DEPTH: usize = 32;

/// How reads are cut and how many pieces go at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// Bytes of a piece.
    pub split: usize,
    /// Pieces in flight.
    pub depth: usize,
}

impl Default for Tuning {
    /// Near the best on SD cards, USB sticks and NVMe alike; [`tune`](super::tune) refines it.
    fn default() -> Self {
        Self { split: 512 << 10, depth: 8 }
    }
}

impl Tuning {
    /// The nearest tuning that a back end accepts.
    pub(super) fn clamp(self) -> Self {
        let split = self.split.clamp(4096, 64 << 20) & !4095;
        Self { split, depth: self.depth.clamp(1, MAX_DEPTH) }
    }
}

/// A part of the address space.
#[derive(Debug, Clone, Copy, Default)]
pub struct Region {
    /// Its first address.
    pub start: usize,
    /// Bytes.
    pub len: usize,
}

/// A part of a read, to be performed once.
#[derive(Debug)]
pub struct Piece {
    request: usize,
    offset: u64,
    start: NonNull<u8>,
    len: usize,
    progress: Progress,
}

// SAFETY: a piece is the only access to its bytes, which were an exclusive `&'static mut [u8]`.
unsafe impl Send for Piece {}

impl Piece {
    /// First byte in the file that is still missing.
    pub fn offset(&self) -> u64 {
        self.offset + self.progress.bytes as u64
    }

    /// The bytes that are still missing.
    pub fn buffer(&mut self) -> &mut [u8] {
        // SAFETY: `Pieces::next` cut this range out of a request's buffer for this piece alone;
        // the buffer is whole again only after `Pieces::finish` has consumed every piece.
        let whole = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) };
        &mut whole[self.progress.bytes..]
    }
}

#[derive(Debug)]
struct Request {
    tag: u32,
    offset: u64,
    start: NonNull<u8>,
    len: usize,
    /// Bytes handed out in pieces.
    issued: usize,
    /// Pieces that have not come back.
    outstanding: usize,
    result: Result<(), StorageError>,
}

// SAFETY: together with its pieces it is the only access to bytes that were an exclusive
// `&'static mut [u8]`.
unsafe impl Send for Request {}

/// The reads under way.
#[derive(Debug)]
pub struct Pieces {
    tuning: Tuning,
    alignment: usize,
    /// Where reads may write to, once it is known.
    memory: Option<Region>,
    requests: Box<[Option<Request>]>,
    demand: VecDeque<usize>,
    ahead: VecDeque<usize>,
    /// Reads that failed before and rest until their time has come.
    resting: VecDeque<(Instant, usize)>,
    /// Pieces that came back short.
    again: VecDeque<Piece>,
    done: VecDeque<Completion<'static>>,
    in_flight: usize,
}

impl Pieces {
    /// Room for [`REQUESTS`] reads; nothing is allocated later.
    pub fn new(tuning: Tuning, alignment: usize) -> Self {
        Self {
            tuning: tuning.clamp(),
            alignment,
            memory: None,
            requests: (0..REQUESTS).map(|_| None).collect(),
            demand: VecDeque::with_capacity(REQUESTS),
            ahead: VecDeque::with_capacity(REQUESTS),
            resting: VecDeque::with_capacity(REQUESTS),
            again: VecDeque::with_capacity(MAX_DEPTH),
            done: VecDeque::with_capacity(REQUESTS),
            in_flight: 0,
        }
    }

    /// How reads are cut from now on.
    pub fn tune(&mut self, tuning: Tuning) {
        self.tuning = tuning.clamp();
    }

    /// Reads from now on write only inside `memory`; others fail.
    pub fn confine(&mut self, memory: Region) {
        self.memory = Some(memory);
    }

    /// Takes a read, or hands it back when there is no room. One that failed before rests from
    /// `now` on: a hiccup of the device needs a moment, longer each time.
    pub fn accept(&mut self, read: Read<'static>, now: Instant) -> Result<(), Read<'static>> {
        let alignment = self.alignment;
        assert!(
            read.offset.is_multiple_of(alignment as u64)
                && read.into.len().is_multiple_of(alignment)
                && read.into.as_ptr().addr().is_multiple_of(alignment),
            "a direct read must be aligned to {alignment} bytes"
        );
        let free = self.requests.iter().position(Option::is_none);
        let Some(index) = free.filter(|_| self.count() < REQUESTS) else {
            return Err(read);
        };
        let Read { tag, offset, into, urgency, attempt } = read;
        let len = into.len();
        // The one place that every read passes.
        let outside = self.memory.is_some_and(|memory| !memory.holds(into));
        if len == 0 || outside {
            let result = if outside { Err(misdirected()) } else { Ok(()) };
            self.done.push_back(Completion { tag, into, result });
            return Ok(());
        }
        let request = Request {
            tag,
            offset,
            start: NonNull::from(into).cast(),
            len,
            issued: 0,
            outstanding: 0,
            result: Ok(()),
        };
        self.requests[index] = Some(request);
        match urgency {
            _ if attempt > 0 => self.resting.push_back((now + rest(attempt), index)),
            Urgency::Demand => self.demand.push_back(index),
            Urgency::Ahead => self.ahead.push_back(index),
        }
        Ok(())
    }

    /// A guess that has not been handed out whole is needed now.
    pub fn hurry(&mut self, tag: u32) {
        let is_it = |&index: &usize| self.requests[index].as_ref().is_some_and(|r| r.tag == tag);
        if let Some(index) = self.ahead.iter().position(is_it).and_then(|at| self.ahead.remove(at))
        {
            self.demand.push_back(index);
        }
    }

    /// A guess is not wanted any more: what has not been handed out is not read.
    pub fn abandon(&mut self, tag: u32) {
        let is_it = |&index: &usize| self.requests[index].as_ref().is_some_and(|r| r.tag == tag);
        let Some(index) = self.ahead.iter().position(is_it).and_then(|at| self.ahead.remove(at))
        else {
            return;
        };
        if let Some(request) = &mut self.requests[index] {
            request.result = Err(abandoned());
            request.issued = request.len;
            if request.outstanding == 0 {
                self.complete(index);
            }
        }
    }

    /// The next piece to perform: what came back short first, then what is needed now, oldest
    /// first, then guesses. `None` when there is none or enough are in flight.
    pub fn next(&mut self, now: Instant) -> Option<Piece> {
        if !self.has_room() {
            return None;
        }
        while let Some(at) = self.resting.iter().position(|&(due, _)| due <= now) {
            self.demand.extend(self.resting.remove(at).map(|(_, index)| index));
        }
        let piece = self.again.pop_front().or_else(|| self.cut())?;
        self.in_flight += 1;
        Some(piece)
    }

    /// Whether another piece may go.
    pub fn has_room(&self) -> bool {
        self.in_flight < self.tuning.depth
    }

    /// When the next read has rested.
    pub fn next_rested(&self) -> Option<Instant> {
        self.resting.iter().map(|&(due, _)| due).min()
    }

    /// A piece comes back with the kernel's answer.
    pub fn finish(&mut self, mut piece: Piece, outcome: Result<usize, Errno>) {
        self.in_flight -= 1;
        let result = piece.progress.advance(outcome, self.alignment);
        if result.is_ok() && piece.progress.bytes < piece.len {
            self.again.push_back(piece);
            return;
        }
        let index = piece.request;
        let Some(request) = &mut self.requests[index] else {
            unreachable!("a request waits for its pieces");
        };
        request.outstanding -= 1;
        request.result = request.result.and(result);
        if request.result.is_err() && request.issued < request.len {
            // The rest is not worth reading.
            request.issued = request.len;
            self.demand.retain(|&waiting| waiting != index);
            self.ahead.retain(|&waiting| waiting != index);
        }
        if request.issued == request.len && request.outstanding == 0 {
            self.complete(index);
        }
    }

    /// A read that is complete.
    pub fn take_done(&mut self) -> Option<Completion<'static>> {
        self.done.pop_front()
    }

    /// Whether a complete read waits to be taken.
    pub fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// Whether reads are under way that are not complete.
    pub fn is_busy(&self) -> bool {
        self.requests.iter().any(Option::is_some)
    }

    /// Forgets what has not been handed out; pieces in flight still come back.
    pub fn cancel(&mut self) {
        self.again.clear();
        self.demand.clear();
        self.ahead.clear();
        self.resting.clear();
    }

    /// Pieces in the hands of the kernel.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn count(&self) -> usize {
        self.requests.iter().flatten().count() + self.done.len()
    }

    /// Cuts a piece off the first request in line.
    fn cut(&mut self) -> Option<Piece> {
        let line = if self.demand.is_empty() { &mut self.ahead } else { &mut self.demand };
        let index = *line.front()?;
        let request = self.requests[index].as_mut()?;
        let from = request.issued;
        let len = self.tuning.split.min(request.len - from);
        request.issued += len;
        request.outstanding += 1;
        if request.issued == request.len {
            line.pop_front();
        }
        // SAFETY: `from < request.len`, so the address is inside the request's buffer.
        let start = unsafe { request.start.add(from) };
        let offset = request.offset + from as u64;
        Some(Piece { request: index, offset, start, len, progress: Progress::default() })
    }

    fn complete(&mut self, index: usize) {
        let Some(Request { tag, start, len, result, .. }) = self.requests[index].take() else {
            unreachable!("only a request under way becomes complete");
        };
        // SAFETY: these are the address and length of the `&'static mut [u8]` that `accept` took;
        // every piece cut from it has been consumed by `finish`.
        let into = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) };
        self.done.push_back(Completion { tag, into, result });
    }
}

impl Region {
    /// Whether all of `buffer` is inside.
    fn holds(self, buffer: &[u8]) -> bool {
        let from = buffer.as_ptr().addr().checked_sub(self.start);
        from.and_then(|from| from.checked_add(buffer.len())).is_some_and(|end| end <= self.len)
    }
}

/// What a read ends with that would write outside the arena.
fn misdirected() -> StorageError {
    StorageError { kind: StorageErrorKind::Permanent, code: Errno::FAULT.raw_os_error() }
}

/// What an abandoned read ends with.
fn abandoned() -> StorageError {
    StorageError { kind: StorageErrorKind::Transient, code: Errno::CANCELED.raw_os_error() }
}

/// How long a read rests that failed `attempts` times.
pub(super) fn rest(attempts: u8) -> Duration {
    Duration::from_millis(1 << attempts.min(6))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tag: u32, len: usize, urgency: Urgency) -> Read<'static> {
        Read { tag, offset: 0, into: vec![0; len].leak(), urgency, attempt: 0 }
    }

    fn accept(p: &mut Pieces, read: Read<'static>) -> Result<(), Read<'static>> {
        p.accept(read, Instant::now())
    }

    fn next(p: &mut Pieces) -> Option<Piece> {
        p.next(Instant::now())
    }

    fn pieces(split: usize, depth: usize) -> Pieces {
        Pieces::new(Tuning { split, depth }, 1)
    }

    fn finish_whole(pieces: &mut Pieces, mut piece: Piece) {
        let len = piece.buffer().len();
        pieces.finish(piece, Ok(len));
    }

    #[test]
    fn a_read_that_would_write_outside_the_arena_fails_untouched() {
        let memory: &'static mut [u8] = vec![9; 12 << 10].leak();
        let mut p = pieces(4096, 2);
        p.confine(Region { start: memory.as_ptr().addr() + 4096, len: 4096 });
        let (before, rest) = memory.split_at_mut(4095);
        let (across, after) = rest.split_at_mut(2 << 10);
        for (tag, into) in [(0, before), (1, across), (2, after)] {
            accept(&mut p, Read { tag, offset: 0, into, urgency: Urgency::Demand, attempt: 0 })
                .unwrap();
            assert!(next(&mut p).is_none(), "nothing of it is read");
            let done = p.take_done().unwrap();
            assert_eq!((done.tag, done.result), (tag, Err(misdirected())));
            assert!(done.into.iter().all(|&byte| byte == 9));
        }
    }

    #[test]
    fn a_read_is_cut_and_complete_when_all_pieces_are_there() {
        let mut p = pieces(4096, 2);
        accept(&mut p, read(7, 10_000, Urgency::Demand)).unwrap();
        let (first, mut second) = (next(&mut p).unwrap(), next(&mut p).unwrap());
        assert!(next(&mut p).is_none(), "two are in flight");
        assert_eq!((second.offset(), second.buffer().len()), (4096, 4096));
        finish_whole(&mut p, second);
        let mut third = next(&mut p).unwrap();
        assert_eq!((third.offset(), third.buffer().len()), (8192, 10_000 - 8192));
        finish_whole(&mut p, third);
        assert!(p.take_done().is_none());
        finish_whole(&mut p, first);
        let done = p.take_done().unwrap();
        assert_eq!((done.tag, done.into.len(), done.result), (7, 10_000, Ok(())));
        assert!(!p.is_busy());
    }

    #[test]
    fn guesses_wait_behind_what_is_needed() {
        let mut p = pieces(4096, 1);
        accept(&mut p, read(1, 8192, Urgency::Ahead)).unwrap();
        let begun = next(&mut p).unwrap();
        accept(&mut p, read(2, 4096, Urgency::Demand)).unwrap();
        finish_whole(&mut p, begun);
        let needed = next(&mut p).unwrap();
        finish_whole(&mut p, needed);
        assert_eq!(p.take_done().unwrap().tag, 2);
        let guess = next(&mut p).unwrap();
        finish_whole(&mut p, guess);
        assert_eq!(p.take_done().unwrap().tag, 1);
    }

    #[test]
    fn a_guess_that_is_hurried_passes_other_guesses() {
        let mut p = pieces(4096, 1);
        for tag in [1, 2, 3] {
            accept(&mut p, read(tag, 16, Urgency::Ahead)).unwrap();
        }
        p.hurry(2);
        p.hurry(9);
        let order = [2, 1, 3].map(|tag| {
            let piece = next(&mut p).unwrap();
            finish_whole(&mut p, piece);
            p.take_done().unwrap().tag == tag
        });
        assert_eq!(order, [true; 3]);
    }

    #[test]
    fn an_abandoned_guess_is_read_no_further() {
        let mut p = pieces(4096, 1);
        accept(&mut p, read(1, 16_384, Urgency::Ahead)).unwrap();
        accept(&mut p, read(2, 4096, Urgency::Ahead)).unwrap();
        accept(&mut p, read(3, 4096, Urgency::Demand)).unwrap();
        let needed = next(&mut p).unwrap();
        finish_whole(&mut p, needed);
        assert_eq!(p.take_done().unwrap().tag, 3);
        let begun = next(&mut p).unwrap();
        for tag in [1, 2, 3, 9] {
            p.abandon(tag);
        }
        let second = p.take_done().unwrap();
        assert_eq!((second.tag, second.result), (2, Err(abandoned())));
        assert!(p.take_done().is_none(), "a piece of the first still holds its buffer");
        finish_whole(&mut p, begun);
        let first = p.take_done().unwrap();
        assert_eq!((first.tag, first.into.len(), first.result), (1, 16_384, Err(abandoned())));
        assert!(next(&mut p).is_none() && !p.is_busy());
    }

    #[test]
    fn a_short_piece_goes_on_where_it_stopped() {
        let mut p = pieces(4096, 4);
        accept(&mut p, read(1, 4096, Urgency::Demand)).unwrap();
        let piece = next(&mut p).unwrap();
        p.finish(piece, Ok(1000));
        let mut rest = next(&mut p).unwrap();
        assert_eq!((rest.offset(), rest.buffer().len()), (1000, 3096));
        p.finish(rest, Ok(0));
        let done = p.take_done().unwrap();
        assert_eq!(done.result.unwrap_err().kind, StorageErrorKind::PastEnd);
    }

    #[test]
    fn an_error_ends_a_read_once_its_pieces_are_back() {
        let mut p = pieces(4096, 2);
        accept(&mut p, read(1, 100_000, Urgency::Demand)).unwrap();
        let (first, second) = (next(&mut p).unwrap(), next(&mut p).unwrap());
        p.finish(first, Err(Errno::IO));
        assert!(next(&mut p).is_none(), "the rest is not read");
        assert!(p.take_done().is_none(), "the second piece still holds the buffer");
        finish_whole(&mut p, second);
        let done = p.take_done().unwrap();
        assert_eq!(done.result.unwrap_err().code, Errno::IO.raw_os_error());
        assert_eq!(done.into.len(), 100_000);
    }

    #[test]
    fn a_full_queue_hands_the_read_back() {
        let mut p = pieces(4096, 1);
        for tag in 0..REQUESTS as u32 {
            accept(&mut p, read(tag, 16, Urgency::Demand)).unwrap();
        }
        assert_eq!(accept(&mut p, read(99, 16, Urgency::Demand)).unwrap_err().tag, 99);
        // A completion that nobody has taken still counts.
        let piece = next(&mut p).unwrap();
        finish_whole(&mut p, piece);
        assert!(accept(&mut p, read(99, 16, Urgency::Demand)).is_err());
        assert_eq!(p.take_done().unwrap().tag, 0);
        assert!(accept(&mut p, read(99, 16, Urgency::Demand)).is_ok());
    }

    #[test]
    fn a_read_of_nothing_is_complete_at_once() {
        let mut p = pieces(4096, 1);
        accept(&mut p, read(5, 0, Urgency::Ahead)).unwrap();
        assert_eq!(p.take_done().unwrap().tag, 5);
    }

    #[test]
    fn a_read_that_failed_rests_longer_each_time() {
        let now = Instant::now();
        let mut p = pieces(4096, 8);
        for attempt in 1..4 {
            p.accept(Read { attempt, ..read(attempt.into(), 16, Urgency::Demand) }, now).unwrap();
        }
        assert!(p.next(now).is_none());
        for attempt in 1..4 {
            let due = p.next_rested().unwrap();
            assert_eq!(due, now + rest(attempt));
            let piece = p.next(due).unwrap();
            assert!(p.next(due).is_none());
            finish_whole(&mut p, piece);
            assert_eq!(p.take_done().unwrap().tag, u32::from(attempt));
        }
        assert!(p.next_rested().is_none() && !p.is_busy());
    }
}
