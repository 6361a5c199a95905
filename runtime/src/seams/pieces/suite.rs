//! Example by example, then random schedules against a plain account of what each read is due.

use std::boxed::Box;
use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::piece::INTERRUPTIONS;
use super::*;

/// Most reads and pieces of the examples and of the random schedules.
const READS: usize = 12;
const DEPTH: usize = 6;
/// Every device is content with memory that is aligned so.
const ALIGN: usize = 4096;

type Few<'a> = Pieces<'a, READS, DEPTH>;

const BROKEN: StorageError = StorageError { kind: StorageErrorKind::Transient, code: 5 };

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(4096))]
struct Page([u8; ALIGN]);

fn memory(pages: usize) -> Box<[Page]> {
    std::vec![Page([0; ALIGN]); pages].into_boxed_slice()
}

/// What lies at `offset` of the device.
fn content(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn deliver(piece: &mut Piece<'_>, bytes: usize) {
    let offset = piece.offset();
    for (at, byte) in piece.buffer()[..bytes].iter_mut().enumerate() {
        *byte = content(offset + at as u64);
    }
}

fn read<'a>(tag: u32, into: &'a mut [u8], urgency: Urgency) -> Read<'a> {
    Read { tag, offset: 0, into, urgency, attempt: 0 }
}

fn pieces<'a>(split: usize, depth: usize) -> Few<'a> {
    Pieces::new(Tuning { split, depth }, u64::MAX, 1)
}

fn finish_whole<'a>(p: &mut Few<'a>, mut piece: Piece<'a>) {
    let len = piece.buffer().len();
    deliver(&mut piece, len);
    p.finish(piece, Outcome::Arrived(len));
}

#[test]
fn a_read_that_would_write_outside_the_arena_fails_untouched() {
    let mut memory = [9; 12 << 10];
    let (before, after) = memory.split_at_mut(4096);
    let (inside, after) = after.split_at_mut(4096);
    let mut p = pieces(4096, 2);
    p.confine(inside);
    for (tag, into) in [(0, before), (2, after)] {
        p.accept(read(tag, into, Urgency::Demand), 0).unwrap();
        assert!(p.next(0).is_none(), "nothing of it is read");
        let done = p.take_done().unwrap();
        assert_eq!((done.tag, done.result), (tag, Err(MISDIRECTED)));
        assert!(done.into.iter().all(|&byte| byte == 9));
    }
    p.accept(read(1, inside, Urgency::Demand), 0).unwrap();
    let piece = p.next(0).unwrap();
    finish_whole(&mut p, piece);
    assert_eq!(p.take_done().unwrap().result, Ok(()));
}

#[test]
fn a_read_across_the_edge_of_the_arena_fails() {
    let mut memory = [9; 64];
    let mut p = pieces(4096, 2);
    p.confine(&memory[1..]);
    p.accept(read(0, &mut memory, Urgency::Demand), 0).unwrap();
    assert_eq!(p.take_done().unwrap().result, Err(MISDIRECTED));
}

#[test]
fn nothing_is_read_past_the_end() {
    let mut memory = memory(3);
    let mut p = Few::new(Tuning::default(), 2 * ALIGN as u64, ALIGN);
    for (tag, into) in
        bytemuck::cast_slice_mut::<_, u8>(&mut memory).chunks_exact_mut(ALIGN).enumerate()
    {
        let offset = [ALIGN as u64, 2 * ALIGN as u64, u64::MAX / ALIGN as u64 * ALIGN as u64][tag];
        let read = Read { offset, ..read(tag as u32, into, Urgency::Demand) };
        p.accept(read, 0).unwrap();
    }
    for tag in [1, 2] {
        let done = p.take_done().unwrap();
        assert_eq!((done.tag, done.result), (tag, Err(PAST_END)));
    }
    let piece = p.next(0).unwrap();
    finish_whole(&mut p, piece);
    assert_eq!(p.take_done().unwrap().result, Ok(()));
}

