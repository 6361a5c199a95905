//! Sets of characters.

use std::fmt;

/// A set of characters: ranges of code points, both ends included, in ascending order with gaps between.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chars(Vec<(u32, u32)>);

const LAST: u32 = char::MAX as u32;
/// Code points that are no characters.
const SURROGATES: (u32, u32) = (0xD800, 0xDFFF);

impl Chars {
    /// Those of ranges in any order.
    pub fn new(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut all: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match all.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => all.push((first, last)),
            }
        }
        Self(all)
    }

    /// This one.
    pub fn one(char: char) -> Self {
        Self(vec![(char.into(), char.into())])
    }

    /// All others.
    pub fn others(&self) -> Self {
        let these = Self::new([&self.0[..], &[SURROGATES]].concat());
        let (mut next, mut all) = (0, Vec::new());
        for &(first, last) in &these.0 {
            if first > next {
                all.push((next, first - 1));
            }
            next = last + 1;
        }
        if next <= LAST {
            all.push((next, LAST));
        }
        Self(all)
    }

    /// Adds others; says whether that made a difference.
    pub fn add(&mut self, others: &Self) -> bool {
        let all = Self::new(self.0.iter().chain(&others.0).copied().collect());
        let grew = all != *self;
        *self = all;
        grew
    }

    /// Whether both have a character.
    pub fn meets(&self, other: &Self) -> bool {
        self.0.iter().any(|a| other.0.iter().any(|b| a.0 <= b.1 && b.0 <= a.1))
    }

    /// How many ranges it has.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// As a class of a regular expression.
impl fmt::Display for Chars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for &(first, last) in &self.0 {
            let (before, after) = SURROGATES;
            for (first, last) in [(first, last.min(before - 1)), (first.max(after + 1), last)] {
                if first <= last {
                    write!(f, "\\x{{{first:x}}}-\\x{{{last:x}}}")?;
                }
            }
        }
        f.write_str("]")
    }
}
