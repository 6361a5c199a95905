//! The text of an answer as it comes: thinking told apart, and cut where a stop string begins.

use core::fmt;

use heapless::{String, Vec};

use crate::image::Thinking;
use crate::thinking::{Part, Thinker, Thoughts};
use crate::tokenizer::Utf8Stream;

/// Most stop strings.
pub const MAX_STOP_STRINGS: usize = 8;
/// Longest stop string, in bytes.
pub const MAX_STOP_BYTES: usize = 64;

/// Why a stop string cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum StopError {
    /// It is empty.
    Empty,
    /// It has too many bytes.
    Long,
    /// There are too many.
    Many,
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "a stop string must not be empty"),
            Self::Long => write!(f, "a stop string has at most {MAX_STOP_BYTES} bytes"),
            Self::Many => write!(f, "there are at most {MAX_STOP_STRINGS} stop strings"),
        }
    }
}

impl core::error::Error for StopError {}

/// A part of a stop string and one character more.
type Held = String<{ MAX_STOP_BYTES + char::MAX_LEN_UTF8 }>;

/// Turns the bytes of tokens into text, holding back what may yet be a stop string or is not yet
/// a character.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    utf8: Utf8Stream,
    thinker: Thinker,
    /// Most tokens of thinking.
    most: Option<u64>,
    /// Tokens of thinking so far, in all answers.
    thought: u64,
    /// Those before this answer.
    thought_before: u64,
    /// Where thinking is in the sequence.
    pub(crate) thoughts: Thoughts,
    stops: Vec<String<MAX_STOP_BYTES>, MAX_STOP_STRINGS>,
    held: Held,
    stopped: bool,
}

impl Answer {
    /// Ends the answer before `stop`.
    pub fn add_stop(&mut self, stop: &str) -> Result<(), StopError> {
        if stop.is_empty() {
            return Err(StopError::Empty);
        }
        let stop = String::try_from(stop).map_err(|_| StopError::Long)?;
        self.stops.push(stop).map_err(|_| StopError::Many)
    }

    /// Answers are of a model that thinks like this, with at most so many tokens of thinking.
    pub fn expect_thinking(&mut self, thinking: Option<Thinking>, most: Option<u64>) {
        self.thinker = Thinker::new(thinking);
        self.most = most;
    }

    /// An answer in a conversation begins; `thinking` says whether its prompt began its thinking.
    /// Without this call the text is all answer.
    pub fn begin(&mut self, thinking: bool) {
        self.thinker.begin(thinking);
        self.thought_before = self.thought;
    }

    /// A conversation begins: there is no thinking in the sequence.
    pub fn begin_conversation(&mut self) {
        self.thoughts = Thoughts::default();
    }

    /// Where thinking is in the sequence. Who goes on with another conversation puts that one's here.
    pub fn thoughts(&mut self) -> &mut Thoughts {
        &mut self.thoughts
    }

    /// What takes the text apart.
    pub(crate) fn thinker(&self) -> &Thinker {
        &self.thinker
    }

    /// Tokens of thinking in all answers so far, its marks included.
    pub fn thought(&self) -> u64 {
        self.thought
    }

    /// Whether this answer has thinking, or began it.
    pub(crate) fn has_thought(&self) -> bool {
        self.thought > self.thought_before || self.thinker.is_within()
    }

    /// Whether the text stands within thinking.
    pub fn is_thinking(&self) -> bool {
        self.thinker.is_within()
    }

    /// Whether there is thinking that has as many tokens as it may.
    pub fn has_thought_enough(&self) -> bool {
        let so_far = self.thought - self.thought_before;
        self.thinker.is_within() && self.most.is_some_and(|most| so_far >= most)
    }

    /// Ends the thinking, and returns the text that ends it in the sequence.
    pub fn end_thinking(&mut self, mut emit: impl FnMut(Part, &str)) -> String<64> {
        self.thinker.end(&mut emit)
    }

    /// Takes the bytes of a token and emits what is certain. Says whether a stop string was met in
    /// the answer; from then on nothing is emitted. Thinking has no stop strings.
    pub fn push(&mut self, bytes: &[u8], mut emit: impl FnMut(Part, &str)) -> bool {
        let within = self.thinker.is_within();
        let Self { utf8, thinker, stops, held, stopped, .. } = self;
        let mut part = |part, text: &str| hold(stops, held, stopped, part, text, &mut emit);
        utf8.push(bytes, |text| thinker.push(text, &mut part));
        if within || self.thinker.is_within() {
            self.thought += 1;
        }
        self.stopped
    }

    /// Ends the answer: emits what was held back. The answer is as new afterwards, with the same
    /// stop strings.
    pub fn finish(&mut self, mut emit: impl FnMut(Part, &str)) {
        let Self { utf8, thinker, stops, held, stopped, .. } = self;
        let mut part = |part, text: &str| hold(stops, held, stopped, part, text, &mut emit);
        utf8.finish(|text| thinker.push(text, &mut part));
        thinker.finish(&mut part);
        thinker.answer();
        if !self.stopped && !self.held.is_empty() {
            emit(Part::Answer, &self.held);
        }
        self.held.clear();
        self.stopped = false;
    }
}

