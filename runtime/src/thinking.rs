//! Thinking, told from the answer that follows it.

use core::ops::Range;

use heapless::String;

use crate::image::{Earlier, Thinking};

/// What a piece of an answer's text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Part {
    /// What begins or ends thinking, and white space after it.
    Mark,
    /// Thinking.
    Thinking,
    /// The answer itself.
    Answer,
}

/// Bytes of the longest mark, and one character more.
const HELD: usize = 24 + 4;

/// Takes the text of an answer apart as it comes. Thinking can only be at its beginning.
#[derive(Debug, Clone, Default)]
pub struct Thinker {
    /// `None` for a model that does not think.
    thinking: Option<Thinking>,
    stage: Stage,
    /// What may yet be a mark.
    held: String<HELD>,
}

/// Where a text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// Thinking may begin.
    Before,
    /// Right after what begins it.
    Opened,
    /// In it.
    Within,
    /// Right after what ends it.
    Closed,
    /// There is none, or it is over.
    #[default]
    Answer,
}

impl Thinker {
    /// For a model that thinks like this.
    pub fn new(thinking: Option<Thinking>) -> Self {
        Self { thinking, ..Self::default() }
    }

    /// An answer begins; `within` says whether its prompt began the thinking.
    pub fn begin(&mut self, within: bool) {
        self.held.clear();
        self.stage = match (&self.thinking, within) {
            (None, _) => Stage::Answer,
            (Some(_), true) => Stage::Opened,
            (Some(_), false) => Stage::Before,
        };
    }

    /// Whether the answer itself has begun.
    pub fn has_answered(&self) -> bool {
        self.stage == Stage::Answer
    }

    /// What a prompt begins thinking with.
    pub fn mark(&self) -> Option<&str> {
        self.thinking.as_ref().map(|thinking| thinking.open.as_str())
    }

    /// Whether the text stands within thinking.
    pub fn is_within(&self) -> bool {
        matches!(self.stage, Stage::Opened | Stage::Within)
    }

    /// Takes text and emits what is certain.
    pub fn push(&mut self, mut text: &str, emit: &mut impl FnMut(Part, &str)) {
        while let Some(char) = text.chars().next() {
            let space = text.len() - text.trim_start().len();
            match self.stage {
                Stage::Answer => {
                    emit(Part::Answer, text);
                    return;
                }
                Stage::Opened | Stage::Closed if space > 0 => {
                    emit(Part::Mark, &text[..space]);
                    text = &text[space..];
                }
                Stage::Opened => self.stage = Stage::Within,
                Stage::Closed => self.stage = Stage::Answer,
                Stage::Before if self.held.is_empty() && space > 0 => {
                    emit(Part::Answer, &text[..space]);
                    text = &text[space..];
                }
                Stage::Before => {
                    text = &text[char.len_utf8()..];
                    self.open(char, emit);
                }
                Stage::Within => {
                    let first = self.close().chars().next().unwrap_or(char);
                    let certain = if self.held.is_empty() {
                        text.find(first).unwrap_or(text.len())
                    } else {
                        0
                    };
                    if certain > 0 {
                        emit(Part::Thinking, &text[..certain]);
                        text = &text[certain..];
                    } else {
                        text = &text[char.len_utf8()..];
                        self.within(char, emit);
                    }
                }
            }
        }
    }

    /// The answer ends: emits what was held back.
    pub fn finish(&mut self, emit: &mut impl FnMut(Part, &str)) {
        if !self.held.is_empty() {
            emit(if self.is_within() { Part::Thinking } else { Part::Answer }, &self.held);
            self.held.clear();
        }
    }

    /// What follows is all answer.
    pub fn answer(&mut self) {
        self.stage = Stage::Answer;
    }

    /// Ends thinking as if the model had, and returns what stands for it in the sequence.
    pub fn end(&mut self, emit: &mut impl FnMut(Part, &str)) -> String<64> {
        self.finish(emit);
        let mut text = String::new();
        // A mark has at most 24 bytes.
        for part in ["\n", self.close(), "\n\n"] {
            let _ = text.push_str(part);
        }
        emit(Part::Mark, &text);
        self.stage = Stage::Closed;
        text
    }

    /// What ends thinking.
    fn close(&self) -> &str {
        self.thinking.as_ref().map_or("", |thinking| thinking.close.as_str())
    }

    /// Takes a character where thinking may begin.
    fn open(&mut self, char: char, emit: &mut impl FnMut(Part, &str)) {
        let Self { thinking, stage, held } = self;
        let open = thinking.as_ref().map_or("", |thinking| thinking.open.as_str());
        // What is held is shorter than the mark, so there is room.
        let _ = held.push(char);
        if held == open {
            emit(Part::Mark, held);
            *stage = Stage::Opened;
        } else if open.starts_with(held.as_str()) {
            return;
        } else {
            emit(Part::Answer, held);
            *stage = Stage::Answer;
        }
        held.clear();
    }

    /// Takes a character within thinking.
    fn within(&mut self, char: char, emit: &mut impl FnMut(Part, &str)) {
        let Self { thinking, stage, held } = self;
        let close = thinking.as_ref().map_or("", |thinking| thinking.close.as_str());
        let _ = held.push(char);
        if held == close {
            emit(Part::Mark, held);
            held.clear();
            *stage = Stage::Closed;
            return;
        }
        let starts = |at: &usize| held.is_char_boundary(*at) && close.starts_with(&held[*at..]);
        let keep = (0..held.len()).find(starts).unwrap_or(held.len());
        if keep > 0 {
            emit(Part::Thinking, &held[..keep]);
            let rest = String::try_from(&held[keep..]);
            *held = rest.unwrap_or_default();
        }
    }
}

