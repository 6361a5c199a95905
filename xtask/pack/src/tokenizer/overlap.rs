//! Whether occurrences of two kinds of texts can share a byte.
//!
//! An automaton of all prefixes of one kind (Aho and Corasick, 1975,
//! <https://doi.org/10.1145/360825.360855>) runs over the texts of the other: the time grows with
//! the number of bytes.

use std::collections::{HashMap, VecDeque};

/// Most different prefixes of one kind.
pub const PREFIXES_MOST: usize = 1 << 20;

/// There are more than [`PREFIXES_MOST`] prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

/// A text of `a` and one of `b` that can overlap, if there are some. No text is empty.
pub fn find<'t>(a: &[&'t str], b: &[&'t str]) -> Result<Option<(&'t str, &'t str)>, TooMany> {
    if a.is_empty() || b.is_empty() {
        return Ok(None);
    }
    if let Some(found) = Prefixes::new(b)?.find_in(a) {
        return Ok(Some(found));
    }
    Ok(Prefixes::new(a)?.find_in(b).map(|(b, a)| (a, b)))
}

/// The prefixes of some texts; the first is the empty one.
struct Prefixes<'s, 't> {
    texts: &'s [&'t str],
    longer: HashMap<(u32, u8), u32>,
    prefixes: Vec<Prefix>,
}

#[derive(Debug, Clone, Copy)]
struct Prefix {
    /// A text that begins with it.
    of: usize,
    /// Whether it is a whole text, or ends with one.
    ends: bool,
    /// The longest other one that it ends with.
    suffix: u32,
}

impl<'s, 't> Prefixes<'s, 't> {
    fn new(texts: &'s [&'t str]) -> Result<Self, TooMany> {
        let mut all = Self {
            texts,
            longer: HashMap::new(),
            prefixes: vec![Prefix { of: 0, ends: false, suffix: 0 }],
        };
        for (of, text) in texts.iter().enumerate() {
            let mut at = 0;
            for byte in text.bytes() {
                let next = all.prefixes.len() as u32;
                at = *all.longer.entry((at, byte)).or_insert(next);
                if at == next {
                    if all.prefixes.len() == PREFIXES_MOST {
                        return Err(TooMany);
                    }
                    all.prefixes.push(Prefix { of, ends: false, suffix: 0 });
                }
            }
            all.prefixes[at as usize] = Prefix { of, ends: true, suffix: 0 };
        }
        all.link();
        Ok(all)
    }

    /// Finds the suffixes, the shortest prefixes first.
    fn link(&mut self) {
        let mut longer: Vec<Vec<(u8, u32)>> = vec![vec![]; self.prefixes.len()];
        for (&(at, byte), &next) in &self.longer {
            longer[at as usize].push((byte, next));
        }
        let mut waiting = VecDeque::from([0]);
        while let Some(at) = waiting.pop_front() {
            for &(byte, next) in &longer[at as usize] {
                let suffix =
                    if at == 0 { 0 } else { self.step(self.prefixes[at as usize].suffix, byte) };
                let ends = self.prefixes[suffix as usize];
                let prefix = &mut self.prefixes[next as usize];
                prefix.suffix = suffix;
                if ends.ends && !prefix.ends {
                    // The text that is inside, for the message.
                    (prefix.ends, prefix.of) = (true, ends.of);
                }
                waiting.push_back(next);
            }
        }
    }

    /// The longest prefix that what was read and one more byte end with.
    fn step(&self, mut at: u32, byte: u8) -> u32 {
        loop {
            match self.longer.get(&(at, byte)) {
                Some(&next) => return next,
                None if at == 0 => return 0,
                None => at = self.prefixes[at as usize].suffix,
            }
        }
    }

    /// One of `others` that contains a text, or ends with a prefix of one; and the text.
    fn find_in<'o>(&self, others: &[&'o str]) -> Option<(&'o str, &'t str)> {
        others.iter().find_map(|other| {
            let mut at = 0;
            for byte in other.bytes() {
                at = self.step(at, byte);
                let prefix = self.prefixes[at as usize];
                if prefix.ends {
                    return Some((*other, self.texts[prefix.of]));
                }
            }
            (at != 0).then(|| (*other, self.texts[self.prefixes[at as usize].of]))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As defined.
    fn overlap(a: &str, b: &str) -> bool {
        let ends_into = |a: &str, b: &str| {
            (1..=a.len()).any(|n| b.as_bytes().starts_with(&a.as_bytes()[a.len() - n..]))
        };
        a.contains(b) || b.contains(a) || ends_into(a, b) || ends_into(b, a)
    }

    proptest! {
        #[test]
        fn what_is_found_overlaps_and_nothing_is_missed(
            a in prop::collection::vec("[abc]{1,5}|[de]{1,3}", 0..5),
            b in prop::collection::vec("[abd]{1,4}|[fg]{1,3}", 0..5),
        ) {
            let a: Vec<&str> = a.iter().map(String::as_str).collect();
            let b: Vec<&str> = b.iter().map(String::as_str).collect();
            let some = a.iter().any(|a| b.iter().any(|b| overlap(a, b)));
            match find(&a, &b).unwrap() {
                Some((x, y)) => prop_assert!(a.contains(&x) && b.contains(&y) && overlap(x, y)),
                None => prop_assert!(!some),
            }
        }
    }

    #[test]
    fn there_is_a_limit() {
        let long = "x".repeat(PREFIXES_MOST + 1);
        assert_eq!(find(&["y"], &[&long]), Err(TooMany));
        let nested: Vec<&str> = (1..3000).map(|len| &long[..len]).collect();
        assert_eq!(find(&["y"], &nested), Ok(None));
    }
}