#[test]
fn a_read_is_cut_and_complete_when_all_pieces_are_there() {
    let mut memory = [0; 10_000];
    let mut p = pieces(4096, 2);
    p.accept(read(7, &mut memory, Urgency::Demand), 0).unwrap();
    let (first, mut second) = (p.next(0).unwrap(), p.next(0).unwrap());
    assert!(p.next(0).is_none(), "two are in flight");
    assert_eq!((second.offset(), second.buffer().len()), (4096, 4096));
    finish_whole(&mut p, second);
    let mut third = p.next(0).unwrap();
    assert_eq!((third.offset(), third.buffer().len()), (8192, 10_000 - 8192));
    finish_whole(&mut p, third);
    assert!(p.take_done().is_none());
    finish_whole(&mut p, first);
    let done = p.take_done().unwrap();
    assert_eq!((done.tag, done.into.len(), done.result), (7, 10_000, Ok(())));
    assert!(done.into.iter().enumerate().all(|(at, &byte)| byte == content(at as u64)));
    assert!(!p.is_busy());
}

#[test]
fn guesses_wait_behind_what_is_needed() {
    let (mut guess, mut needed) = ([0; 8192], [0; 4096]);
    let mut p = pieces(4096, 1);
    p.accept(read(1, &mut guess, Urgency::Ahead), 0).unwrap();
    let begun = p.next(0).unwrap();
    p.accept(read(2, &mut needed, Urgency::Demand), 0).unwrap();
    finish_whole(&mut p, begun);
    for tag in [2, 1] {
        let piece = p.next(0).unwrap();
        finish_whole(&mut p, piece);
        assert_eq!(p.take_done().unwrap().tag, tag);
    }
}

#[test]
fn a_guess_that_is_hurried_passes_other_guesses() {
    let mut memory = [[0; 16]; 3];
    let mut p = pieces(4096, 1);
    for (tag, into) in memory.iter_mut().enumerate() {
        p.accept(read(tag as u32, into, Urgency::Ahead), 0).unwrap();
    }
    p.hurry(1);
    p.hurry(9);
    for tag in [1, 0, 2] {
        let piece = p.next(0).unwrap();
        finish_whole(&mut p, piece);
        assert_eq!(p.take_done().unwrap().tag, tag);
    }
}

#[test]
fn an_abandoned_guess_is_read_no_further() {
    let (mut first, mut second, mut third) = ([0; 16_384], [0; 4096], [0; 4096]);
    let mut p = pieces(4096, 2);
    p.accept(read(1, &mut first, Urgency::Ahead), 0).unwrap();
    p.accept(read(2, &mut second, Urgency::Ahead), 0).unwrap();
    p.accept(read(3, &mut third, Urgency::Demand), 0).unwrap();
    let needed = p.next(0).unwrap();
    finish_whole(&mut p, needed);
    assert_eq!(p.take_done().unwrap().tag, 3);
    let (begun, short) = (p.next(0).unwrap(), p.next(0).unwrap());
    p.finish(short, Outcome::Arrived(100));
    for tag in [1, 2, 3, 9] {
        p.abandon(tag);
    }
    let done = p.take_done().unwrap();
    assert_eq!((done.tag, done.result), (2, Err(ABANDONED)));
    assert!(p.take_done().is_none(), "a piece of the first still holds its buffer");
    assert!(p.next(0).is_none(), "what came short does not go again");
    finish_whole(&mut p, begun);
    let done = p.take_done().unwrap();
    assert_eq!((done.tag, done.into.len(), done.result), (1, 16_384, Err(ABANDONED)));
    assert!(p.next(0).is_none() && !p.is_busy());
}

#[test]
fn a_short_piece_goes_on_where_it_stopped() {
    let mut memory = [0; 4096];
    let mut p = pieces(4096, 4);
    p.accept(read(1, &mut memory, Urgency::Demand), 0).unwrap();
    let piece = p.next(0).unwrap();
    p.finish(piece, Outcome::Arrived(1000));
    let mut rest = p.next(0).unwrap();
    assert_eq!((rest.offset(), rest.buffer().len()), (1000, 3096));
    p.finish(rest, Outcome::Arrived(0));
    assert_eq!(p.take_done().unwrap().result, Err(PAST_END));
}

