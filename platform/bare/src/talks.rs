//! Which conversations there are: as many as the plan has room for, one of which is held.

use core::fmt;
use core::mem::take;

use heapless::Vec;
use rill::answer::Answer;
use rill::thinking::Thoughts;

/// Most conversations.
pub const MOST_TALKS: usize = 8;

/// The conversations.
#[derive(Debug)]
pub struct Talks {
    /// Where thinking is in the sequence of each that began; that of the held one is in the answer's
    /// hands.
    all: Vec<Option<Thoughts>, MOST_TALKS>,
    now: usize,
}

impl Talks {
    /// Room for `count`, at most [`MOST_TALKS`], of which the first begins and is held.
    pub fn new(count: usize) -> Self {
        let first = [Some(Thoughts::default())];
        let others = core::iter::repeat_n(None, MOST_TALKS - 1);
        Self { all: first.into_iter().chain(others).take(count).collect(), now: 0 }
    }

    /// One that did not begin.
    pub fn free(&self) -> Option<usize> {
        self.all.iter().position(Option::is_none)
    }

    /// This one begins, with its thinking there in its sequence.
    pub fn add(&mut self, number: usize, thoughts: Thoughts) {
        self.all[number] = Some(thoughts);
    }

    /// Goes on with one that began; `answer` is about it from now on.
    pub fn hold(&mut self, number: usize, answer: &mut Answer) {
        let thoughts = take(answer.thoughts());
        self.all[self.now] = Some(thoughts);
        self.now = number;
        *answer.thoughts() = self.all[number].as_mut().map(take).unwrap_or_default();
    }

    /// The one that people give this number, from 1 on, if it began.
    pub fn find(&self, number: &str) -> Option<usize> {
        let at = number.trim().parse::<usize>().ok()?.checked_sub(1)?;
        self.all.get(at)?.is_some().then_some(at)
    }
}

/// The numbers of those that began, the held one marked.
impl fmt::Display for Talks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let began = (0..self.all.len()).filter(|&at| self.all[at].is_some());
        began.enumerate().try_for_each(|(index, at)| {
            let comma = if index > 0 { ", " } else { "" };
            let mark = if at == self.now { " (this one)" } else { "" };
            write!(f, "{comma}{}{mark}", at + 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use rill::image::Earlier;

    use super::*;

    #[test]
    fn conversations_begin_until_there_is_no_room_and_each_keeps_its_thinking() {
        let mut answer = Answer::default();
        let mut talks = Talks::new(3);
        answer.thoughts().note(Some(5..9));
        assert_eq!((talks.to_string().as_str(), talks.free()), ("1 (this one)", Some(1)));
        talks.add(1, Thoughts::default());
        talks.hold(1, &mut answer);
        assert_eq!(answer.thoughts().leaving(Earlier::Leaves), None);
        answer.thoughts().note(Some(3..4));
        let copy = answer.thoughts().clone();
        talks.add(2, copy);
        talks.hold(2, &mut answer);
        assert_eq!((talks.to_string().as_str(), talks.free()), ("1, 2, 3 (this one)", None));
        for (number, thinking) in [(2, 3..4), (0, 5..9), (1, 3..4)] {
            talks.hold(number, &mut answer);
            assert_eq!(answer.thoughts().leaving(Earlier::Leaves), Some(thinking));
        }
    }

    #[test]
    fn only_what_began_is_found() {
        let mut talks = Talks::new(2);
        assert_eq!(talks.find(" 1 "), Some(0));
        for number in ["0", "2", "3", "-1", "one", "", "99999999999999999999999"] {
            assert_eq!(talks.find(number), None, "{number}");
        }
        talks.add(1, Thoughts::default());
        assert_eq!(talks.find("2"), Some(1));
    }
}
