//! Logits, and the choice of the next token.

use core::ops::Range;

use super::Engine;
use crate::desk::Desk;
use crate::draft::Guess;
use crate::sampler::{Bias, Logprobs};
use crate::seams::{Parallel, World};
use crate::sequence::{Results, Sequence, SequenceError};
use crate::stats::Phase;
use crate::turns::Turn;

/// What came after the last token of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Step {
    /// The next token.
    Token(u32),
    /// A token that ends the answer; it is part of the sequence.
    End(u32),
    /// The context is full.
    Full,
}

/// What a caller wants of one choice.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask<'m> {
    /// A mask, in place: the set of tokens that may be chosen. Token `id` is bit `id % 32` of word
    /// `id / 32`, and 1 allows it; missing words allow nothing. `None` allows every token.
    pub allowed: Option<&'m [u32]>,
    /// Log-probabilities of the token that is chosen and of so many of the best, at most
    /// [`MOST_LOGPROBS`](crate::sampler::MOST_LOGPROBS); `None` for none at all.
    pub logprobs: Option<usize>,
}

/// A token that was chosen.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// The token.
    pub id: u32,
    /// What was asked for of the model's distribution; it knows of no mask, bias or penalty.
    pub logprobs: Option<Logprobs>,
}

impl<'a> Engine<'a> {
    /// Computes logits of rows of the last batch whose results were wanted.
    pub(super) fn write_logits(&mut self, parallel: &dyn Parallel, rows: Range<usize>) {
        let vocab = self.model.shape.vocab as usize;
        if !rows.is_empty() {
            let logits = &mut self.desk.logits[..rows.len() * vocab];
            self.model.logits(parallel, rows.clone(), logits);
        }
        self.written = rows;
    }

    /// Logits (vocab,) after the last token of a sequence; `None` when it has pending tokens, or its
    /// results were not wanted of the last batch: then its last token is to be computed again, see
    /// [`Self::uncompute_last`].
    pub fn logits(&mut self, parallel: &dyn Parallel, sequence: &Sequence<'a>) -> Option<&[f32]> {
        let place = self.logits_place(parallel, sequence)?;
        Some(&self.desk.logits[place])
    }

    /// Where on the desk the logits after the last token of a sequence are.
    fn logits_place(
        &mut self,
        parallel: &dyn Parallel,
        sequence: &Sequence<'a>,
    ) -> Option<Range<usize>> {
        let row = self.last_row(sequence)?;
        if !self.written.contains(&row) {
            self.write_logits(parallel, row..row + 1);
        }
        let vocab = self.model.shape.vocab as usize;
        let start = (row - self.written.start) * vocab;
        Some(start..start + vocab)
    }

    /// Whether there are [`Self::logits`] of a sequence.
    pub fn has_logits(&self, sequence: &Sequence<'a>) -> bool {
        self.last_row(sequence).is_some()
    }

    /// The row of the last batch that the logits after the last token of a sequence come from.
    fn last_row(&self, sequence: &Sequence<'a>) -> Option<usize> {
        let results = sequence.results.filter(|results| results.batch == self.batches);
        let results = results.filter(|_| sequence.pending().is_empty())?;
        (results.count > 0).then(|| results.first + results.count - 1)
    }

    /// Whether [`Self::advance`] is to keep the results of all tokens of a sequence from now on, for
    /// [`Self::each_logits`], and not of the last one alone: then none of them is taken over from a known
    /// beginning, or remembered for others.
    pub fn want_every(&self, sequence: &mut Sequence<'a>, every: bool) {
        sequence.wants_every = every;
    }

    /// The positions in a sequence of the tokens that [`Self::each_logits`] gives logits of.
    pub fn positions(&self, sequence: &Sequence<'a>) -> Range<usize> {
        let results = sequence.results.filter(|results| results.batch == self.batches);
        let end = sequence.computed();
        end - results.map_or(0, |results| results.count)..end
    }

    /// Calls `each` with the logits (vocab,) of every token of a sequence whose results were wanted of
    /// the last batch, in order.
    pub fn each_logits(
        &mut self,
        parallel: &dyn Parallel,
        sequence: &Sequence<'a>,
        mut each: impl FnMut(&[f32]),
    ) {
        let vocab = self.model.shape.vocab as usize;
        let Some(results) = sequence.results.filter(|r| r.batch == self.batches) else { return };
        let end = results.first + results.count;
        for from in (results.first..end).step_by(self.results()) {
            let rows = from..end.min(from + self.results());
            self.write_logits(parallel, rows.clone());
            self.desk.logits.chunks_exact(vocab).take(rows.len()).for_each(&mut each);
        }
    }

