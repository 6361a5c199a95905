//! What people see. Names, tokens and texts come from files and models, and may hold control
//! sequences, which a terminal would obey: it gets them as text. What goes anywhere else is data and
//! stays as it is.

use std::fmt::Display;
use std::io::{self, IsTerminal, StderrLock, StdoutLock, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

/// Standard output or standard error, safe to look at. A character must not be cut between calls.
pub struct Shown<W> {
    out: W,
    escapes: bool,
    /// Whether it has begun a line and not ended it.
    in_line: Option<&'static AtomicBool>,
}

/// Whether standard output is in a line.
static IN_LINE: AtomicBool = AtomicBool::new(false);

/// Standard output, for results.
pub fn stdout() -> Shown<StdoutLock<'static>> {
    let out = io::stdout().lock();
    Shown { escapes: out.is_terminal(), out, in_line: Some(&IN_LINE) }
}

fn stderr() -> Shown<StderrLock<'static>> {
    let out = io::stderr().lock();
    Shown { escapes: out.is_terminal(), out, in_line: None }
}

/// Tells the user on standard error, in a line of its own also where an answer is under way in the
/// same place. Where nobody can be told, nobody is.
pub fn tell(message: impl Display) {
    let mut err = stderr();
    let end = if IN_LINE.load(Ordering::Relaxed) && is_one_place() { "\n" } else { "" };
    if !end.is_empty() {
        IN_LINE.store(false, Ordering::Relaxed);
    }
    let _ = err.write_all(format!("{end}{message}\n").as_bytes());
}

/// Tells the user of a failure that ends nothing.
pub fn tell_failure(outcome: Result<(), impl Display>) {
    if let Err(error) = outcome {
        tell(format_args!("note: {error}"));
    }
}

/// Whether standard output and standard error go to the same terminal, pipe or file.
fn is_one_place() -> bool {
    let place = |found: rustix::fs::Stat| (found.st_dev, found.st_ino);
    let [out, err] = [rustix::stdio::stdout(), rustix::stdio::stderr()]
        .map(|to| rustix::fs::fstat(to).map(place));
    matches!((out, err), (Ok(out), Ok(err)) if out == err)
}

impl<W: Write> Shown<W> {
    /// Whether a terminal shows it.
    pub fn is_terminal(&self) -> bool {
        self.escapes
    }

    /// Writes a control sequence of the program's own.
    pub fn style(&mut self, sequence: &str) -> io::Result<()> {
        self.out.write_all(sequence.as_bytes())
    }
}

impl<W: Write> Write for Shown<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.escapes {
            self.out.write_all(escape(&String::from_utf8_lossy(bytes)).as_bytes())?;
        } else {
            self.out.write_all(bytes)?;
        }
        if let (Some(in_line), Some(last)) = (self.in_line, bytes.last()) {
            in_line.store(*last != b'\n', Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Whether a character does something to a terminal or to those who read on it, rather than being read:
/// control characters of C0 and C1 (ECMA-48), those that turn the direction of the text after them
/// (UAX #9), so that it reads as something else, and Unicode's own ends of lines and paragraphs.
pub fn is_control(char: char) -> bool {
    let turns = matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    char.is_control() || turns || matches!(char, '\u{2028}' | '\u{2029}')
}

/// Control characters as text; line ends and tabs stay.
fn escape(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if is_control(char) && char != '\n' && char != '\t' {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
    }
    shown
}

/// How the terminal was when the program started.
static BEFORE: OnceLock<Termios> = OnceLock::new();

/// Remembers how the terminal is.
pub fn remember() {
    if let Ok(modes) = tcgetattr(io::stdin()) {
        let _ = BEFORE.set(modes);
    }
}

/// Makes the terminal as it was, whoever was editing a line on it.
pub fn restore() {
    let stdin = io::stdin();
    let (Some(before), Ok(now)) = (BEFORE.get(), tcgetattr(&stdin)) else { return };
    // A process in the background would be stopped for it.
    let is_ours = tcgetpgrp(&stdin).is_ok_and(|group| group == rustix::process::getpgrp());
    let canonical = |modes: &Termios| modes.local_modes.contains(LocalModes::ICANON);
    if is_ours && canonical(before) && !canonical(&now) {
        // The end of bracketed paste, which an editor of lines asks for.
        let _ = rustix::io::write(rustix::stdio::stdout(), b"\x1b[?2004l\r\n");
        let _ = tcsetattr(&stdin, OptionalActions::Now, before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_controls_as_text_and_anything_else_gets_data() {
        let text = "a\x1b[2J\r\n\tb\x07\x7f\u{9b}31m é🦊\u{0}\u{202e}\u{2066}\u{2028}\u{200f}";
        let show = |escapes| {
            let mut shown = Shown { out: Vec::new(), escapes, in_line: None };
            shown.write_all(text.as_bytes()).unwrap();
            String::from_utf8(shown.out).unwrap()
        };
        assert_eq!(
            show(true),
            "a\\u{1b}[2J\\r\n\tb\\u{7}\\u{7f}\\u{9b}31m é🦊\\u{0}\\u{202e}\\u{2066}\\u{2028}\u{200f}"
        );
        assert_eq!(show(false), text);
    }

    #[test]
    fn it_is_known_whether_a_line_is_under_way() {
        static LINE: AtomicBool = AtomicBool::new(false);
        let mut shown = Shown { out: Vec::new(), escapes: true, in_line: Some(&LINE) };
        for (text, in_line) in [("a", true), ("", true), ("b\n", false), ("\nc", true)] {
            shown.write_all(text.as_bytes()).unwrap();
            assert_eq!(LINE.load(Ordering::Relaxed), in_line, "{text:?}");
        }
    }
}