#[test]
fn a_piece_may_be_interrupted_a_bounded_number_of_times() {
    let mut memory = [0; 4096];
    let mut p = pieces(4096, 4);
    p.accept(read(1, &mut memory, Urgency::Demand), 0).unwrap();
    for _ in 0..=INTERRUPTIONS {
        let piece = p.next(0).unwrap();
        p.finish(piece, Outcome::Interrupted(BROKEN));
    }
    assert_eq!(p.take_done().unwrap().result, Err(BROKEN));
}

#[test]
fn an_error_ends_a_read_once_its_pieces_are_back() {
    let mut memory = std::vec![0; 100_000];
    let mut p = pieces(4096, 2);
    p.accept(read(1, &mut memory, Urgency::Demand), 0).unwrap();
    let (first, second) = (p.next(0).unwrap(), p.next(0).unwrap());
    p.finish(first, Outcome::Failed(BROKEN));
    assert!(p.next(0).is_none(), "the rest is not read");
    assert!(p.take_done().is_none(), "the second piece still holds the buffer");
    finish_whole(&mut p, second);
    let done = p.take_done().unwrap();
    assert_eq!((done.into.len(), done.result), (100_000, Err(BROKEN)));
}

#[test]
fn a_full_queue_hands_the_read_back() {
    let mut memory = [[0; 16]; READS + 1];
    let (last, others) = memory.split_last_mut().unwrap();
    let mut p = pieces(4096, 1);
    for (tag, into) in others.iter_mut().enumerate() {
        p.accept(read(tag as u32, into, Urgency::Demand), 0).unwrap();
    }
    let back = p.accept(read(99, last, Urgency::Demand), 0).unwrap_err();
    // A completion that nobody has taken still counts.
    let piece = p.next(0).unwrap();
    finish_whole(&mut p, piece);
    let back = p.accept(back, 0).unwrap_err();
    assert_eq!(p.take_done().unwrap().tag, 0);
    assert!(p.accept(back, 0).is_ok());
}

#[test]
fn a_read_of_nothing_is_complete_at_once() {
    let mut p = pieces(4096, 1);
    p.accept(read(5, &mut [], Urgency::Ahead), 0).unwrap();
    assert_eq!(p.take_done().unwrap().tag, 5);
}

#[test]
fn a_read_that_failed_rests_longer_each_time() {
    let now = 77;
    let mut memory = [[0; 16]; 3];
    let mut p = pieces(4096, 8);
    for (attempt, into) in (1_u8..).zip(&mut memory) {
        let read = Read { attempt, ..read(attempt.into(), into, Urgency::Demand) };
        p.accept(read, now).unwrap();
    }
    assert!(p.next(now).is_none());
    for attempt in 1..4_u8 {
        let due = p.next_rested().unwrap();
        assert_eq!(due, now + (1000 << attempt));
        assert!(p.next(due - 1).is_none());
        let piece = p.next(due).unwrap();
        assert!(p.next(due).is_none());
        finish_whole(&mut p, piece);
        assert_eq!(p.take_done().unwrap().tag, u32::from(attempt));
    }
    assert!(p.next_rested().is_none() && !p.is_busy());
    assert_eq!(rest(u8::MAX), 64_000, "in microseconds");
}

#[test]
#[should_panic(expected = "comes back to the reads")]
fn a_piece_of_other_reads_is_not_taken() {
    let (mut one, mut other) = ([0; 16], [0; 16]);
    let (mut p, mut q) = (pieces(4096, 1), pieces(4096, 1));
    p.accept(read(0, &mut one, Urgency::Demand), 0).unwrap();
    q.accept(read(0, &mut other, Urgency::Demand), 0).unwrap();
    let piece = p.next(0).unwrap();
    q.finish(piece, Outcome::Arrived(16));
}

/// Bytes of the largest device, and of a buffer.
const DEVICE: u64 = 30 * ALIGN as u64;
const BUFFER: usize = 8 * ALIGN;

