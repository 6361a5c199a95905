//! Answers of a loaded model: one at a time, or several side by side.

use std::time::Instant;

use rill::answer::{Answer, StopError};
use rill::engine::Advance;
use rill::generate::{Ending, Free, Guide, Turn};
use rill::seams::{Events, Silent};
use rill::sequence::{Sequence, SequenceError};
use rill::thinking::Part;

use crate::engine::Engine;
use crate::talk::Talk;

/// When an answer ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnswerOptions {
    /// Most tokens of it; `None` until it ends.
    pub max_tokens: Option<u64>,
    /// It ends before any of these texts.
    pub stop: Vec<String>,
    /// Most tokens of thinking before it.
    pub thinking: Option<u64>,
}

/// Why an answer failed.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// A stop string is not usable.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// The model cannot go on.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
}

/// An answer under way in the conversation that was selected when it began.
///
/// Several of them side by side: [`go_on`](Self::go_on) with each until it waits for tokens to be
/// computed, then [`Engine::advance`] computes for all of them, and again.
#[derive(Debug, Clone)]
pub struct Speech {
    /// Number of its conversation.
    number: usize,
    answer: Answer,
    turn: Turn,
    said: String,
}

impl Speech {
    /// Begins an answer in the selected conversation, which is `talk` where there is one: else it is
    /// text without thinking.
    pub fn begin(
        engine: &Engine<'_>,
        talk: Option<&Talk>,
        options: &AnswerOptions,
    ) -> Result<Self, StopError> {
        let mut answer = Answer::default();
        options.stop.iter().try_for_each(|stop| answer.add_stop(stop))?;
        if let Some(talk) = talk {
            answer.expect_thinking(engine.session.chat().thinking.clone(), options.thinking);
            answer.begin(talk.begins_thinking(engine));
        }
        let most = options.max_tokens.unwrap_or(u64::MAX);
        let turn = Turn::begin(&engine.session, &answer, most);
        Ok(Self { number: engine.session.selected(), answer, turn, said: String::new() })
    }

    /// Number of its conversation.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Goes on as far as nothing has to be computed, which is at most one token but for guesses that
    /// were right; `guide` has a say in each choice, `emit` takes the text as it comes. How the answer
    /// ended, if it did.
    pub fn go_on(
        &mut self,
        engine: &mut Engine<'_>,
        guide: &mut dyn Guide,
        mut emit: impl FnMut(Part, &str),
    ) -> Result<Option<Ending>, SequenceError> {
        let start = Instant::now();
        let ended = loop {
            match self.prepare(engine, &mut emit) {
                Ok(None) if engine.session.can_choose() => {}
                other => break other,
            }
            match self.step(engine, &mut Silent, guide, &mut emit) {
                Ok(None) => {}
                other => break other,
            }
        };
        engine.answer_time += start.elapsed();
        ended
    }

    /// Sees to it that what its next token depends on is pending or computed. How it ended, where it has
    /// no next token.
    fn prepare(
        &mut self,
        engine: &mut Engine<'_>,
        mut emit: impl FnMut(Part, &str),
    ) -> Result<Option<Ending>, SequenceError> {
        engine.session.select(self.number);
        let Self { answer, turn, said, .. } = self;
        turn.prepare(&mut engine.session, answer, note(said, &mut emit))
    }

    /// The next token; computes what is pending. How it ended, if it did.
    fn step(
        &mut self,
        engine: &mut Engine<'_>,
        events: &mut dyn Events,
        guide: &mut dyn Guide,
        mut emit: impl FnMut(Part, &str),
    ) -> Result<Option<Ending>, SequenceError> {
        engine.session.select(self.number);
        let Self { answer, turn, said, .. } = self;
        let Engine { session, machine, .. } = engine;
        turn.step(session, &mut machine.world(events), answer, guide, note(said, &mut emit))
    }

    /// It is over, however it ended: emits what was held back, and `talk` takes note of it.
    pub fn finish(
        self,
        engine: &mut Engine<'_>,
        talk: Option<&mut Talk>,
        mut emit: impl FnMut(Part, &str),
    ) {
        engine.session.select(self.number);
        let Self { mut answer, turn, mut said, .. } = self;
        turn.finish(&engine.session, &mut answer, note(&mut said, &mut emit));
        engine.thought += answer.thought();
        if let Some(talk) = talk {
            talk.answered(&said);
        }
    }
}

