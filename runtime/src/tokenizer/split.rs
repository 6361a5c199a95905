//! Cutting text into the pieces that are merged by themselves.
//!
//! The pattern is Llama 3's, which LFM2 uses:
//!
//! ```text
//! (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}
//! | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//! ```
//!
//! with the semantics of Oniguruma, the reference's engine: the first alternative that matches
//! wins and every quantifier is greedy but gives back. As every character starts a match, pieces
//! follow each other without gaps, and each needs to look only ahead. Models whose pattern is
//! another spelling of OpenAI's cl100k differ from it in what [`Variant`] tells.

use super::classes::{Class, class};

/// The pattern, as checkpoints spell it.
pub const PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// In what a model's pattern differs from [`PATTERN`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Variant {
    /// `\p{N}+` in place of `\p{N}{1,3}`: numbers stay whole.
    pub whole_numbers: bool,
    /// `\s++$` before `\s*[\r\n]+`: white space at the end of the text stays whole.
    pub whole_end: bool,
}

/// Bytes of the piece at the start of `text`; 0 only when there is no text.
pub fn piece_len(text: impl Iterator<Item = char> + Clone, variant: Variant) -> usize {
    let mut rest = text.clone();
    let Some(first) = rest.next() else { return 0 };
    if first == '\''
        && let Some(len) = contraction_len(rest.clone())
    {
        return 1 + len;
    }
    let next = rest.clone().next();
    let next_class = next.map(class);
    match class(first) {
        Class::Letter => first.len_utf8() + bytes_while(rest, is(Class::Letter)),
        Class::Number => {
            let more = if variant.whole_numbers { usize::MAX } else { 2 };
            first.len_utf8() + bytes_while(rest.take(more), is(Class::Number))
        }
        _ if !is_newline(first) && next_class == Some(Class::Letter) => {
            first.len_utf8() + bytes_while(rest, is(Class::Letter))
        }
        Class::Other => symbols_len(text),
        Class::Space if first == ' ' && next_class == Some(Class::Other) => 1 + symbols_len(rest),
        Class::Space => spaces_len(text, variant.whole_end),
    }
}

/// Bytes of what follows the apostrophe in `'s|'t|'re|'ve|'m|'ll|'d`, in any case.
fn contraction_len(mut rest: impl Iterator<Item = char>) -> Option<usize> {
    let first = rest.next()?;
    match fold(first) {
        's' | 't' | 'm' | 'd' => Some(first.len_utf8()),
        letter @ ('r' | 'v' | 'l') => {
            let last = if letter == 'l' { 'l' } else { 'e' };
            (fold(rest.next()?) == last).then_some(2)
        }
        _ => None,
    }
}

/// Folds the case of what can occur in a contraction. U+017F, the long s, is the only character
/// outside ASCII whose case folds to one of its letters.
fn fold(char: char) -> char {
    if char == '\u{17f}' { 's' } else { char.to_ascii_lowercase() }
}

/// `[^\s\p{L}\p{N}]+[\r\n]*`
fn symbols_len(text: impl Iterator<Item = char> + Clone) -> usize {
    let symbols = bytes_while(text.clone(), is(Class::Other));
    let newlines = text.skip_while(|&char| class(char) == Class::Other);
    symbols + bytes_while(newlines, is_newline)
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+`: up to the last line end of the white space; without one, all of it
/// when the text ends there, else all but the last character, which may join the next piece. With
/// `\s++$` before these, all of it when the text ends there.
fn spaces_len(text: impl Iterator<Item = char>, whole_end: bool) -> usize {
    let [mut len, mut before_last, mut after_newline] = [0; 3];
    let mut at_end = true;
    for char in text {
        if class(char) != Class::Space {
            at_end = false;
            break;
        }
        before_last = len;
        len += char.len_utf8();
        if is_newline(char) {
            after_newline = len;
        }
    }
    match (after_newline, before_last) {
        _ if at_end && whole_end => len,
        (1.., _) => after_newline,
        (0, 1..) if !at_end => before_last,
        _ => len,
    }
}

fn bytes_while(text: impl Iterator<Item = char>, test: impl Fn(char) -> bool) -> usize {
    text.take_while(|&char| test(char)).map(char::len_utf8).sum()
}

fn is(wanted: Class) -> impl Fn(char) -> bool {
    move |char| class(char) == wanted
}

fn is_newline(char: char) -> bool {
    matches!(char, '\r' | '\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn pieces(mut text: &str, variant: Variant) -> Vec<&str> {
        let mut pieces = Vec::new();
        while !text.is_empty() {
            let (piece, rest) = text.split_at(piece_len(text.chars(), variant));
            pieces.push(piece);
            text = rest;
        }
        pieces
    }

    #[test]
    fn cuts_where_the_pattern_does() {
        let cases: [(&str, &[&str]); 12] = [
            ("Hello, world", &["Hello", ",", " world"]),
            ("I'll we'RE 'stop", &["I", "'ll", " we", "'RE", " '", "stop"]),
            ("it'\u{17f}x", &["it", "'\u{17f}", "x"]),
            ("12345", &["123", "45"]),
            (" 7", &[" ", "7"]),
            ("a  b", &["a", " ", " b"]),
            ("a   ", &["a", "   "]),
            ("a \n\n b", &["a", " \n\n", " b"]),
            ("a\t\tb", &["a", "\t", "\tb"]),
            (" !?\n\nx", &[" !?\n\n", "x"]),
            ("\u{a0}é", &["\u{a0}é"]),
            ("\u{a0}!", &["\u{a0}", "!"]),
        ];
        for (text, expected) in cases {
            assert_eq!(pieces(text, Variant::default()), expected, "{text:?}");
        }
    }

    #[test]
    fn variants_keep_whole_what_they_say() {
        let text = "12345 \n 6!\n \n\t";
        let cases: [(bool, bool, &[&str]); 3] = [
            (false, false, &["123", "45", " \n", " ", "6", "!\n", " \n", "\t"]),
            (true, false, &["12345", " \n", " ", "6", "!\n", " \n", "\t"]),
            (false, true, &["123", "45", " \n", " ", "6", "!\n", " \n\t"]),
        ];
        for (whole_numbers, whole_end, expected) in cases {
            assert_eq!(pieces(text, Variant { whole_numbers, whole_end }), expected);
        }
    }
}
