//! What an answer's text is made of, for dialects to write.

use crate::calls::{self, Calls};
use crate::job::{Part, Said};

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spoken {
    /// More of its thinking.
    Thinking(String),
    /// More of what it says.
    Text(String),
    /// More of what it calls.
    Call(calls::Piece),
}

/// Takes the text of one answer apart.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    calls: Calls,
}

impl Reader {
    /// Gives the pieces of more text, in their order.
    pub fn read(&mut self, said: Said, mut emit: impl FnMut(Spoken)) {
        for (part, text) in said {
            match part {
                Part::Thinking => emit(Spoken::Thinking(text)),
                Part::Answer => emit(Spoken::Text(text)),
                Part::Calls => self.calls.push(&text, &mut |piece| emit(Spoken::Call(piece))),
                Part::CallsEnd => self.calls.finish(),
            }
        }
    }
}
