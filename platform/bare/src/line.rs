//! Editing a line on a serial terminal: erase a character, a word or all of it, and Enter.

use heapless::Vec;

/// Longest line, in bytes.
pub const LINE_BYTES: usize = 2 << 10;

/// What a byte from the terminal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Nothing that anybody has to act on.
    Edited,
    /// The line is complete.
    Enter,
    /// Ctrl-C.
    Interrupt,
}

/// A line as it is typed.
#[derive(Debug, Default)]
pub struct Line {
    bytes: Vec<u8, LINE_BYTES>,
    escape: Escape,
    /// The last byte was a carriage return: a line feed after it means nothing.
    after_return: bool,
}

/// Where in an escape sequence (of an arrow key, for example) the input stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Escape {
    #[default]
    None,
    /// After ESC.
    Begun,
    /// After ESC [ or ESC O: up to a letter or `~`.
    Sequence,
}

const BELL: &[u8] = b"\x07";
const ERASE: &[u8] = b"\x08 \x08";

impl Line {
    /// An empty line.
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), escape: Escape::None, after_return: false }
    }

    /// The text; `None` when it is not UTF-8.
    pub fn text(&self) -> Option<&str> {
        core::str::from_utf8(&self.bytes).ok()
    }

    /// Empties the line.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Takes a byte; `echo` shows the terminal what became of it.
    pub fn feed(&mut self, byte: u8, mut echo: impl FnMut(&[u8])) -> Key {
        let after_return = core::mem::replace(&mut self.after_return, byte == b'\r');
        match (self.escape, byte) {
            (Escape::Begun, b'[' | b'O') => {
                self.escape = Escape::Sequence;
                return Key::Edited;
            }
            (Escape::Begun, _) => self.escape = Escape::None,
            (Escape::Sequence, 0x40..=0x7e) => {
                self.escape = Escape::None;
                return Key::Edited;
            }
            (Escape::Sequence, 0x20..=0x3f) => return Key::Edited,
            (Escape::Sequence, _) => self.escape = Escape::None,
            (Escape::None, _) => {}
        }
        match byte {
            b'\n' if after_return => {}
            b'\r' | b'\n' => {
                echo(b"\r\n");
                return Key::Enter;
            }
            // Ctrl-C
            0x03 => return Key::Interrupt,
            // Backspace and Delete
            0x08 | 0x7f => {
                self.erase(&mut echo);
            }
            // Ctrl-U
            0x15 => while self.erase(&mut echo) {},
            // Ctrl-W
            0x17 => {
                while self.bytes.last() == Some(&b' ') && self.erase(&mut echo) {}
                while self.bytes.last().is_some_and(|&byte| byte != b' ') && self.erase(&mut echo) {
                }
            }
            0x1b => self.escape = Escape::Begun,
            b'\t' => self.append(b' ', &mut echo),
            0x20..=0x7e | 0x80.. => self.append(byte, &mut echo),
            _ => {}
        }
        Key::Edited
    }

    fn append(&mut self, byte: u8, echo: &mut impl FnMut(&[u8])) {
        echo(if self.bytes.push(byte).is_ok() { core::slice::from_ref(&byte) } else { BELL });
    }

    /// Erases the last character; `false` when there is none.
    fn erase(&mut self, echo: &mut impl FnMut(&[u8])) -> bool {
        while let Some(byte) = self.bytes.pop() {
            // The bytes of a character after its first are 10xxxxxx.
            if byte & 0xc0 != 0x80 {
                echo(ERASE);
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::string::String;

    use super::*;

    /// The lines that these bytes make.
    fn lines(input: &[u8]) -> std::vec::Vec<String> {
        let mut line = Line::new();
        let mut lines = std::vec![];
        for &byte in input {
            if line.feed(byte, |_| {}) == Key::Enter {
                lines.push(line.text().unwrap_or("not UTF-8").into());
                line.clear();
            }
        }
        lines
    }

    #[test]
    fn enter_is_a_return_a_line_feed_or_both() {
        assert_eq!(lines(b"a\rb\nc\r\n\r\n"), ["a", "b", "c", ""]);
    }

    #[test]
    fn characters_words_and_lines_are_erased() {
        assert_eq!(lines("abc\x7f\x7fx\r".as_bytes()), ["ax"]);
        assert_eq!(lines("né\x08\x08y\r".as_bytes()), ["y"]);
        assert_eq!(lines(b"one two  \x17three\r"), ["one three"]);
        assert_eq!(lines(b"wrong\x15right\x08\r"), ["righ"]);
        assert_eq!(lines(b"\x7f\x17\x15ok\r"), ["ok"]);
    }

    #[test]
    fn keys_that_mean_nothing_here_leave_no_trace() {
        assert_eq!(lines(b"a\x1b[Ab\x1b[1;5Cc\x1bOPd\x00e\r"), ["abcde"]);
        assert_eq!(lines(b"a\tb\r"), ["a b"]);
    }

    #[test]
    fn a_full_line_rings_the_bell() {
        let mut line = Line::new();
        (0..LINE_BYTES).for_each(|_| {
            line.feed(b'x', |shown| assert_eq!(shown, b"x"));
        });
        line.feed(b'y', |shown| assert_eq!(shown, BELL));
        assert_eq!(line.text().unwrap().len(), LINE_BYTES);
    }

    #[test]
    fn what_is_not_utf8_is_said_to_be() {
        assert_eq!(lines(b"\xff\r"), ["not UTF-8"]);
        assert_eq!(Line::new().feed(3, |_| {}), Key::Interrupt);
    }
}
