//! Batches: pending tokens of several sequences through the model.

use super::Engine;
use crate::draft::{Drafter, Guess, Repeats};
use crate::model::batch::{Kind, MAX_MARKS, MAX_RUNS, Run, Wanted};
use crate::schedule::{self, Wish};
use crate::seams::World;
use crate::sequence::{Results, Sequence, SequenceError};
use crate::stats::Phase;
use crate::turns;

/// What [`Engine::advance`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Advance {
    /// Rows that were computed; 0 when nothing was pending, or there is no memory for what is.
    pub rows: usize,
    /// Number of the first sequence that waits for memory for its keys and values.
    pub refused: Option<usize>,
}

impl Advance {
    /// Whether somebody waits for memory and nobody went on: sequences that were not asked to have it.
    pub const fn is_stuck(&self) -> bool {
        self.rows == 0 && self.refused.is_some()
    }
}

/// What one sequence puts into a batch.
pub struct Share<'s, 'a> {
    /// The sequence.
    pub sequence: &'s mut Sequence<'a>,
    /// How many of its pending tokens, from the first on; at least 1.
    pub tokens: usize,
    /// Whose results are wanted.
    pub wanted: Wanted,
    /// What [`Engine::guess`] gave for it; then every result is wanted.
    pub guess: Guess,
    /// Positions at which others that wait begin to differ from it.
    pub(crate) shared: heapless::Vec<usize, MAX_MARKS>,
}

impl<'s, 'a> Share<'s, 'a> {
    /// Of a sequence without guesses.
    pub fn new(sequence: &'s mut Sequence<'a>, tokens: usize, wanted: Wanted) -> Self {
        let (guess, shared) = (Guess::default(), heapless::Vec::new());
        Self { sequence, tokens, wanted, guess, shared }
    }

    /// Whether its token was sampled.
    pub(crate) fn is_answer(&self) -> bool {
        self.sequence.is_answering()
    }
}

impl<'a> Engine<'a> {
    /// Sees to it that there is memory for the keys and values of the first `tokens` pending tokens of
    /// a sequence; changes nothing where there is not. [`Self::forward`] does it for all; to know whose
    /// fault it is, call this first.
    pub fn reserve(
        &mut self,
        sequence: &mut Sequence<'a>,
        tokens: usize,
    ) -> Result<(), SequenceError> {
        let end = sequence.computed() + tokens;
        if !self.has_room(sequence, &[], end, 0) {
            return Err(SequenceError::NoBlocks);
        }
        // Known beginnings give way to sequences.
        while !sequence.memory.reserve(&mut self.model.kv, end) {
            if !self.prefixes.shrink(&mut self.model.kv) {
                return Err(SequenceError::NoBlocks);
            }
        }
        Ok(())
    }

    /// Guesses how the answer of a sequence goes on whose last token is a sample and is all that is
    /// pending: by at most `most` tokens, and as far as it pays. See [`Repeats`].
    pub fn guess(&mut self, sequence: &mut Sequence<'a>, most: usize) -> Guess {
        self.guess_with(&mut Repeats, sequence, most)
    }

    /// As [`Self::guess`], by another drafter.
    pub fn guess_with(
        &mut self,
        drafter: &mut dyn Drafter,
        sequence: &mut Sequence<'a>,
        most: usize,
    ) -> Guess {
        self.guess_beside(drafter, sequence, most, 0)
    }

    /// As [`Self::guess_with`], in a batch where `others` have something to compute too: beside others
    /// only rows that are needed anyway are worth it.
    fn guess_beside(
        &mut self,
        drafter: &mut dyn Drafter,
        sequence: &mut Sequence<'a>,
        most: usize,
        others: usize,
    ) -> Guess {
        // Of each row the logits are wanted, and of the others' last ones.
        let most = most.min(self.results().saturating_sub(1 + others));
        if !self.draft || !sequence.is_answering() || most == 0 {
            return Guess::default();
        }
        let guess = sequence.guess(drafter, most);
        if guess.len == 0 || others > 0 && guess.level != Guess::CERTAIN {
            return Guess::default();
        }
        let len = sequence.trust.length(guess.level, guess.len, &self.costs);
        // No conversation does without blocks for a guess.
        let enough = len > 0 && self.reserve(sequence, 1 + len).is_ok();
        Guess { len: if enough { len } else { 0 }, ..guess }
    }

    /// Gives up what was computed of a sequence, that others have the memory of its keys and values: all of
    /// its tokens are pending again. Says whether there was any. Where every result of it is wanted, those
    /// that were heard of come again.
    pub fn park(&mut self, sequence: &mut Sequence<'a>) -> bool {
        if sequence.memory.table().is_empty() {
            return false;
        }
        self.stats.parked += 1;
        self.stats.parked_tokens += sequence.computed() as u64;
        sequence.park(&mut self.model.kv);
        true
    }

