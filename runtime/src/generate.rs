//! Letting a model speak.

use serde::Serialize;

use crate::answer::Answer;
use crate::engine::Step;
use crate::seams::World;
use crate::sequence::SequenceError;
use crate::session::Session;

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

/// Continues the sequence of `session` by at most `max_tokens` tokens.
///
/// `emit` takes the text as it comes. `interrupted` is asked before every step, also within a long
/// prompt, whether the user wants to stop; what it says then is done with.
pub fn generate<'a>(
    session: &mut Session<'a>,
    world: &mut World<'_, 'a>,
    answer: &mut Answer,
    max_tokens: u64,
    mut interrupted: impl FnMut() -> bool,
    mut emit: impl FnMut(&str),
) -> Result<Ending, SequenceError> {
    let mut left = max_tokens;
    let ending = loop {
        if interrupted() {
            break Ending::Interrupted;
        }
        if left == 0 {
            break Ending::MaxTokens;
        }
        // A long prompt goes in batches, with a chance to interrupt between them.
        if session.compute(world)? {
            continue;
        }
        left -= 1;
        match session.step(world)? {
            Step::Token(id) => {
                if answer.push(session.tokenizer().piece(id), &mut emit) {
                    break Ending::Stop;
                }
            }
            Step::End(_) => break Ending::Stop,
            Step::Full => break Ending::ContextFull,
        }
    };
    answer.finish(&mut emit);
    Ok(ending)
}
