//! One check: a command, what it needs, and what of its output tells why it failed.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write, stdout};
use std::mem::take;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use xtask::need::Need;

/// A check that prints nothing for so long hangs, and is ended: those after it are worth more.
const HANGS: Duration = Duration::from_secs(30 * 60);

/// How many lines of a check that failed are told again after all checks.
const MOST_TOLD: usize = 12;

/// One check: a command and what it needs.
pub struct Check {
    pub name: String,
    pub needs: Vec<Need>,
    /// What only a network has: without it the check is left out, and said to be, also with --all.
    pub network: Option<Need>,
    /// Whether it runs beside those that follow: it takes one core. What it builds where others build
    /// waits for them.
    pub beside: bool,
    pub command: Command,
    hangs: Duration,
}

/// Why a check failed: in a few words, and the lines of its output that tell of it.
pub struct Failure {
    pub why: String,
    pub lines: Vec<String>,
}

impl Check {
    pub fn cargo(name: impl Into<String>, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO"));
        command.args(args);
        Self::new(name, command)
    }

    pub fn new(name: impl Into<String>, command: Command) -> Self {
        let name = name.into();
        Self { name, needs: Vec::new(), network: None, beside: false, command, hangs: HANGS }
    }

    /// A task of this program.
    pub fn xtask(name: impl Into<String>, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(args);
        Ok(Self::new(name, command))
    }

    pub fn needing(mut self, needs: &[Need]) -> Self {
        self.needs.extend_from_slice(needs);
        self
    }

    pub fn fetching(mut self, what: Need) -> Self {
        self.network = Some(what);
        self
    }

    pub fn beside(mut self) -> Self {
        self.beside = true;
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs it to its end; `shown` gets each line that it prints, as it comes.
    pub fn run(self, shown: impl FnMut(&str) + Send + 'static) -> Result<(), Failure> {
        let cannot =
            |error: io::Error| Failure { why: format!("cannot start: {error}"), lines: Vec::new() };
        let (reader, writer) = io::pipe().map_err(cannot)?;
        let mut command = self.command;
        command.stdout(writer.try_clone().map_err(cannot)?).stderr(writer);
        let mut child = command.spawn().map_err(cannot)?;
        // With it this end of the pipe goes: the reader ends when the check does.
        drop(command);
        let telling = Arc::default();
        let came = Arc::new(Mutex::new(Instant::now()));
        let output = Watched { output: reader, came: Arc::clone(&came) };
        let ended = read(output, shown, Arc::clone(&telling));
        let mut why = None;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(cannot)? {
                break status;
            }
            let silent = came.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
            if silent > self.hangs && why.is_none() {
                why = Some(format!("printed nothing for {} s and was ended", self.hangs.as_secs()));
                child.kill().map_err(cannot)?;
            }
            thread::sleep(Duration::from_millis(20));
        };
        // What the check left running may hold the pipe open; all of the check's own lines are there.
        let _ = ended.recv_timeout(Duration::from_secs(3));
        if status.success() {
            return Ok(());
        }
        let lines = telling.lock().unwrap_or_else(PoisonError::into_inner).lines();
        Err(Failure { why: why.unwrap_or_else(|| status.to_string()), lines })
    }
}

/// Shows a line of a check.
pub fn show(line: &str) {
    // A terminal that went away stops no check.
    _ = writeln!(stdout(), "{line}");
}

/// Reads lines on a thread of its own; what is returned hears when there are no more.
fn read(
    output: impl Read + Send + 'static,
    mut shown: impl FnMut(&str) + Send + 'static,
    telling: Arc<Mutex<Telling>>,
) -> Receiver<()> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line);
            shown(text.trim_end());
            telling.lock().unwrap_or_else(PoisonError::into_inner).hear(text.trim_end());
            line.clear();
        }
        _ = sender.send(());
    });
    receiver
}

/// Output of which it is known when the last of it came: also what ends no line yet tells of life.
struct Watched {
    output: PipeReader,
    came: Arc<Mutex<Instant>>,
}

impl Read for Watched {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.output.read(bytes);
        *self.came.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        read
    }
}

/// The lines that tell of a failure: tests that failed, panics with what they said, errors of
/// compilers and tasks; where there are none, the last ones.
#[derive(Default)]
struct Telling {
    told: Vec<String>,
    last: VecDeque<String>,
    /// How many lines more belong to one that was told.
    more: usize,
}

impl Telling {
    fn hear(&mut self, line: &str) {
        let panic = line.contains("panicked at");
        // Python names what was raised and then says why: `ValueError: why`.
        let raised = line.split_once(':').is_some_and(|(kind, _)| kind.ends_with("Error"));
        let begins = panic
            || raised
            || line.starts_with("error")
            || line.starts_with("ERROR")
            || line.ends_with("FAILED")
            || line.starts_with("FAIL");
        if begins || self.more > 0 {
            if self.told.len() < MOST_TOLD {
                self.told.push(line.to_owned());
            }
            self.more = if panic { 2 } else { self.more.saturating_sub(1) };
        }
        self.last.push_back(line.to_owned());
        if self.last.len() > MOST_TOLD / 2 {
            self.last.pop_front();
        }
    }

    /// Takes them out.
    fn lines(&mut self) -> Vec<String> {
        if self.told.is_empty() { take(&mut self.last).into() } else { take(&mut self.told) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Result<(), Failure> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Check::new("a check", command).run(|_| ())
    }

    #[test]
    fn a_check_that_failed_tells_its_tests_and_panics_again() {
        assert!(sh("echo error: not one, it passed").is_ok());
        let failure = sh("echo test a ... ok; echo test b ... FAILED; echo between; \
            echo \"thread 'b' panicked at b.rs:1:\" >&2; echo why; echo where; echo after; exit 3");
        let failure = failure.expect_err("it exits with 3");
        assert_eq!(failure.why, "exit status: 3");
        let told = ["test b ... FAILED", "thread 'b' panicked at b.rs:1:", "why", "where"];
        assert_eq!(failure.lines, told);
    }

    #[test]
    fn a_check_without_such_lines_tells_its_last_ones() {
        let failure = sh("seq 100; exit 1").expect_err("it exits with 1");
        assert_eq!(failure.lines, ["95", "96", "97", "98", "99", "100"]);
        let lost = Check::new("lost", Command::new("/nowhere/program")).run(|_| ());
        assert!(lost.is_err_and(|failure| failure.why.starts_with("cannot start")));
    }

    #[test]
    fn a_check_that_hangs_is_ended() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo the last; exec sleep 100"]);
        let mut check = Check::new("a check", command);
        // Long enough for a shell to begin beside others.
        check.hangs = Duration::from_secs(6);
        let failure = check.run(|_| ()).expect_err("it is ended");
        assert_eq!(failure.why, "printed nothing for 6 s and was ended");
        assert_eq!(failure.lines, ["the last"]);
    }

    #[test]
    fn what_a_check_leaves_running_does_not_hold_it_up() {
        assert!(sh("sleep 100 & exit 0").is_ok());
        let failure = sh("echo between; echo ValueError: why; sleep 100 & exit 1");
        assert_eq!(failure.expect_err("it exits with 1").lines, ["ValueError: why"]);
    }
}