/// Adds a piece of an answer to its text, or to the thinking before it.
pub fn hear(text: &mut String, thinking: &mut Option<String>, part: Part, piece: &str) {
    match part {
        Part::Mark => {}
        Part::Thinking => thinking.get_or_insert_default().push_str(piece),
        Part::Answer => text.push_str(piece),
    }
}

/// Emits text, and takes note of it.
fn note(said: &mut String, mut emit: impl FnMut(Part, &str)) -> impl FnMut(Part, &str) {
    move |part, text| {
        said.push_str(text);
        emit(part, text);
    }
}

impl<'m> Engine<'m> {
    /// Continues the selected conversation until the answer ends; `emit` takes its text as it comes.
    pub fn answer(
        &mut self,
        talk: Option<&mut Talk>,
        options: &AnswerOptions,
        emit: impl FnMut(Part, &str),
    ) -> Result<Ending, AnswerError> {
        self.answer_with(talk, options, &mut Silent, &mut Free, || false, emit)
    }

    /// As [`Self::answer`]; `events` hears what happens, `guide` has a say in each choice, and
    /// `interrupted` is asked before every step, also within a long prompt and after a batch that `events`
    /// ended, whether to stop.
    pub fn answer_with(
        &mut self,
        mut talk: Option<&mut Talk>,
        options: &AnswerOptions,
        events: &mut dyn Events,
        guide: &mut dyn Guide,
        mut interrupted: impl FnMut() -> bool,
        mut emit: impl FnMut(Part, &str),
    ) -> Result<Ending, AnswerError> {
        let start = Instant::now();
        let mut speech = Speech::begin(self, talk.as_deref(), options)?;
        let ended = loop {
            if interrupted() {
                break Ok(Ending::Interrupted);
            }
            match self.answer_on(&mut speech, events, guide, &mut emit) {
                Ok(None) => {}
                Ok(Some(ending)) => break Ok(ending),
                // Whoever hears events wanted it to end, and says so once more now.
                Err(SequenceError::Stopped) => {}
                Err(error) => break Err(error.into()),
            }
        };
        // What was said stands in the sequence, however it ended.
        speech.finish(self, talk.take(), emit);
        self.answer_time += start.elapsed();
        ended
    }

    /// One batch of a long prompt, or one token.
    fn answer_on(
        &mut self,
        speech: &mut Speech,
        events: &mut dyn Events,
        guide: &mut dyn Guide,
        emit: &mut impl FnMut(Part, &str),
    ) -> Result<Option<Ending>, SequenceError> {
        if let Some(ending) = speech.prepare(self, &mut *emit)? {
            return Ok(Some(ending));
        }
        if self.session.compute(&mut self.machine.world(events))? {
            return Ok(None);
        }
        speech.step(self, events, guide, emit)
    }

    /// One batch for those of the conversations `order`, in order of arrival, that have something to
    /// compute: see [`rill::engine::Engine::advance`]. Others give up their keys and values where these find
    /// no memory. `refused` is the place in `order` of the first one that waits for it.
    pub fn advance(
        &mut self,
        events: &mut dyn Events,
        order: &[usize],
    ) -> Result<Advance, SequenceError> {
        loop {
            let advance = self.advance_once(events, order)?;
            if !(advance.is_stuck() && self.session.make_room(order)) {
                return Ok(advance);
            }
        }
    }

    fn advance_once(
        &mut self,
        events: &mut dyn Events,
        order: &[usize],
    ) -> Result<Advance, SequenceError> {
        let start = Instant::now();
        let (core, sequences) = self.session.parts();
        let mut all: Vec<Option<&mut Sequence<'m>>> = sequences.iter_mut().map(Some).collect();
        // A number that is not there, or is there twice, has an empty place.
        let places = order.iter().map(|&number| all.get_mut(number).and_then(Option::take));
        let (places, mut chosen): (Vec<usize>, Vec<_>) =
            places.enumerate().filter_map(|(place, sequence)| Some((place, sequence?))).unzip();
        let advance = core.advance(&mut self.machine.world(events), &mut chosen);
        self.answer_time += start.elapsed();
        let advance = advance?;
        Ok(Advance { refused: advance.refused.map(|at| places[at]), ..advance })
    }
}