/// As many reads are made in a random schedule.
const BUFFERS: usize = 40;

/// One step of a random schedule; numbers are taken modulo what there is to choose from.
#[derive(Debug, Clone)]
enum Act {
    /// Bytes from an offset on, both rounded down to whole blocks.
    Submit {
        offset: u64,
        len: usize,
        ahead: bool,
        attempt: u8,
    },
    Hurry(usize),
    Abandon(usize),
    /// Starts pieces until none may go.
    Start,
    /// A piece comes back.
    Finish(usize, Fate),
    Take,
    Pass(Micros),
    Tune(Tuning),
    Fail,
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Whole,
    Short(usize),
    Interrupted,
    Broken,
    Ended,
}

fn act() -> impl Strategy<Value = Act> {
    let fate = prop_oneof![
        6 => Just(Fate::Whole),
        2 => any::<usize>().prop_map(Fate::Short),
        1 => Just(Fate::Interrupted),
        1 => Just(Fate::Broken),
        1 => Just(Fate::Ended),
    ];
    let tuning = (0..5 * ALIGN, 0..9_usize).prop_map(|(split, depth)| Tuning { split, depth });
    prop_oneof![
        6 => (0..DEVICE, 0..BUFFER, any::<bool>(), 0..8_u8).prop_map(
            |(offset, len, ahead, attempt)| {
                Act::Submit { offset, len, ahead, attempt: attempt.saturating_sub(5) }
            }
        ),
        1 => any::<usize>().prop_map(Act::Hurry),
        2 => any::<usize>().prop_map(Act::Abandon),
        6 => Just(Act::Start),
        8 => (any::<usize>(), fate).prop_map(|(which, fate)| Act::Finish(which, fate)),
        4 => Just(Act::Take),
        2 => (0..9000_u64).prop_map(Act::Pass),
        1 => tuning.prop_map(Act::Tune),
        1 => Just(Act::Fail),
    ]
}

/// What is due to a read, told without lines, lists or counts of pieces.
struct Account {
    offset: u64,
    len: usize,
    address: usize,
    ahead: bool,
    /// In line among those as urgent.
    turn: usize,
    /// When it will have rested; 0 once a piece was asked for after that.
    due: Micros,
    /// Bytes handed out from the front.
    issued: usize,
    /// Pieces that the device has, or will have again.
    open: usize,
    /// How it must end as things stand.
    result: Result<(), StorageError>,
}

impl Account {
    fn stop(&mut self, error: StorageError) {
        self.result = self.result.and(Err(error));
        self.issued = self.len;
    }
}

struct Run<'a> {
    pieces: Few<'a>,
    block: usize,
    device: u64,
    free: Vec<&'a mut [u8]>,
    accounts: BTreeMap<u32, Account>,
    flying: Vec<(u32, Piece<'a>)>,
    /// Pieces of these reads came short and go again before any other.
    short: Vec<(u32, u64)>,
    tuning: Tuning,
    now: Micros,
    turns: usize,
}

impl<'a> Run<'a> {
    fn act(&mut self, act: Act) {
        match act {
            Act::Submit { offset, len, ahead, attempt } => {
                self.submit(offset, len, ahead, attempt);
            }
            Act::Hurry(which) => {
                if let Some(tag) = self.tag(which) {
                    self.pieces.hurry(tag);
                    self.turns += 1;
                    let account = self.accounts.get_mut(&tag).unwrap();
                    if account.ahead && account.issued < account.len {
                        (account.ahead, account.turn) = (false, self.turns);
                    }
                }
            }
            Act::Abandon(which) => {
                if let Some(tag) = self.tag(which) {
                    self.pieces.abandon(tag);
                    let account = &self.accounts[&tag];
                    if account.ahead && account.issued < account.len {
                        self.stop(tag, ABANDONED);
                    }
                }
            }
            Act::Start => while self.start() {},
            Act::Finish(which, fate) => self.finish(which, fate),
            Act::Take => self.take(),
            Act::Pass(time) => self.now += time,
            Act::Tune(tuning) => {
                self.pieces.tune(tuning);
                self.tuning = tuning.clamp(DEPTH);
            }
            Act::Fail => {
                self.pieces.fail(BROKEN);
                let tags: Vec<u32> = self.accounts.keys().copied().collect();
                tags.into_iter().for_each(|tag| self.stop(tag, BROKEN));
            }
        }
        assert_eq!(self.pieces.in_flight(), self.flying.len());
        assert_eq!(self.pieces.is_busy(), self.accounts.values().any(|a| !is_over(a)));
        assert_eq!(self.pieces.has_done(), self.accounts.values().any(is_over));
        let resting = self.accounts.values().filter(|a| a.issued < a.len && a.due > 0);
        assert_eq!(self.pieces.next_rested(), resting.map(|a| a.due).min());
    }

