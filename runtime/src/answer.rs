//! The text of an answer as it comes, cut where a stop string begins.

use core::fmt;

use heapless::{String, Vec};

use crate::tokenizer::Utf8Stream;

/// Most stop strings.
pub const MAX_STOP_STRINGS: usize = 8;
/// Longest stop string, in bytes.
pub const MAX_STOP_BYTES: usize = 64;

/// Why a stop string cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
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

/// Turns the bytes of tokens into text, holding back what may yet be a stop string or is not yet
/// a character.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    utf8: Utf8Stream,
    stops: Vec<String<MAX_STOP_BYTES>, MAX_STOP_STRINGS>,
    held: String<MAX_STOP_BYTES>,
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

    /// Takes the bytes of a token and emits what is certain. Says whether a stop string was met;
    /// from then on nothing is emitted.
    pub fn push(&mut self, bytes: &[u8], mut emit: impl FnMut(&str)) -> bool {
        let Self { utf8, stops, held, stopped } = self;
        utf8.push(bytes, |text| hold(stops, held, stopped, text, &mut emit));
        self.stopped
    }

    /// Ends the answer: emits what was held back. The answer is as new afterwards, with the same
    /// stop strings.
    pub fn finish(&mut self, mut emit: impl FnMut(&str)) {
        let Self { utf8, stops, held, stopped } = self;
        utf8.finish(|text| hold(stops, held, stopped, text, &mut emit));
        if !self.stopped && !self.held.is_empty() {
            emit(&self.held);
        }
        self.held.clear();
        self.stopped = false;
    }
}

fn hold(
    stops: &[String<MAX_STOP_BYTES>],
    held: &mut String<MAX_STOP_BYTES>,
    stopped: &mut bool,
    text: &str,
    emit: &mut impl FnMut(&str),
) {
    if *stopped {
        return;
    }
    if stops.is_empty() {
        emit(text);
        return;
    }
    for char in text.chars() {
        // What is held is a proper prefix of a stop string, so one more character fits, or it
        // cannot match any more and goes out below.
        if held.push(char).is_err() {
            emit(held);
            held.clear();
            emit(char.encode_utf8(&mut [0; 4]));
            continue;
        }
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
            stopped = answer.push(piece, |t| text.push_str(t));
            if stopped {
                break;
            }
        }
        answer.finish(|t| text.push_str(t));
        (text, stopped)
    }

    #[test]
    fn the_text_ends_before_the_stop_string_however_it_is_cut() {
        assert_eq!(run(&[b"one\nUs", b"er: two"], &["\nUser:"]), ("one".into(), true));
        assert_eq!(run(&[b"one\nUs", b"e"], &["\nUser:"]), ("one\nUse".into(), false));
        assert_eq!(run(&[b"aab"], &["ab"]), ("a".into(), true));
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
            let mut cuts: std::vec::Vec<_> = cuts.iter().map(|c| c % (text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: std::vec::Vec<_> =
                cuts.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
            let stops: std::vec::Vec<_> = stops.iter().map(|s| s.as_str()).collect();
            // The stop that is complete first; of those the longest, which begins first.
            let end = stops.iter().filter_map(|s| text.find(s).map(|at| at + s.len())).min();
            let expected = end.map_or(text.as_str(), |end| {
                let first = stops.iter().find(|s| text[..end].ends_with(**s)).unwrap();
                &text[..end - first.len()]
            });
            prop_assert_eq!(run(&pieces, &stops), (expected.into(), end.is_some()));
        }
    }
}