    /// Takes pending tokens of one or several sequences through the model: together at most
    /// [`Self::batch`] tokens, guesses included, of at most [`MAX_RUNS`] sequences. What comes out for
    /// each of them is bit for bit what it would be alone.
    ///
    /// After an error every sequence is as it was, and the call can be made again.
    pub fn forward(
        &mut self,
        world: &mut World<'_, 'a>,
        shares: &mut [Share<'_, 'a>],
    ) -> Result<(), SequenceError> {
        for share in &mut *shares {
            self.reserve(share.sequence, share.tokens + share.guess.len)?;
        }
        let marks = self.marks(shares);
        let voice = if let [share] = &*shares { Some(share.sequence.voice) } else { None };
        let (start, before) = (world.clock.now(), self.cache_stats());
        let mut runs = heapless::Vec::<Run<'_, 'a>, MAX_RUNS>::new();
        for share in &mut *shares {
            let kind = if share.is_answer() { Kind::Answer } else { Kind::Prompt };
            let Share { sequence, tokens, wanted, guess, .. } = share;
            let (memory, tokens) = sequence.pending_mut(*tokens + guess.len);
            let wanted = if guess.len > 0 { Wanted::Every } else { *wanted };
            let run = Run { memory, tokens, wanted, keep: 1 + guess.len, kind };
            assert!(runs.push(run).is_ok(), "a batch has at most MAX_RUNS sequences");
        }
        // Whatever the rows were before, they are going to be overwritten.
        self.batches += 1;
        self.written = 0..0;
        if let Some(cache) = &mut self.model.cache {
            cache.listen(voice);
        }
        self.model.forward(world, &runs, &marks)?;
        let is_prompt = runs.iter().any(|run| run.kind == Kind::Prompt);
        // A token that was sampled was counted when it was accepted.
        let prompts = runs.iter().filter(|run| run.kind == Kind::Prompt);
        let tokens = prompts.map(|run| run.tokens.len() as u64).sum();
        drop(runs);
        let mut first = 0;
        for (number, share) in shares.iter_mut().enumerate() {
            let last = share.last_mark().filter(|_| self.prefixes.room() > 0);
            let Share { sequence, tokens, wanted, guess, .. } = share;
            let staged = self.model.rows.staged_at(number);
            let end = sequence.computed() + *tokens;
            let mut remember = |len, at| {
                let (memory, tokens) = sequence.memory_mut();
                let staged = Some((&self.model.rows.staged, at));
                self.prefixes.remember(&mut self.model.kv, memory, &tokens[..len], staged);
                sequence.remembered = len;
            };
            let marks = self.model.rows.marks().iter().filter(|(mark, _)| mark.run == number);
            marks.for_each(|(mark, at)| remember(mark.len, *at));
            if let Some(len) = last {
                remember(len, staged);
            }
            sequence.memory.commit(end, &self.model.rows.staged, staged);
            let count = wanted.of(*tokens);
            let (batch, guess) = (self.batches, *guess);
            sequence.results = Some(Results { batch, first, count, staged, guess });
            sequence.served = batch;
            first += count + guess.len;
            self.stats.drafted += guess.len as u64;
            if guess.level == Guess::CERTAIN {
                self.stats.forced += guess.len as u64;
            }
        }
        self.write_logits(world.parallel, first.saturating_sub(self.results())..first);
        let cache = self.cache_stats().since(before);
        let time = world.clock.now() - start;
        if let [share] = &*shares
            && !is_prompt
        {
            self.costs.step(share.guess.len, time);
        }
        let phase = if is_prompt { &mut self.stats.prompt } else { &mut self.stats.decode };
        *phase = phase.plus(Phase { tokens, time, sampling: 0, cache });
        Ok(())
    }

