//! Reads under way, cut into pieces: the one scheduler of all devices.
//!
//! A page of several MiB is read in pieces of [`Tuning::split`] bytes, at most [`Tuning::depth`] of
//! them in the hands of the device: small enough that a guess never holds up what is needed now,
//! deep enough to keep the device busy. What is needed now goes first, oldest first, then guesses. A
//! guess that turned out wrong is read no further, and a read that failed before rests for a moment.
//! This is bookkeeping only: a platform performs each [`Piece`] and says what came of it.

mod piece;
#[cfg(test)]
mod suite;

use core::ops::Range;
use core::ptr::NonNull;

use heapless::{Deque, Vec};
use serde::{Deserialize, Serialize};

use super::{Completion, Micros, Read, StorageError, StorageErrorKind, Urgency};

pub use piece::{Outcome, Piece, Progress};

/// How reads are cut and how many pieces go at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// Bytes of a piece.
    pub split: usize,
    /// Pieces in flight.
    pub depth: usize,
}

impl Default for Tuning {
    /// Near the best on SD cards, USB sticks and NVMe alike.
    fn default() -> Self {
        Self { split: 512 << 10, depth: 8 }
    }
}

impl Tuning {
    /// The nearest tuning with at most `depth` pieces in flight, whose pieces suit every device.
    fn clamp(self, depth: usize) -> Self {
        let split = self.split.clamp(LEAST_SPLIT, 64 << 20) & !(LEAST_SPLIT - 1);
        Self { split, depth: self.depth.clamp(1, depth) }
    }
}

/// No device wants its reads aligned to more.
const LEAST_SPLIT: usize = 4096;

/// The reads under way on a device: at most `READS`, with at most `DEPTH` pieces in flight.
#[derive(Debug)]
pub struct Pieces<'a, const READS: usize, const DEPTH: usize> {
    tuning: Tuning,
    /// Bytes of the device.
    len: u64,
    alignment: usize,
    /// The addresses that reads may write to, once they are known.
    memory: Option<Range<usize>>,
    reads: [Option<UnderWay>; READS],
    /// The places of the reads that wait for a piece to be cut off them, first in line first.
    line: Vec<usize, READS>,
    /// When the first of the line that rests will have rested.
    rested: Option<Micros>,
    /// Pieces that came back short, to go again.
    again: Vec<Piece<'a>, DEPTH>,
    done: Deque<Completion<'a>, READS>,
    in_flight: usize,
}

#[derive(Debug)]
struct UnderWay {
    tag: u32,
    offset: u64,
    start: NonNull<u8>,
    len: usize,
    urgency: Urgency,
    /// It failed before and rests until then.
    rests: Option<Micros>,
    /// Bytes cut off in pieces, or not wanted any more.
    issued: usize,
    /// Pieces that are not done.
    outstanding: usize,
    result: Result<(), StorageError>,
}

// SAFETY: together with its pieces it is the only access to bytes that were an exclusive slice.
unsafe impl Send for UnderWay {}

impl UnderWay {
    /// Whether a piece was cut off this read: its bytes are nobody else's.
    fn owns(&self, piece: &Piece<'_>) -> bool {
        let range = self.start.addr().get()..self.start.addr().get() + self.len;
        range.contains(&piece.start.addr().get())
    }

    fn is_waiting(&self) -> bool {
        self.issued < self.len
    }
}

impl<'a, const READS: usize, const DEPTH: usize> Pieces<'a, READS, DEPTH> {
    /// No reads yet, on a device of `len` bytes that wants offsets, lengths and addresses to be
    /// multiples of `alignment`.
    pub fn new(tuning: Tuning, len: u64, alignment: usize) -> Self {
        Self {
            tuning: tuning.clamp(DEPTH),
            len,
            alignment,
            memory: None,
            reads: [const { None }; READS],
            line: Vec::new(),
            rested: None,
            again: Vec::new(),
            done: Deque::new(),
            in_flight: 0,
        }
    }

    /// How reads are cut from now on.
    pub fn tune(&mut self, tuning: Tuning) {
        self.tuning = tuning.clamp(DEPTH);
    }

    /// Reads from now on write only inside `memory`; others fail.
    pub fn confine(&mut self, memory: &[u8]) {
        let range = memory.as_ptr_range();
        self.memory = Some(range.start.addr()..range.end.addr());
    }

