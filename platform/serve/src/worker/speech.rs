//! What an answer's tokens say: thinking, words and calls told apart.

use rill::answer::Answer;
use rill::engine::Engine;
use rill::thinking;
use rill::tokenizer::Utf8Stream;

use crate::form::Marks;
use crate::job::{Part, Said, Style};

/// Takes tokens and gives their text.
pub struct Speech {
    answer: Answer,
    marks: Option<Marks>,
    /// Whether the answer stands within calls.
    calls: bool,
    utf8: Utf8Stream,
    /// Bytes of tokens that have no text yet.
    behind: usize,
}

impl Speech {
    /// For a style whose stop texts were checked; `thinks` says whether the prompt begins thinking.
    pub fn new(engine: &Engine<'_>, style: &Style, thinks: bool) -> Self {
        let mut answer = Answer::default();
        for stop in &style.stops {
            // The door refuses what does not fit.
            let _ = answer.add_stop(stop);
        }
        if style.tells_thinking {
            answer.expect_thinking(engine.chat().thinking.clone(), style.thinking);
            answer.begin(thinks);
        }
        Self { answer, marks: style.calls, calls: false, utf8: Utf8Stream::default(), behind: 0 }
    }

    /// Takes a token; says whether a stop text ends the answer. Calls have no stop texts, and none
    /// begins within thinking.
    pub fn push(&mut self, id: u32, piece: &[u8], said: &mut Said) -> bool {
        match self.marks {
            Some(marks) if self.calls && id == marks.end => {
                self.end_calls(said);
                false
            }
            _ if self.calls => {
                self.utf8.push(piece, |text| add(said, Part::Calls, text));
                false
            }
            Some(marks) if id == marks.begin && !self.is_thinking() => {
                self.finish(said);
                self.calls = true;
                false
            }
            _ => {
                let mut emit = collect(said);
                let mut emitted = 0;
                let stopped = self.answer.push(piece, |part, text| {
                    emitted += text.len();
                    emit(part, text);
                });
                // What is no character has a longer one in its place.
                self.behind = (self.behind + piece.len()).saturating_sub(emitted);
                stopped
            }
        }
    }

    /// Bytes of tokens that have no text yet, or will have none because a stop text begins with them.
    pub fn behind(&self) -> usize {
        self.behind
    }

    /// Whether the answer stands within calls.
    pub fn is_calling(&self) -> bool {
        self.calls
    }

    /// Whether the answer stands within thinking.
    pub fn is_thinking(&self) -> bool {
        self.answer.is_thinking()
    }

    /// Whether there is thinking that has as many tokens as it may.
    pub fn has_thought_enough(&self) -> bool {
        self.answer.has_thought_enough()
    }

    /// Ends the thinking; returns what ends it in the sequence.
    pub fn end_thinking(&mut self, said: &mut Said) -> impl AsRef<str> + use<> {
        self.behind = 0;
        self.answer.end_thinking(collect(said))
    }

    /// Tokens of thinking so far.
    pub fn thought(&self) -> u64 {
        self.answer.thought()
    }

    /// The answer ends: gives what was held back.
    pub fn finish(&mut self, said: &mut Said) {
        if self.calls {
            self.end_calls(said);
        }
        self.answer.finish(collect(said));
        self.behind = 0;
    }

    fn end_calls(&mut self, said: &mut Said) {
        self.utf8.finish(|text| add(said, Part::Calls, text));
        // A list of its own, so that whatever came does not reach into the next.
        said.push((Part::CallsEnd, String::new()));
        self.calls = false;
    }
}

/// Adds to what was said, to pieces of one part together.
fn add(said: &mut Said, part: Part, piece: &str) {
    match said.last_mut() {
        Some((last, text)) if *last == part => text.push_str(piece),
        _ => said.push((part, piece.to_owned())),
    }
}

fn collect(said: &mut Said) -> impl FnMut(thinking::Part, &str) {
    |part, piece| match part {
        thinking::Part::Mark => {}
        thinking::Part::Thinking => add(said, Part::Thinking, piece),
        thinking::Part::Answer => add(said, Part::Answer, piece),
    }
}