    /// One batch for those of `sequences`, in order of arrival, that have pending tokens: the next
    /// tokens of answers, and as much of prompts as delays those little. Those whose last token
    /// was computed then have [`Self::logits`].
    ///
    /// Where answers cost less one after the other than side by side, because each drives out the
    /// experts of the others, they take turns of some tokens.
    ///
    /// An answer that is the only one with something to compute is guessed on, see [`Self::guess`];
    /// beside others their rows are worth more.
    ///
    /// Where a plan has memory for the keys and values of fewer tokens than all have together
    /// ([`PlanRequest::kv_tokens`]), those come first that are first among `sequences`. For them those that
    /// come last and have something pending give up what was computed of them ([`Self::park`]), and compute
    /// it again when there is room: each comes to its end, and to the same. What others have stays.
    ///
    /// [`PlanRequest::kv_tokens`]: crate::plan::PlanRequest::kv_tokens
    pub fn advance(
        &mut self,
        world: &mut World<'_, 'a>,
        sequences: &mut [&mut Sequence<'a>],
    ) -> Result<Advance, SequenceError> {
        self.advance_with(world, sequences, &mut [])
    }

    /// As [`Self::advance`], with the drafter of each sequence, in the same order; those that have none
    /// are guessed on by [`Repeats`]. What is [`Guess::CERTAIN`] is guessed beside others too.
    pub fn advance_with(
        &mut self,
        world: &mut World<'_, 'a>,
        sequences: &mut [&mut Sequence<'a>],
        drafters: &mut [&mut dyn Drafter],
    ) -> Result<Advance, SequenceError> {
        let mut advance = Advance { rows: 0, refused: self.admit(sequences) };
        let mut wishes = heapless::Vec::<Wish, MAX_RUNS>::new();
        let mut shares = heapless::Vec::<Share<'_, 'a>, MAX_RUNS>::new();
        let goes_on = |sequence: &&&mut Sequence<'a>| sequence.is_admitted;
        let answers = sequences.iter().filter(goes_on).filter(|one| one.is_answering()).count();
        let turn = self.turn(sequences, answers);
        let may_go = |number, sequence: &Sequence<'_>| {
            let waits = sequence.is_answering() && turn.is_some_and(|turn| turn != number);
            sequence.is_admitted && !waits
        };
        let waiting = sequences.iter().enumerate();
        let waiting = waiting.filter(|(number, sequence)| may_go(*number, sequence));
        // Of those that were served together, others come first each time.
        let count = sequences.len().max(1);
        let first = (self.batches % count as u64) as usize * MAX_RUNS % count;
        let wait = |number, served| (served, (number + count - first) % count);
        let waiting = waiting.map(|(number, sequence)| wait(number, sequence.served));
        let busy = waiting.clone().count();
        let last = longest_waiting(waiting).last().copied();
        let mut guessed = 0;
        for (number, sequence) in sequences.iter_mut().enumerate() {
            let tokens = sequence.pending().len();
            let is_answer = sequence.is_answering();
            let is_late = last.is_none_or(|last| wait(number, sequence.served) > last);
            if is_late || shares.is_full() || !may_go(number, sequence) {
                continue;
            }
            if self.waits(sequence, &mut shares) {
                continue;
            }
            // What it gets at most: `admit` has promised it, but guesses of others may have taken it.
            if self.reserve(sequence, tokens.min(self.batch)).is_err() {
                advance.refused.get_or_insert(number);
                continue;
            }
            let others = busy - 1 + guessed;
            let guess = match drafters.get_mut(number) {
                Some(drafter) => self.guess_beside(*drafter, sequence, usize::MAX, others),
                None if others == 0 => self.guess(sequence, usize::MAX),
                None => Guess::default(),
            };
            guessed += guess.len;
            let tokens = tokens + guess.len;
            // Both have room, as was asked.
            let _ = wishes.push(Wish { tokens, is_answer, served: sequence.served });
            let _ = shares.push(Share { guess, ..Share::new(sequence, 0, Wanted::Nothing) });
        }
        for (share, rows) in shares.iter_mut().zip(schedule::rows(&wishes, self.batch)) {
            share.tokens = rows.saturating_sub(share.guess.len);
            if share.sequence.wants_every {
                share.wanted = Wanted::Every;
            } else if share.tokens == share.sequence.pending().len() {
                share.wanted = Wanted::Last;
            }
            advance.rows += rows;
        }
        shares.retain(|share| share.tokens > 0);
        if !shares.is_empty() {
            // Afterwards their tokens are no longer pending.
            let are_answers = shares.iter().all(Share::is_answer);
            let before = self.stats.decode;
            self.forward(world, &mut shares)?;
            let Phase { time, cache, .. } = self.stats.decode.since(before);
            let tokens = self.stats.decode.tokens;
            if are_answers {
                self.turns.step(answers, tokens, time, cache.bytes > 0);
            } else {
                self.turns.skip(tokens);
            }
        }
        Ok(advance)
    }

    /// Begins a step of the answer whose turn it is, where answers take turns; `None` where they do not.
    /// So many are under way and have memory.
    fn turn(&mut self, sequences: &mut [&mut Sequence<'a>], answers: usize) -> Option<usize> {
        if !self.turns.is_taking() {
            return None;
        }
        let is_one = |sequence: &Sequence<'_>| sequence.is_admitted && sequence.is_answering();
        for sequence in sequences.iter_mut().filter(|sequence| is_one(sequence)) {
            sequence.turn.wait(self.batches);
        }
        let waiting = sequences.iter().enumerate().filter(|(_, sequence)| is_one(sequence));
        let number = turns::next(waiting.map(|(number, sequence)| (number, &sequence.turn)))?;
        sequences[number].turn.step(self.batches + 1);
        self.stats.turns += u64::from(answers > 1);
        Some(number)
    }
}

/// As many of `waiting` as a batch has room for, those first that were served longest ago: when that was,
/// and their order among those that were served together.
fn longest_waiting(
    waiting: impl Iterator<Item = (u64, usize)>,
) -> heapless::Vec<(u64, usize), MAX_RUNS> {
    let mut longest = heapless::Vec::<_, MAX_RUNS>::new();
    for own in waiting {
        if longest.is_full() && longest.last().is_some_and(|last| own < *last) {
            longest.pop();
        }
        let place = longest.partition_point(|other| *other < own);
        // Where there is no room, all others wait longer.
        let _ = longest.insert(place, own);
    }
    longest
}