    /// A read that has not been given back.
    fn tag(&self, which: usize) -> Option<u32> {
        self.accounts.keys().nth(which % self.accounts.len().max(1)).copied()
    }

    fn stop(&mut self, tag: u32, error: StorageError) {
        let account = self.accounts.get_mut(&tag).unwrap();
        if !is_over(account) {
            account.stop(error);
            let before = self.short.len();
            self.short.retain(|&(short, _)| short != tag);
            account.open -= before - self.short.len();
        }
    }

    fn submit(&mut self, offset: u64, len: usize, ahead: bool, attempt: u8) {
        let Some(buffer) = self.free.pop() else { return };
        let into = &mut buffer[..len / self.block * self.block];
        let (offset, len) = (offset / self.block as u64 * self.block as u64, into.len());
        let address = into.as_ptr().addr();
        self.turns += 1;
        let tag = self.turns as u32;
        let urgency = if ahead { Urgency::Ahead } else { Urgency::Demand };
        match self.pieces.accept(Read { tag, offset, into, urgency, attempt }, self.now) {
            Err(back) => {
                assert_eq!(self.accounts.len(), READS, "there is room");
                assert_eq!((back.tag, back.into.len()), (tag, len));
            }
            Ok(()) => {
                assert!(self.accounts.len() < READS);
                let fits = offset + len as u64 <= self.device;
                let due = if attempt > 0 { self.now + rest(attempt) } else { 0 };
                let account = Account {
                    offset,
                    len,
                    address,
                    ahead,
                    turn: self.turns,
                    due,
                    issued: if fits { 0 } else { len },
                    open: 0,
                    result: if fits { Ok(()) } else { Err(PAST_END) },
                };
                self.accounts.insert(tag, account);
            }
        }
    }

    fn start(&mut self) -> bool {
        if self.flying.len() < self.tuning.depth {
            let rested = self.accounts.values_mut().filter(|account| account.due <= self.now);
            rested.for_each(|account| account.due = 0);
        }
        // Who is next, by the account.
        let ready = |account: &Account| account.issued < account.len && account.due <= self.now;
        let waiting = self.accounts.iter().filter(|(_, account)| ready(account));
        let first = waiting.min_by_key(|(_, account)| (account.ahead, account.turn));
        let first = first.map(|(&tag, _)| tag);
        let Some(mut piece) = self.pieces.next(self.now) else {
            let may_go = self.flying.len() < self.tuning.depth;
            assert!(!may_go || self.short.is_empty() && first.is_none(), "something could go");
            return false;
        };
        assert!(self.flying.len() < self.tuning.depth, "no more than may be");
        let (offset, len) = (piece.offset(), piece.buffer().len());
        let tag = if self.short.is_empty() {
            let tag = first.expect("nothing is read that nobody waits for");
            let account = self.accounts.get_mut(&tag).unwrap();
            let address = account.address + account.issued;
            assert_eq!(piece.buffer().as_ptr().addr(), address, "another read was first");
            assert_eq!(offset, account.offset + account.issued as u64);
            // The fewest calls: a piece is shorter only where the read ends.
            assert_eq!(len, self.tuning.split.min(account.len - account.issued));
            account.issued += len;
            account.open += 1;
            tag
        } else {
            let (tag, missing) = self.short.remove(0);
            assert_eq!(offset, missing, "it goes on where it stopped");
            tag
        };
        self.flying.push((tag, piece));
        true
    }

