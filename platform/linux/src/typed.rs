//! What the user types in a conversation, read by a thread of its own: meanwhile experts are read
//! ahead of the question.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, channel, sync_channel,
};
use std::thread::Builder;
use std::time::Duration;

use rill::size::Size;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::failure::Failure;
use crate::idle::{Chores, Lines, next_line};
use crate::interrupt::{self, Doing, is_hangup};

/// What came.
#[derive(Debug)]
pub enum Typed {
    /// A line, and what the user should know of it.
    Line(String, Option<String>),
    /// No line, but there may be more.
    Nothing,
    /// The end of all lines.
    End,
    /// The program is asked to end.
    Leave,
    /// Lines cannot be read.
    Failed(io::Error),
}

/// Longest line, in bytes: RAM is planned without it.
const LONGEST: u64 = 1 << 20;
const PROMPT: &str = "> ";

/// Where lines come from.
pub struct Keyboard {
    ask: SyncSender<()>,
    typed: Receiver<Typed>,
}

impl Keyboard {
    /// Starts to read lines, with an editor where there is a terminal that has one.
    pub fn start() -> Result<Self, Failure> {
        let mut read = reader()?;
        let (ask, asked) = sync_channel(1);
        let (tell, typed): (Sender<Typed>, _) = channel();
        let woken = tell.clone();
        interrupt::wake(move || {
            // Nobody waits any more.
            let _ = woken.send(Typed::Leave);
        });
        let serve = move || {
            while asked.recv().is_ok() {
                if tell.send(read()).is_err() {
                    break;
                }
            }
        };
        let failed = |error| Failure::System { what: "cannot start threads", error };
        Builder::new().name("rill-lines".into()).spawn(serve).map_err(failed)?;
        Ok(Self { ask, typed })
    }

    /// Asks for a line and waits for it, with `chores` to do meanwhile.
    pub fn next(&mut self, chores: &mut impl Chores) -> Result<Typed, Failure> {
        interrupt::now(Doing::Prompt);
        // A signal that came before this woke nobody.
        if interrupt::leaving() {
            return Ok(Typed::Leave);
        }
        self.ask.send(()).map_err(|_| gone())?;
        let typed = next_line(self, chores);
        interrupt::now(Doing::Answer);
        typed
    }
}

impl Lines for Keyboard {
    type Line = Typed;
    type Error = Failure;

    fn poll(&mut self) -> Result<Option<Typed>, Failure> {
        match self.typed.try_recv() {
            Ok(typed) => Ok(Some(typed)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(gone()),
        }
    }

    fn wait(&mut self, time: Option<Duration>) -> Result<Option<Typed>, Failure> {
        let Some(time) = time else { return self.typed.recv().map(Some).map_err(|_| gone()) };
        match self.typed.recv_timeout(time) {
            Ok(typed) => Ok(Some(typed)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }
}

fn gone() -> Failure {
    failed(io::ErrorKind::BrokenPipe.into())
}

/// For what cannot be read from the user.
pub fn failed(error: io::Error) -> Failure {
    Failure::System { what: "cannot read from the terminal", error }
}

/// What reads a line at each call.
fn reader() -> Result<Box<dyn FnMut() -> Typed + Send>, Failure> {
    let stdin = io::stdin();
    let is_terminal = stdin.is_terminal();
    // Terminals that no line can be edited on.
    let plain =
        std::env::var("TERM").is_ok_and(|term| ["dumb", "cons25", "emacs"].contains(&&*term));
    if !is_terminal || plain {
        return Ok(Box::new(move || {
            if is_terminal {
                let mut out = io::stdout().lock();
                let _ = write!(out, "{PROMPT}").and_then(|()| out.flush());
            }
            read_line(&mut io::stdin().lock())
        }));
    }
    let mut editor = DefaultEditor::new().map_err(|error| failed(io::Error::other(error)))?;
    Ok(Box::new(move || match editor.readline(PROMPT) {
        Ok(line) => {
            if !line.trim().is_empty() {
                // A history that is full forgets its oldest line.
                let _ = editor.add_history_entry(line.as_str());
            }
            Typed::Line(line, None)
        }
        Err(ReadlineError::Eof) => Typed::End,
        Err(ReadlineError::Io(error)) => broken(error),
        // Ctrl-C, or a signal that was for others.
        Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => Typed::Nothing,
        Err(ReadlineError::Errno(error)) => broken(error.into()),
        Err(error) => Typed::Failed(io::Error::other(error)),
    }))
}

/// Reads a line that nobody edits.
fn read_line(from: &mut impl BufRead) -> Typed {
    let mut bytes = Vec::new();
    if let Err(error) = from.by_ref().take(LONGEST).read_until(b'\n', &mut bytes) {
        return broken(error);
    }
    if bytes.is_empty() {
        return Typed::End;
    }
    if bytes.len() as u64 == LONGEST && bytes.last() != Some(&b'\n') {
        if let Err(error) = from.skip_until(b'\n') {
            return broken(error);
        }
        let note = format!("a line of more than {} was left out", Size(LONGEST));
        return Typed::Line(String::new(), Some(note));
    }
    match String::from_utf8_lossy(&bytes) {
        std::borrow::Cow::Borrowed(line) => Typed::Line(line.to_owned(), None),
        std::borrow::Cow::Owned(line) => Typed::Line(line, Some(REPLACED.into())),
    }
}

const REPLACED: &str = "bytes that are not UTF-8 were replaced";

/// What an error means for the conversation.
fn broken(error: io::Error) -> Typed {
    match error.kind() {
        // An editor gives the line up.
        io::ErrorKind::InvalidData => {
            let note = "what was typed is not UTF-8 and was left out";
            Typed::Line(String::new(), Some(note.into()))
        }
        io::ErrorKind::Interrupted => Typed::Nothing,
        _ if is_hangup(&error) => Typed::End,
        _ => Typed::Failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All lines with their notes, until something else comes.
    fn lines(mut bytes: &[u8]) -> (Vec<(String, Option<String>)>, Typed) {
        let mut lines = Vec::new();
        loop {
            match read_line(&mut bytes) {
                Typed::Line(line, note) => lines.push((line, note)),
                other => return (lines, other),
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_and_said() {
        let (lines, end) = lines(b"one\ntw\xffo\n\nend");
        assert!(matches!(end, Typed::End));
        let line = |text: &str| (text.to_owned(), None);
        let two = ("tw\u{fffd}o\n".to_owned(), Some(REPLACED.to_owned()));
        assert_eq!(lines, [line("one\n"), two, line("\n"), line("end")]);
    }

    #[test]
    fn a_line_without_end_takes_little_memory() {
        let longest = "x".repeat(LONGEST as usize - 1);
        let (lines, _) = lines(format!("{longest}\n{longest}xyz\nlast\n").as_bytes());
        assert_eq!(lines[0], (format!("{longest}\n"), None));
        assert!(lines[1].0.is_empty() && lines[1].1.as_ref().unwrap().contains("1.0 MiB"));
        assert_eq!(lines[2], ("last\n".to_owned(), None));
        assert_eq!(lines.len(), 3);
    }
}
