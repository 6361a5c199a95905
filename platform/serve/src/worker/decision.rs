//! Decisions: how likely each of some continuations of a prompt is.
//!
//! The first tokens of all choices are weighed with the prompt. The other tokens of a choice go through the
//! model together, in a copy of the prompt's sequence in each place that is free, so that as many choices
//! as there are places are rows of one batch.

use rill::engine::Engine;
use rill::sampler::Logprobs;
use rill::seams::World;
use rill::sequence::{Sequence, SequenceError};

/// A decision under way.
#[derive(Default)]
pub struct Decision {
    /// The log-probability of each choice, as far as it is known; none before the prompt is computed.
    sums: Vec<f32>,
    /// Which of them are not whole.
    open: Vec<bool>,
    /// What its own place is at.
    own: Option<Branch>,
}

/// One choice at work.
#[derive(Debug)]
pub struct Branch {
    /// The number of the decision's answer, and that of the choice.
    pub order: u64,
    pub number: usize,
    /// Tokens of the prompt.
    prompt: usize,
    choice: Vec<u32>,
    /// Of its tokens after the first, so far.
    pub sum: f32,
    /// So many of them were weighed.
    weighed: usize,
    pub is_done: bool,
}

impl Decision {
    /// Weighs the first tokens of choices; says whether the prompt was computed.
    pub fn begin<'a>(
        &mut self,
        engine: &mut Engine<'a>,
        world: &mut World<'_, 'a>,
        sequence: &Sequence<'a>,
        choices: &[Vec<u32>],
    ) -> bool {
        let Some(logits) = engine.logits(world.parallel, sequence) else { return false };
        self.sums =
            choices.iter().map(|choice| Logprobs::of(logits, choice[0], 0).chosen).collect();
        self.open = choices.iter().map(|choice| choice.len() > 1).collect();
        true
    }

    /// Whether the first tokens were weighed.
    pub fn has_begun(&self) -> bool {
        !self.sums.is_empty()
    }

    /// What its own place is at.
    pub fn own(&mut self) -> &mut Option<Branch> {
        &mut self.own
    }

    /// Whether its own place has nothing to do but the choice that comes next.
    pub fn is_idle(&self) -> bool {
        self.has_begun() && self.own.is_none()
    }

    /// The numbers of the choices that are not whole.
    pub fn open(&self) -> impl Iterator<Item = usize> {
        self.open.iter().enumerate().filter_map(|(number, open)| open.then_some(number))
    }

    /// A choice is whole: its tokens after the first have this log-probability together.
    pub fn add(&mut self, number: usize, sum: f32) {
        self.sums[number] += sum;
        self.open[number] = false;
    }

    /// The log-probabilities, once all are whole.
    pub fn outcome(&mut self) -> Option<Vec<f32>> {
        let is_over = self.has_begun() && self.open().next().is_none();
        is_over.then(|| std::mem::take(&mut self.sums))
    }
}

impl Branch {
    /// Of a choice that follows a prompt of so many tokens.
    pub fn new(order: u64, number: usize, prompt: usize, choice: &[u32]) -> Self {
        Self {
            order,
            number,
            prompt,
            choice: choice.to_vec(),
            sum: 0.0,
            weighed: 0,
            is_done: false,
        }
    }

    /// Makes a sequence that begins with the prompt go on with the choice.
    pub fn begin<'a>(
        &self,
        engine: &mut Engine<'a>,
        sequence: &mut Sequence<'a>,
    ) -> Result<(), SequenceError> {
        engine.want_every(sequence, false);
        engine.cut(sequence, self.prompt);
        // Of the choice itself nothing is taken over: it is to be weighed.
        engine.reuse(sequence);
        engine.want_every(sequence, true);
        engine.append(sequence, &self.choice[..self.choice.len() - 1])
    }

    /// Adds what the last batch computed of it.
    pub fn weigh<'a>(
        &mut self,
        engine: &mut Engine<'a>,
        world: &mut World<'_, 'a>,
        sequence: &Sequence<'a>,
    ) {
        let Self { prompt, choice, sum, weighed, is_done, .. } = self;
        let mut positions = engine.positions(sequence);
        engine.each_logits(world.parallel, sequence, |logits| {
            // What comes before the choice may have been computed again, and so may its beginning.
            let at = positions.next().and_then(|position| (position + 1).checked_sub(*prompt));
            if let Some(at) = at.filter(|at| *at > *weighed)
                && let Some(&next) = choice.get(at)
            {
                *sum += Logprobs::of(logits, next, 0).chosen;
                *weighed = at;
            }
        });
        *is_done = sequence.pending().is_empty();
    }
}
