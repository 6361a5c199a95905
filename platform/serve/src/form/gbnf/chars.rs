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

    /// Those of some sets; nothing where two of them have a character in common.
    pub fn apart(sets: &[Self]) -> Option<Self> {
        let mut ranges: Vec<_> = sets.iter().flat_map(|set| &set.0).copied().collect();
        ranges.sort_unstable();
        let are_apart = ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
        are_apart.then(|| Self::new(ranges))
    }

    /// Whether both have a character.
    pub fn meets(&self, other: &Self) -> bool {
        let (mut ours, mut others) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(one), Some(two)) = (ours.peek(), others.peek()) {
            if one.1 < two.0 {
                ours.next();
            } else if two.1 < one.0 {
                others.next();
            } else {
                return true;
            }
        }
        false
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

/// Those of all of them.
impl FromIterator<Self> for Chars {
    fn from_iter<I: IntoIterator<Item = Self>>(sets: I) -> Self {
        Self::new(sets.into_iter().flat_map(|set| set.0).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_characters_are_compared() {
        let set = |ranges: &[(u32, u32)]| Chars::new(ranges.to_vec());
        let sets = [
            set(&[]),
            set(&[(1, 1)]),
            set(&[(1, 3), (7, 9)]),
            set(&[(4, 6)]),
            set(&[(0, 0), (5, 7), (20, 30)]),
            set(&[(10, 19)]),
        ];
        for one in &sets {
            for other in &sets {
                let both = one.0.iter().any(|a| other.0.iter().any(|b| a.0 <= b.1 && b.0 <= a.1));
                assert_eq!(one.meets(other), both, "{one} {other}");
                let all = [one.clone(), other.clone()];
                let union: Chars = all.iter().cloned().collect();
                assert_eq!(Chars::apart(&all), (!both).then_some(union), "{one} {other}");
            }
        }
    }
}