/// Where the last answers' thinking stands in a sequence.
#[derive(Debug, Clone, Default)]
pub struct Thoughts {
    /// The last answer's, and that of the one before.
    places: [Option<Range<usize>>; 2],
}

impl Thoughts {
    /// An answer is complete; `place` is where its thinking is, if it has any.
    pub fn note(&mut self, place: Option<Range<usize>>) {
        let [last, _] = &mut self.places;
        let before = core::mem::replace(last, place);
        // What has left already, or was never there, has no place.
        self.places[1] = before.or_else(|| self.places[1].take());
    }

    /// The conversation goes on: the tokens that leave it now.
    pub fn leaving(&mut self, earlier: Earlier) -> Option<Range<usize>> {
        let [last, before] = &mut self.places;
        match earlier {
            Earlier::Stays => None,
            Earlier::Leaves => last.take(),
            Earlier::LeavesButLast => {
                let leaving = before.take()?;
                if let Some(last) = last {
                    *last = last.start - leaving.len()..last.end - leaving.len();
                }
                Some(leaving)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::string::String as Text;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn thinker() -> Thinker {
        let [open, close] = ["<think>", "</think>"].map(|mark| mark.parse().unwrap());
        Thinker::new(Some(Thinking { open, close, prompted: false, earlier: Earlier::Stays }))
    }

    /// The thinking, the answer, and all of it, of a text that comes in these pieces.
    fn run(pieces: &[&str], within: bool) -> [Text; 3] {
        let mut thinker = thinker();
        thinker.begin(within);
        let mut texts = [const { Text::new() }; 3];
        let mut emit = |part, text: &str| {
            match part {
                Part::Mark => {}
                Part::Thinking => texts[0].push_str(text),
                Part::Answer => texts[1].push_str(text),
            }
            texts[2].push_str(text);
        };
        pieces.iter().for_each(|piece| thinker.push(piece, &mut emit));
        thinker.finish(&mut emit);
        texts
    }

    #[test]
    fn thinking_is_told_from_the_answer_however_it_is_cut() {
        let cases = [
            ("<think>\nSo.\n</think>\n\nYes. </think>", false, "So.\n", "Yes. </think>"),
            ("\nSo.</think>Yes.", true, "So.", "Yes."),
            (" <think>a < b </thin</think>c", false, "a < b </thin", " c"),
            ("<thinker>", false, "", "<thinker>"),
            ("No <think>x</think>", false, "", "No <think>x</think>"),
            ("<think>cut </th", false, "cut </th", ""),
            ("<thi", false, "", "<thi"),
            ("<think></think>", false, "", ""),
            ("<think><</think>é", false, "<", "é"),
        ];
        for (text, within, thinking, answer) in cases {
            for cut in (0..=text.len()).filter(|&cut| text.is_char_boundary(cut)) {
                let found = run(&[&text[..cut], &text[cut..]], within);
                assert_eq!(found, [thinking, answer, text], "{text:?} at {cut}");
            }
        }
    }

    #[test]
    fn thinking_can_be_ended() {
        let mut thinker = thinker();
        thinker.begin(false);
        let mut all = Vec::new();
        let mut emit = |part, text: &str| all.push((part, Text::from(text)));
        thinker.push("<think>On and on <", &mut emit);
        assert!(thinker.is_within());
        assert_eq!(thinker.end(&mut emit), "\n</think>\n\n");
        assert!(!thinker.is_within());
        thinker.push(" Yes.", &mut emit);
        let texts: Text = all.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, "<think>On and on <\n</think>\n\n Yes.");
        assert_eq!(all.last(), Some(&(Part::Answer, "Yes.".into())));
    }

    #[test]
    fn earlier_thinking_leaves_as_the_template_says() {
        let mut thoughts = Thoughts::default();
        thoughts.note(Some(5..9));
        assert_eq!(thoughts.leaving(Earlier::Stays), None);
        assert_eq!(thoughts.leaving(Earlier::Leaves), Some(5..9));
        assert_eq!(thoughts.leaving(Earlier::Leaves), None);

        let mut thoughts = Thoughts::default();
        let mut next = |place| {
            thoughts.note(place);
            thoughts.leaving(Earlier::LeavesButLast)
        };
        assert_eq!(next(Some(5..9)), None);
        assert_eq!(next(Some(20..30)), Some(5..9));
        // The second lies four tokens earlier since then.
        assert_eq!(next(Some(50..51)), Some(16..26));
        assert_eq!(next(None), Some(40..41));
    }

    #[test]
    fn a_model_that_does_not_think_answers_at_once() {
        let mut thinker = Thinker::new(None);
        thinker.begin(false);
        let mut parts = Vec::new();
        thinker.push(" <think>", &mut |part, text| parts.push((part, Text::from(text))));
        assert_eq!(parts, [(Part::Answer, " <think>".into())]);
    }

    proptest! {
        #[test]
        fn no_text_is_lost_and_cuts_do_not_matter(
            text in "(<think>)?(<|</think|</think>|think>|[a-cé \n]){0,12}",
            within: bool,
            cuts in proptest::collection::vec(any::<usize>(), 0..8),
        ) {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
            cuts.retain(|&cut| text.is_char_boundary(cut));
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            let found = run(&pieces, within);
            prop_assert_eq!(&found[2], &text);
            prop_assert_eq!(found, run(&[&text], within));
        }
    }
}