    fn finish(&mut self, which: usize, fate: Fate) {
        if self.flying.is_empty() {
            return;
        }
        let (tag, mut piece) = self.flying.remove(which % self.flying.len());
        let len = piece.buffer().len();
        let (outcome, is_whole) = match fate {
            Fate::Whole => (Outcome::Arrived(len), true),
            Fate::Short(part) => {
                let bytes = (part % (len / self.block) + 1) * self.block;
                (Outcome::Arrived(bytes), bytes == len)
            }
            Fate::Interrupted => (Outcome::Interrupted(BROKEN), false),
            Fate::Broken => (Outcome::Failed(BROKEN), false),
            Fate::Ended => (Outcome::Arrived(0), false),
        };
        let bytes = if let Outcome::Arrived(bytes) = outcome { bytes } else { 0 };
        deliver(&mut piece, bytes);
        let missing = piece.offset() + bytes as u64;
        self.pieces.finish(piece, outcome);
        let failed = match fate {
            Fate::Broken => Some(BROKEN),
            Fate::Ended => Some(PAST_END),
            _ => None,
        };
        let account = self.accounts.get_mut(&tag).unwrap();
        match failed {
            None if !is_whole && account.result.is_ok() => self.short.push((tag, missing)),
            None => account.open -= 1,
            Some(error) => {
                self.stop(tag, error);
                self.accounts.get_mut(&tag).unwrap().open -= 1;
            }
        }
    }

    fn take(&mut self) {
        let Some(Completion { tag, into, result }) = self.pieces.take_done() else { return };
        let account = self.accounts.remove(&tag).expect("a read comes back once");
        assert!(is_over(&account), "a piece of it is still away");
        assert_eq!((into.as_ptr().addr(), into.len()), (account.address, account.len));
        assert_eq!(result, account.result);
        if result.is_ok() {
            let right = |(at, &byte): (usize, &u8)| byte == content(account.offset + at as u64);
            assert!(into.iter().enumerate().all(right), "read {tag} has the device's bytes");
        }
    }
}

fn is_over(account: &Account) -> bool {
    account.issued == account.len && account.open == 0
}

proptest! {
    // Miri takes a thousand times as long.
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 512 })
    })]

    /// Whatever comes in whatever order, each read is given back once, with the device's bytes or the
    /// first thing that went wrong, and nothing is read out of turn, twice or for nothing.
    #[test]
    fn every_schedule_keeps_the_account(
        block in prop_oneof![Just(1_usize), Just(512), Just(ALIGN)],
        device in 0..DEVICE,
        acts in proptest::collection::vec(act(), 0..if cfg!(miri) { 40 } else { 300 }),
    ) {
        let device = device / block as u64 * block as u64;
        let mut memory = memory(BUFFER / ALIGN * BUFFERS);
        let free = bytemuck::cast_slice_mut::<_, u8>(&mut memory).chunks_exact_mut(BUFFER).collect();
        let tuning = Tuning { split: ALIGN, depth: 3 };
        let mut run = Run {
            pieces: Pieces::new(tuning, device, block),
            block,
            device,
            free,
            accounts: BTreeMap::new(),
            flying: Vec::new(),
            short: Vec::new(),
            tuning,
            now: 0,
            turns: 0,
        };
        acts.into_iter().for_each(|act| run.act(act));
        // In the end everything comes back.
        while !run.accounts.is_empty() {
            run.act(Act::Pass(100_000));
            run.act(Act::Start);
            run.act(Act::Finish(0, Fate::Whole));
            run.act(Act::Take);
        }
        prop_assert!(!run.pieces.is_busy() && run.pieces.take_done().is_none());
        prop_assert!(run.pieces.next_rested().is_none() && run.pieces.next(run.now).is_none());
    }
}
