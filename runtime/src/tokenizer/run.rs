use core::str::Chars;

/// A stretch of the concatenation of several strings: lets a text be tokenised without joining
/// its parts. Always starts and ends between characters.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    current: &'a str,
    later: &'a [&'a str],
    len: usize,
}

impl<'a> Run<'a> {
    /// All of `parts`.
    pub fn new(parts: &'a [&'a str]) -> Self {
        Self { current: "", later: parts, len: parts.iter().map(|part| part.len()).sum() }
    }

    /// Bytes.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether nothing is left.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The first `at` bytes and the rest. `at` lies between characters, at most at the end.
    pub fn split_at(self, at: usize) -> (Self, Self) {
        let mut rest = Self { len: self.len - at, ..self };
        let mut skip = at;
        while skip > rest.current.len() {
            let Some((next, later)) = rest.later.split_first() else { break };
            skip -= rest.current.len();
            (rest.current, rest.later) = (next, later);
        }
        rest.current = &rest.current[skip..];
        (Self { len: at, ..self }, rest)
    }

    /// The characters.
    pub fn chars(self) -> impl Iterator<Item = char> + Clone + 'a {
        RunChars { chars: self.current.chars(), later: self.later, left: self.len }
    }

    /// The bytes.
    pub fn bytes(self) -> impl Iterator<Item = u8> + Clone + 'a {
        let later = self.later.iter().flat_map(|part| part.bytes());
        self.current.bytes().chain(later).take(self.len)
    }
}

#[derive(Clone)]
struct RunChars<'a> {
    chars: Chars<'a>,
    later: &'a [&'a str],
    left: usize,
}

impl Iterator for RunChars<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        if self.left == 0 {
            return None;
        }
        loop {
            if let Some(char) = self.chars.next() {
                self.left = self.left.saturating_sub(char.len_utf8());
                return Some(char);
            }
            let (next, later) = self.later.split_first()?;
            (self.chars, self.later) = (next.chars(), later);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::String;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn a_run_is_the_joined_text(parts in proptest::collection::vec("\\PC{0,3}", 0..6), cut in any::<prop::sample::Index>()) {
            let joined = parts.concat();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let places: Vec<usize> =
                (0..=joined.len()).filter(|&at| joined.is_char_boundary(at)).collect();
            let at = places[cut.index(places.len())];
            let (head, tail) = Run::new(&parts).split_at(at);
            for (run, text) in [(Run::new(&parts), &joined[..]), (head, &joined[..at]), (tail, &joined[at..])] {
                prop_assert_eq!(run.len(), text.len());
                prop_assert_eq!(run.chars().collect::<String>(), text);
                prop_assert_eq!(run.bytes().collect::<Vec<_>>(), text.as_bytes());
            }
        }
    }
}