    /// Takes a read, or hands it back when there is no room. One that failed before rests from
    /// `now` on: a hiccup of the device needs a moment, longer each time.
    ///
    /// # Panics
    /// When the read is not aligned as the device wants it.
    pub fn accept(&mut self, read: Read<'a>, now: Micros) -> Result<(), Read<'a>> {
        let free = self.reads.iter().position(Option::is_none);
        let Some(index) = free.filter(|_| self.count() < READS) else { return Err(read) };
        let result = self.check(read.offset, read.into);
        let Read { tag, offset, into, urgency, attempt } = read;
        if into.is_empty() || result.is_err() {
            self.hand_over(Completion { tag, into, result });
            return Ok(());
        }
        let len = into.len();
        let rests = (attempt > 0).then(|| now.saturating_add(rest(attempt)));
        self.reads[index] = Some(UnderWay {
            tag,
            offset,
            start: NonNull::from(into).cast(),
            len,
            urgency,
            rests,
            issued: 0,
            outstanding: 0,
            result: Ok(()),
        });
        self.queue(index, urgency);
        self.rested = self.rested.into_iter().chain(rests).min();
        Ok(())
    }

    /// A guess that has not been cut whole is needed now.
    pub fn hurry(&mut self, tag: u32) {
        if let Some(place) = self.guess(tag) {
            let index = self.line.remove(place);
            if let Some(read) = &mut self.reads[index] {
                read.urgency = Urgency::Demand;
            }
            self.queue(index, Urgency::Demand);
        }
    }

    /// A guess is not wanted any more: what has not been cut off it is not read.
    pub fn abandon(&mut self, tag: u32) {
        if let Some(place) = self.guess(tag) {
            self.stop(self.line[place], ABANDONED);
        }
    }

    /// Gives every read up: it ends with `error` once its pieces are back.
    pub fn fail(&mut self, error: StorageError) {
        (0..READS).for_each(|index| self.stop(index, error));
    }

    /// The next piece to perform: what came back short first, then what is needed now, oldest
    /// first, then guesses. `None` when there is none or enough are in flight.
    pub fn next(&mut self, now: Micros) -> Option<Piece<'a>> {
        if !self.has_room() {
            return None;
        }
        if self.rested.is_some_and(|due| due <= now) {
            self.rouse(now);
        }
        let piece = if self.again.is_empty() { self.cut()? } else { self.again.remove(0) };
        self.in_flight += 1;
        Some(piece)
    }

    /// Whether another piece may go.
    pub fn has_room(&self) -> bool {
        self.in_flight < self.tuning.depth
    }

    /// When the next read will have rested.
    pub fn next_rested(&self) -> Option<Micros> {
        self.rested
    }

    /// A piece comes back with what the device says.
    ///
    /// # Panics
    /// When the piece is not one of these reads'.
    pub fn finish(&mut self, mut piece: Piece<'a>, outcome: Outcome) {
        let index = piece.read;
        let read = self.reads.get_mut(index).and_then(Option::as_mut);
        let Some(read) = read.filter(|read| read.owns(&piece)) else {
            panic!("a piece comes back to the reads that it was cut off");
        };
        self.in_flight -= 1;
        let result = piece.progress.advance(outcome, self.alignment);
        if result.and(read.result).is_ok() && !piece.progress.is_whole() {
            let kept = self.again.push(piece);
            assert!(kept.is_ok(), "no more come back than were in flight");
            return;
        }
        read.outstanding -= 1;
        match result {
            // The rest is not worth reading.
            Err(error) => self.stop(index, error),
            Ok(()) => self.complete(index),
        }
    }