    /// Sees to it that the last token of a sequence is pending, for its logits.
    pub fn uncompute_last(&mut self, sequence: &mut Sequence<'a>) {
        sequence.uncompute_last(&mut self.model.kv);
    }

    /// Adds `biases` to the logits of a sequence before each choice from now on, in the place of what was
    /// added before.
    pub fn set_biases(
        &self,
        sequence: &mut Sequence<'a>,
        biases: &[Bias],
    ) -> Result<(), SequenceError> {
        if let Some(bias) = biases.iter().find(|bias| bias.id >= self.model.shape.vocab) {
            return Err(SequenceError::Token(bias.id));
        }
        sequence.set_biases(biases)
    }

    /// Chooses the next token of a sequence from its [`Self::logits`]. Each call uses up a random
    /// number, unless the best token is always taken.
    pub fn sample(
        &mut self,
        world: &World<'_, 'a>,
        sequence: &mut Sequence<'a>,
    ) -> Result<u32, SequenceError> {
        Ok(self.sample_as(world, sequence, &Ask::default())?.id)
    }

    /// As [`Self::sample`], with a mask, or with log-probabilities. After an error no random number was
    /// used up.
    pub fn sample_as(
        &mut self,
        world: &World<'_, 'a>,
        sequence: &mut Sequence<'a>,
        ask: &Ask<'_>,
    ) -> Result<Sample, SequenceError> {
        let start = world.clock.now();
        let place = self.logits_place(world.parallel, sequence).ok_or(SequenceError::Empty)?;
        let Desk { logits, choice, marks, .. } = &mut self.desk;
        let logits = &logits[place];
        choice.copy_from_slice(logits);
        let chosen = sequence.choose(&self.chat.stops, ask.allowed, choice, marks);
        let sample = chosen.map(|id| {
            let logprobs = ask.logprobs.map(|best| Logprobs::of(logits, id, best));
            Sample { id, logprobs }
        });
        let sampling = world.clock.now() - start;
        let phase = Phase { time: sampling, sampling, ..Phase::default() };
        self.stats.decode = self.stats.decode.plus(phase);
        Ok(sample?)
    }

    /// Appends a token that was sampled, or chosen in the place of a sample. Where it was guessed, it
    /// is computed already, and [`Self::has_logits`] says so.
    pub fn accept(&mut self, sequence: &mut Sequence<'a>, id: u32) -> Result<Step, SequenceError> {
        if id >= self.model.shape.vocab {
            return Err(SequenceError::Token(id));
        }
        if sequence.tokens().len() == sequence.context() {
            return Ok(Step::Full);
        }
        if sequence.answer.is_none() {
            sequence.turn = Turn::default();
        }
        let results = sequence.results.take();
        let results = results.filter(|results| results.batch == self.batches);
        let results = results.filter(|_| sequence.pending().is_empty());
        let guessed = results.filter(|results| results.guess.len > 0);
        let guessed = guessed.map(|results| (results, sequence.guessed() == id));
        let begin = sequence.answer.unwrap_or(sequence.tokens().len());
        self.append(sequence, &[id])?;
        sequence.sampled = true;
        sequence.answer = Some(begin);
        sequence.trust.token();
        self.stats.decode.tokens += 1;
        if let Some((results, right)) = guessed {
            sequence.trust.compared(results.guess.level, right);
            if right {
                self.stats.accepted += 1;
                let end = sequence.tokens().len();
                sequence.memory.commit(end, &self.model.rows.staged, results.staged);
                let guess = Guess { len: results.guess.len - 1, ..results.guess };
                let count = results.count + 1;
                sequence.results = Some(Results { count, guess, ..results });
            }
        }
        if !self.chat.stops.contains(&id) {
            return Ok(Step::Token(id));
        }
        if let Some(conversation) = &self.conversation {
            sequence.place = conversation.place_after(id);
        }
        self.remember(sequence);
        Ok(Step::End(id))
    }
}