fn hold(
    stops: &[String<MAX_STOP_BYTES>],
    held: &mut Held,
    stopped: &mut bool,
    part: Part,
    text: &str,
    emit: &mut impl FnMut(Part, &str),
) {
    if *stopped {
        return;
    }
    if stops.is_empty() || part != Part::Answer {
        emit(part, text);
        return;
    }
    let mut emit = |text: &str| emit(Part::Answer, text);
    for char in text.chars() {
        // What is held is a proper prefix of a stop string.
        held.push(char).unwrap_or_else(|_| unreachable!("there is room for one more character"));
        if let Some(stop) = stops.iter().find(|stop| held.ends_with(stop.as_str())) {
            let text = &held[..held.len() - stop.len()];
            if !text.is_empty() {
                emit(text);
            }
            held.clear();
            *stopped = true;
            return;
        }
        let keep = (0..held.len())
            .filter(|&at| held.is_char_boundary(at))
            .find(|&at| stops.iter().any(|stop| stop.starts_with(&held[at..])))
            .unwrap_or(held.len());
        if keep > 0 {
            emit(&held[..keep]);
            let rest = String::try_from(&held[keep..]);
            *held = rest.unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(pieces: &[&[u8]], stops: &[&str]) -> (std::string::String, bool) {
        let mut answer = Answer::default();
        stops.iter().for_each(|stop| answer.add_stop(stop).unwrap());
        let mut text = std::string::String::new();
        let mut stopped = false;
        for piece in pieces {
            stopped = answer.push(piece, |_, t| text.push_str(t));
            if stopped {
                break;
            }
        }
        answer.finish(|_, t| text.push_str(t));
        (text, stopped)
    }

    #[test]
    fn the_text_ends_before_the_stop_string_however_it_is_cut() {
        assert_eq!(run(&[b"one\nUs", b"er: two"], &["\nUser:"]), ("one".into(), true));
        assert_eq!(run(&[b"one\nUs", b"e"], &["\nUser:"]), ("one\nUse".into(), false));
        assert_eq!(run(&[b"aab"], &["ab"]), ("a".into(), true));
    }

    #[test]
    fn thinking_is_counted_and_has_no_stop_strings() {
        let [open, close] = ["<think>", "</think>"].map(|mark| mark.parse().unwrap());
        let thinking =
            Thinking { open, close, prompted: false, earlier: crate::image::Earlier::Stays };
        let mut answer = Answer::default();
        answer.add_stop("END").unwrap();
        answer.expect_thinking(Some(thinking), Some(3));
        let mut text = std::string::String::new();
        let mut say = |part, piece: &str| text.push_str(&std::format!("{part:?} {piece:?} "));
        answer.begin(false);
        for (token, enough) in [("<think>", false), ("a END", false), ("b", true)] {
            assert!(!answer.push(token.as_bytes(), &mut say));
            assert_eq!(answer.has_thought_enough(), enough, "{token}");
        }
        assert_eq!(answer.end_thinking(&mut say), "\n</think>\n\n");
        assert!(!answer.has_thought_enough());
        assert!(answer.push(b"c END", &mut say));
        answer.finish(&mut say);
        assert_eq!(answer.thought(), 3);
        answer.begin(true);
        assert!(!answer.has_thought_enough());
        let expected = "Mark \"<think>\" Thinking \"a END\" Thinking \"b\" \
                        Mark \"\\n</think>\\n\\n\" Answer \"c\" Answer \" \" ";
        assert_eq!(text, expected);
    }

    #[test]
    fn stop_strings_have_limits() {
        let mut answer = Answer::default();
        assert_eq!(answer.add_stop(""), Err(StopError::Empty));
        assert_eq!(answer.add_stop(&"x".repeat(65)), Err(StopError::Long));
        (0..MAX_STOP_STRINGS).for_each(|_| answer.add_stop("x").unwrap());
        assert_eq!(answer.add_stop("x"), Err(StopError::Many));
    }

    proptest! {
        #[test]
        fn equals_a_search_in_the_whole_text(
            text in "[abé]{0,40}",
            stops in proptest::collection::vec("[abé]{1,4}", 0..4),
            cuts in proptest::collection::vec(any::<usize>(), 0..8),
        ) {
            equals_search(&text, &stops, &cuts)?;
        }

        /// Runs of one letter hold back as much as can be held, before a character of any length.
        #[test]
        fn equals_a_search_with_the_longest_stops(
            text in "[abé]{0,4}(a{62,66}[bé√🦊]{1,4}){1,2}",
            stops in proptest::collection::vec("a{63}b|a?[é√🦊]{1,2}", 1..5),
            cuts in proptest::collection::vec(any::<usize>(), 0..8),
        ) {
            equals_search(&text, &stops, &cuts)?;
        }
    }

    fn equals_search(
        text: &str,
        stops: &[std::string::String],
        cuts: &[usize],
    ) -> Result<(), TestCaseError> {
        let mut cuts: std::vec::Vec<_> = cuts.iter().map(|c| c % (text.len() + 1)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces: std::vec::Vec<_> =
            cuts.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
        let stops: std::vec::Vec<_> = stops.iter().map(|s| s.as_str()).collect();
        // The stop that is complete first; of those the longest, which begins first.
        let end = stops.iter().filter_map(|s| text.find(s).map(|at| at + s.len())).min();
        let expected = end.map_or(text, |end| {
            let first = stops.iter().find(|s| text[..end].ends_with(**s)).unwrap();
            &text[..end - first.len()]
        });
        prop_assert_eq!(run(&pieces, &stops), (expected.into(), end.is_some()));
        Ok(())
    }
}