    /// A read that is complete.
    pub fn take_done(&mut self) -> Option<Completion<'a>> {
        self.done.pop_front()
    }

    /// Whether a complete read waits to be taken.
    pub fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// Whether reads are under way that are not complete.
    pub fn is_busy(&self) -> bool {
        self.reads.iter().any(Option::is_some)
    }

    /// Pieces in the hands of the device.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The one place that every read passes before anything is written.
    fn check(&self, offset: u64, into: &[u8]) -> Result<(), StorageError> {
        let alignment = self.alignment;
        let memory = into.as_ptr_range();
        let (start, end) = (memory.start.addr(), memory.end.addr());
        assert!(
            offset.is_multiple_of(alignment as u64)
                && into.len().is_multiple_of(alignment)
                && start.is_multiple_of(alignment),
            "a read must be aligned to {alignment} bytes"
        );
        if self.memory.as_ref().is_some_and(|within| start < within.start || end > within.end) {
            return Err(MISDIRECTED);
        }
        match offset.checked_add(into.len() as u64) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(PAST_END),
        }
    }

    fn count(&self) -> usize {
        self.reads.iter().flatten().count() + self.done.len()
    }

    /// The place in line of the guess with this tag, unless it has been cut whole.
    fn guess(&self, tag: u32) -> Option<usize> {
        let is_it = |read: &UnderWay| read.tag == tag && read.urgency == Urgency::Ahead;
        self.line.iter().position(|&index| self.reads[index].as_ref().is_some_and(is_it))
    }

    /// Puts a read behind all that are as urgent.
    fn queue(&mut self, index: usize, urgency: Urgency) {
        let is_needed = |read: &UnderWay| read.urgency == Urgency::Demand;
        let needed = |&index: &usize| self.reads[index].as_ref().is_some_and(is_needed);
        let place = match urgency {
            Urgency::Demand => self.line.partition_point(needed),
            Urgency::Ahead => self.line.len(),
        };
        let kept = self.line.insert(place, index);
        assert!(kept.is_ok(), "a read waits once");
    }

    /// Ends the rests that are over.
    fn rouse(&mut self, now: Micros) {
        for &index in &self.line {
            if let Some(read) = &mut self.reads[index] {
                read.rests = read.rests.filter(|&due| due > now);
            }
        }
        self.rested = self.first_rested();
    }

    fn first_rested(&self) -> Option<Micros> {
        let waiting = self.line.iter().filter_map(|&index| self.reads[index].as_ref());
        waiting.filter_map(|read| read.rests).min()
    }

    /// Cuts a piece off the first read in line that does not rest.
    fn cut(&mut self) -> Option<Piece<'a>> {
        let is_ready = |read: &UnderWay| read.rests.is_none();
        let mut line = self.line.iter();
        let place = line.position(|&index| self.reads[index].as_ref().is_some_and(is_ready))?;
        let index = self.line[place];
        let read = self.reads[index].as_mut()?;
        let from = read.issued;
        let len = self.tuning.split.min(read.len - from);
        read.issued += len;
        read.outstanding += 1;
        if !read.is_waiting() {
            self.line.remove(place);
        }
        // SAFETY: `from` is below the read's length, so the address is inside its buffer.
        let start = unsafe { read.start.add(from) };
        // SAFETY: these bytes of a buffer that was lent for `'a` are cut off once, and the buffer is
        // whole again only when every piece has been consumed.
        Some(unsafe { Piece::new(index, read.offset + from as u64, start, len) })
    }

    /// Reads no more of a read, whose end is `error` unless it had another one.
    fn stop(&mut self, index: usize, error: StorageError) {
        let Some(read) = &mut self.reads[index] else { return };
        read.result = read.result.and(Err(error));
        read.issued = read.len;
        let before = self.again.len();
        self.again.retain(|piece| piece.read != index);
        read.outstanding -= before - self.again.len();
        if let Some(place) = self.line.iter().position(|&waiting| waiting == index) {
            self.line.remove(place);
            // Most often none rests.
            self.rested = self.rested.and_then(|_| self.first_rested());
        }
        self.complete(index);
    }

    /// Hands a read over as soon as nothing of it is left to do.
    fn complete(&mut self, index: usize) {
        let is_whole = |read: &mut UnderWay| !read.is_waiting() && read.outstanding == 0;
        let Some(UnderWay { tag, start, len, result, .. }) = self.reads[index].take_if(is_whole)
        else {
            return;
        };
        // SAFETY: these are the address and length of the exclusive slice that `accept` took for
        // `'a`; every piece cut off it has been consumed.
        let into = unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), len) };
        self.hand_over(Completion { tag, into, result });
    }

    fn hand_over(&mut self, completion: Completion<'a>) {
        let kept = self.done.push_back(completion);
        assert!(kept.is_ok(), "`accept` leaves room for every read");
    }
}

/// How long a read rests that failed `attempts` times.
pub fn rest(attempts: u8) -> Micros {
    1000 << attempts.min(6)
}

/// What a read ends with that would write outside the arena.
const MISDIRECTED: StorageError = StorageError { kind: StorageErrorKind::Permanent, code: 0 };
/// What a read ends with that reaches past the end of the device.
const PAST_END: StorageError = StorageError { kind: StorageErrorKind::PastEnd, code: 0 };
/// What an abandoned read ends with.
const ABANDONED: StorageError = StorageError { kind: StorageErrorKind::Transient, code: 0 };
