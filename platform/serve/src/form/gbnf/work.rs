//! The work that a grammar takes, of which there is a most.

use std::cell::Cell;

use super::Chars;

/// Most parts, characters and ranges of characters that are looked at.
const MOST: usize = 4_000_000;

/// How much of it there was so far.
#[derive(Debug, Default)]
pub struct Work(Cell<usize>);

impl Work {
    /// Counts so much more.
    pub fn count(&self, more: usize) {
        self.0.set(self.0.get().saturating_add(more));
    }

    /// Whether there was more than may be: what is found out from then on says nothing.
    pub fn is_too_much(&self) -> bool {
        self.0.get() > MOST
    }

    /// Adds characters to others; says whether that made a difference.
    pub fn join(&self, all: &mut Chars, more: &Chars) -> bool {
        self.count(all.len() + more.len());
        !self.is_too_much() && all.add(more)
    }

    /// Whether both have a character.
    pub fn meet(&self, one: &Chars, other: &Chars) -> bool {
        self.count(one.len() + other.len());
        !self.is_too_much() && one.meets(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compared_is_work_and_in_the_end_nothing_is() {
        const RANGES: u32 = 1000;
        let set = |from| Chars::new((0..RANGES).map(|n| (from + 4 * n, from + 4 * n)).collect());
        let (mut one, other) = (set(0), set(2));
        let work = Work::default();
        for _ in 0..MOST / (2 * RANGES as usize) {
            assert!(!work.meet(&one, &other));
        }
        assert!(!work.is_too_much());
        assert!(!work.meet(&one, &one) && work.is_too_much());
        assert!(!work.join(&mut one, &other) && !one.meets(&other));
    }
}
