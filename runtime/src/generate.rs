//! Letting a model speak.

use serde::Serialize;

use crate::answer::Answer;
use crate::engine::{Ask, Sample, Step};
use crate::seams::World;
use crate::sequence::SequenceError;
use crate::session::Session;
use crate::thinking::Part;
use crate::tokenizer::SCRATCH_WORDS_PER_BYTE;

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The model ended it, or a stop text did.
    Stop,
    /// It has as many tokens as were asked for.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// The user interrupted it.
    Interrupted,
}

/// Has a say in each choice of an answer.
pub trait Guide {
    /// What to ask of the next choice.
    fn ask(&mut self) -> Ask<'_> {
        Ask::default()
    }

    /// This came of it; it is part of the answer.
    fn chosen(&mut self, _: &Sample) {}
}

/// Asks for nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Free;

impl Guide for Free {}

/// Continues the sequence of `session` by at most `max_tokens` tokens.
///
/// `guide` is asked before each choice. `emit` takes the text as it comes. Thinking that has as many
/// tokens as `answer` allows is ended, and the answer goes on. `interrupted` is asked before every
/// step, also within a long prompt, whether the user wants to stop; what it says then is done with. A
/// batch that [`Events::wants_stop`](crate::seams::Events::wants_stop) ends is followed by that question.
pub fn generate<'a>(
    session: &mut Session<'a>,
    world: &mut World<'_, 'a>,
    answer: &mut Answer,
    max_tokens: u64,
    guide: &mut dyn Guide,
    mut interrupted: impl FnMut() -> bool,
    mut emit: impl FnMut(Part, &str),
) -> Result<Ending, SequenceError> {
    let mut turn = Turn::begin(session, answer, max_tokens);
    let mut speak = || loop {
        if interrupted() {
            return Ok(Ending::Interrupted);
        }
        if let Some(ending) = turn.prepare(session, answer, &mut emit)? {
            return Ok(ending);
        }
        // A long prompt goes in batches, with a chance to interrupt between them.
        let more = match session.compute(world) {
            Err(SequenceError::Stopped) => true,
            computed => computed?,
        };
        if more {
            continue;
        }
        if let Some(ending) = turn.step(session, world, answer, guide, &mut emit)? {
            return Ok(ending);
        }
    };
    let ended = speak();
    turn.finish(session, answer, &mut emit);
    ended
}

/// An answer under way, token by token: what [`generate`] does, for callers that compute the tokens of
/// several sequences together.
///
/// Its calls go to the sequence for which it began, which is then the selected one of the session.
#[derive(Debug, Clone)]
pub struct Turn {
    /// Where the answer begins in the sequence, with thinking that the prompt began.
    begin: usize,
    /// Where its thinking ends, once that is known.
    end: Option<usize>,
    /// Tokens that it may have yet.
    left: u64,
}

impl Turn {
    /// An answer of at most `max_tokens` tokens begins.
    pub fn begin(session: &Session<'_>, answer: &Answer, max_tokens: u64) -> Self {
        let begin = session.tokens().len() - prompted_len(session, answer);
        Self { begin, end: None, left: max_tokens }
    }

    /// Sees to it that what the next token depends on is pending or computed; ends thinking that has as
    /// many tokens as it may. How the answer ended, where it has no next token.
    pub fn prepare(
        &mut self,
        session: &mut Session<'_>,
        answer: &mut Answer,
        emit: impl FnMut(Part, &str),
    ) -> Result<Option<Ending>, SequenceError> {
        if self.left == 0 {
            return Ok(Some(Ending::MaxTokens));
        }
        if answer.has_thought_enough() {
            let end = answer.end_thinking(emit);
            match session.append_to_answer(&end) {
                Err(SequenceError::ContextFull { .. }) => return Ok(Some(Ending::ContextFull)),
                other => other?,
            }
        }
        session.want_logits();
        Ok(None)
    }

    /// The next token: computes what is pending, and chooses it. How the answer ended, if it did.
    pub fn step<'a>(
        &mut self,
        session: &mut Session<'a>,
        world: &mut World<'_, 'a>,
        answer: &mut Answer,
        guide: &mut dyn Guide,
        mut emit: impl FnMut(Part, &str),
    ) -> Result<Option<Ending>, SequenceError> {
        let Some(sample) = session.choose(world, &guide.ask())? else {
            return Ok(Some(Ending::ContextFull));
        };
        self.left = self.left.saturating_sub(1);
        guide.chosen(&sample);
        Ok(match session.accept(sample.id)? {
            Step::Token(id) => {
                let stop = answer.push(session.tokenizer().piece(id), &mut emit);
                if self.end.is_none() && answer.thinker().has_answered() {
                    // This token is the first that is answer.
                    self.end = Some(session.tokens().len() - 1);
                }
                stop.then_some(Ending::Stop)
            }
            Step::End(_) => {
                // It closes the message and stays.
                self.end = self.end.or(Some(session.tokens().len() - 1));
                Some(Ending::Stop)
            }
            Step::Full => Some(Ending::ContextFull),
        })
    }

    /// The answer is over: emits what was held back, and notes where its thinking is.
    pub fn finish(self, session: &Session<'_>, answer: &mut Answer, emit: impl FnMut(Part, &str)) {
        let thought = answer.has_thought();
        answer.finish(emit);
        let end = self.end.unwrap_or(session.tokens().len());
        answer.thoughts.note(thought.then_some(self.begin..end));
    }
}

/// The conversation goes on: takes earlier thinking out of the sequence as the model's own template
/// would leave it out. For conversations that the core writes, before the next message.
pub fn forget_thinking(session: &mut Session<'_>, answer: &mut Answer) {
    let earlier = session.chat().thinking.as_ref().map(|thinking| thinking.earlier);
    if let Some(range) = answer.thoughts.leaving(earlier.unwrap_or_default()) {
        session.remove(range);
    }
}

/// Tokens at the end of a prompt that begin thinking.
fn prompted_len(session: &Session<'_>, answer: &Answer) -> usize {
    let Some(open) = answer.thinker().mark().filter(|_| answer.thinker().is_within()) else {
        return 0;
    };
    // A mark has at most 24 bytes, so there is room.
    let (mut scratch, mut out) = ([0; 32 * SCRATCH_WORDS_PER_BYTE], [0; 32]);
    let parts = [open, "\n"];
    session.tokenizer().encode_parts(&parts, true, &mut scratch, &mut out).unwrap_or(0)
}
