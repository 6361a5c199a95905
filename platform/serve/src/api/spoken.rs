//! What an answer's text is made of, for dialects to write.

use std::collections::VecDeque;

use crate::calls::{self, Calls};
use crate::job::{Ending, Likely, Part, Said};

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
    /// Whether a call was cut, or what came where calls stand was none.
    is_cut: bool,
}

impl Reader {
    /// Gives the pieces of more text, in their order.
    pub fn read(&mut self, said: Said, mut emit: impl FnMut(Spoken)) {
        for (part, text) in said {
            match part {
                Part::Thinking => emit(Spoken::Thinking(text)),
                Part::Answer => emit(Spoken::Text(text)),
                Part::Calls => self.calls.push(&text, &mut |piece| emit(Spoken::Call(piece))),
                Part::CallsEnd => self.is_cut |= !self.calls.finish(),
            }
        }
    }

    /// How the answer ended for who reads it: one that has not all of its calls was cut.
    pub fn ending(&self, ending: Ending) -> Ending {
        match ending {
            Ending::Stop if self.is_cut => Ending::Length,
            ending => ending,
        }
    }
}

/// Tells which tokens one answer's text is made of: not those of thinking, nor those of the stop text that
/// ended it.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    /// Those whose text is not certain yet.
    open: VecDeque<Likely>,
}

impl Tokens {
    /// The tokens of more text, in their order; of the bytes of all so far, `behind` have no text yet.
    pub fn read(&mut self, said: &Said, token: Option<Likely>, behind: usize) -> Vec<Likely> {
        self.open.extend(token);
        let answer = said.iter().filter(|(part, _)| *part == Part::Answer);
        let answer: usize = answer.map(|(_, text)| text.len()).sum();
        let all: usize = self.open.iter().map(|(token, _)| token.bytes.len()).sum();
        let certain = all.saturating_sub(behind);
        // The answer comes after its thinking, also where one token has the end of both.
        let begin = certain.saturating_sub(answer);
        let (mut at, mut tokens) = (0, Vec::new());
        while at < certain || behind == 0 {
            let Some(token) = self.open.pop_front() else { break };
            at += token.0.bytes.len();
            if at > begin && answer > 0 {
                tokens.push(token);
            }
        }
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Token;

    /// A token, what it says, and what is behind then.
    type One<'a> = (&'a str, &'a [(Part, &'a str)], usize);

    /// The tokens of what is said.
    fn read(events: &[One<'_>]) -> Vec<String> {
        let mut tokens = Tokens::default();
        let mut all = Vec::new();
        for (token, said, behind) in events {
            let likely = (Token { id: 0, bytes: (*token).into(), logprob: 0.0 }, Vec::new());
            let likely = (!token.is_empty()).then_some(likely);
            let said = said.iter().map(|(part, text)| (*part, (*text).to_owned())).collect();
            all.extend(tokens.read(&said, likely, *behind));
        }
        all.into_iter().map(|(token, _)| String::from_utf8(token.bytes).unwrap()).collect()
    }

    #[test]
    fn tokens_come_with_their_text() {
        use Part::{Answer, Thinking};
        // Of the stop text "ab" only what is before it was said.
        let stopped = [("x", &[(Answer, "x")][..], 0), ("a", &[], 1), ("ab", &[(Answer, "a")], 2)];
        assert_eq!(read(&stopped), ["x", "a"]);
        assert_eq!(read(&[("so a", &[(Answer, "so ")], 1), ("b", &[], 2)]), ["so a"]);
        // It did not come.
        assert_eq!(read(&[("a", &[], 1), ("", &[(Answer, "a")], 0)]), ["a"]);
        // A mark is no part of what is said; here the answer begins in the token of its end.
        let thought = [
            ("<t>", &[][..], 0),
            ("so", &[(Thinking, "so")], 0),
            ("</", &[], 2),
            ("t>Y", &[(Answer, "Y")], 0),
            ("es", &[(Answer, "es")], 0),
        ];
        assert_eq!(read(&thought), ["t>Y", "es"]);
        assert_eq!(read(&[("</", &[], 2), ("", &[(Thinking, "</")], 0)]), [""; 0]);
    }

    #[test]
    fn an_answer_that_has_not_all_of_its_calls_was_cut() {
        for (text, ending) in [
            ("[f(a=1), g()]", Ending::Stop),
            ("[f(a=1), g(a=01.)]", Ending::Stop),
            ("[f(a=1), g(a=[)]", Ending::Length),
            ("[f(a=1), g(", Ending::Length),
        ] {
            let mut reader = Reader::default();
            // Whatever comes behind.
            reader.read(vec![(Part::Calls, text.into()), (Part::CallsEnd, String::new())], |_| {});
            reader
                .read(vec![(Part::Calls, "[h()]".into()), (Part::CallsEnd, String::new())], |_| {});
            assert_eq!(reader.ending(Ending::Stop), ending, "{text}");
            assert_eq!(reader.ending(Ending::StopText), Ending::StopText);
        }
    }
}
