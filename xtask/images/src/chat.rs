//! A scripted conversation with a running program, over its pipes or a serial console.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// What is asked, one message a turn.
pub const TURNS: [&str; 2] = ["Hello, my name is Nora.", "Tell me a story about a fox and a kite."];
/// The same in conversations of their own, and a copy of the first that goes on.
pub const TALKS: [&str; 7] =
    [TURNS[0], "/new", TURNS[1], "/switch 3", "/switch 1", "/fork", "What is my name?"];

/// Longest silence: emulated boards are slow, and a hang is to end at some time.
const PATIENCE: Duration = Duration::from_secs(300);
/// Shown when a console waits for a message.
const PROMPT: &str = "> ";

/// A command that runs a board's program, and how to talk with it.
pub struct Machine {
    /// Starts it.
    pub command: Command,
    /// What its standard input and output are.
    pub wire: Wire,
    /// Files that it needs while it runs.
    pub files: Option<tempfile::TempDir>,
}

/// What standard input and output of a machine are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Those of the program: it takes messages a line and writes answers only.
    Program,
    /// A terminal: it prompts, echoes what is typed and ends lines with CR LF.
    Console,
}

/// What a machine said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// Its answers, each ended by a line end.
    pub answers: String,
    /// What it answered to `/stats`.
    pub stats: String,
    /// What it, or its emulator, wrote to standard error.
    pub errors: String,
}

impl Transcript {
    /// The kernel table that the machine used.
    pub fn kernels(&self) -> Option<&str> {
        let after = self.stats.split_once("kernels ")?.1;
        after.split([',', '\n']).next()
    }
}

/// Talks with a machine until the script ends, then leaves it.
pub fn converse(machine: Machine, turns: &[&str]) -> Result<Transcript> {
    let wire = machine.wire;
    script(machine, |talk| match wire {
        Wire::Program => talk.with_program(turns),
        Wire::Console => talk.with_console(turns),
    })
}

/// Does as a script says with a machine; an error quotes what the machine said.
pub fn script<T>(machine: Machine, script: impl FnOnce(&mut Talk) -> Result<T>) -> Result<T> {
    let mut talk = Talk::new(machine)?;
    script(&mut talk).with_context(|| format!("it said:\n{}", talk.everything()))
}

/// A conversation under way. Ends the machine when it goes.
pub struct Talk {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    errors: Option<thread::JoinHandle<String>>,
    heard: Vec<u8>,
    /// Last, so that the machine has ended before they go.
    _files: Option<tempfile::TempDir>,
}

impl Talk {
    fn new(machine: Machine) -> Result<Self> {
        let Machine { mut command, files, .. } = machine;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let input = child.stdin.take();
        let mut stdout = child.stdout.take().context("output is piped")?;
        let mut stderr = child.stderr.take().context("errors are piped")?;
        let (send, output) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = stdout.read(&mut bytes) {
                if send.send(bytes[..len].to_vec()).is_err() {
                    break;
                }
            }
        });
        let errors = thread::spawn(move || {
            let mut text = Vec::new();
            // What could be read is shown with the error that led here.
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Ok(Self { child, input, output, errors: Some(errors), heard: Vec::new(), _files: files })
    }

    fn with_program(&mut self, turns: &[&str]) -> Result<Transcript> {
        let mut input = self.input.take().context("input is piped")?;
        for line in turns.iter().chain(&["/stats", "/quit"]) {
            writeln!(input, "{line}")?;
        }
        drop(input);
        let errors = self.end()?;
        let text = String::from_utf8_lossy(&self.heard);
        let stats = text.find("load  ").context("no answer to /stats")?;
        let (answers, stats) = text.split_at(stats);
        Ok(Transcript { answers: answers.to_owned(), stats: stats.to_owned(), errors })
    }

    fn with_console(&mut self, turns: &[&str]) -> Result<Transcript> {
        self.prompt()?;
        let mut answers = String::new();
        for turn in turns {
            answers += &self.ask(turn)?;
        }
        let stats = self.ask("/stats")?;
        let errors = self.quit()?;
        Ok(Transcript { answers, stats, errors })
    }

    /// Types a line on a console and returns what comes until the next prompt, without the echo.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        let start = self.heard.len();
        self.enter(line)?;
        self.prompt()?;
        let said = String::from_utf8_lossy(&self.heard[start..]).replace('\r', "");
        let (echo, answer) = said.split_once('\n').context("no line end after the message")?;
        ensure!(echo.trim() == line, "the console echoes {echo:?} instead of {line:?}");
        Ok(answer.strip_suffix(PROMPT).unwrap_or(answer).to_owned())
    }

    /// Types a line on a console.
    pub fn enter(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("input is piped")?;
        write!(input, "{line}\r")?;
        Ok(input.flush()?)
    }

    /// Leaves a console's program, which switches its machine off; returns what was written to
    /// standard error.
    pub fn quit(&mut self) -> Result<String> {
        self.enter("/quit")?;
        self.end()
    }

    /// Listens until the machine has ended well; returns what was written to standard error.
    pub fn end(&mut self) -> Result<String> {
        while self.listen()? {}
        self.left()
    }

    /// Ends the machine at once, as a power cut does.
    pub fn cut(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Listens until all of this has been said, and returns everything said so far.
    pub fn hear(&mut self, parts: &[&str]) -> Result<String> {
        loop {
            let said = String::from_utf8_lossy(&self.heard).replace('\r', "");
            let Some(missing) = parts.iter().find(|part| !said.contains(**part)) else {
                return Ok(said);
            };
            ensure!(self.listen()?, "it ended and did not say {missing:?}");
        }
    }

    /// Listens until a line that is a prompt and nothing else.
    pub fn prompt(&mut self) -> Result<()> {
        let from = self.heard.len();
        loop {
            let new = &self.heard[from..];
            if new.ends_with(format!("\n{PROMPT}").as_bytes()) || new == PROMPT.as_bytes() {
                return Ok(());
            }
            ensure!(self.listen()?, "it ended before it asked for a message");
        }
    }

    /// Takes what comes next; false at the end.
    fn listen(&mut self) -> Result<bool> {
        match self.output.recv_timeout(PATIENCE) {
            Ok(bytes) => {
                self.heard.extend(bytes);
                Ok(true)
            }
            Err(RecvTimeoutError::Disconnected) => Ok(false),
            Err(RecvTimeoutError::Timeout) => {
                bail!("it has said nothing for {} seconds", PATIENCE.as_secs())
            }
        }
    }

    /// The machine has ended well; what it wrote to standard error.
    fn left(&mut self) -> Result<String> {
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}");
        Ok(self.errors.take().and_then(|thread| thread.join().ok()).unwrap_or_default())
    }

    /// All that was written, for an error.
    fn everything(&mut self) -> String {
        // It may have ended already.
        let _ = self.child.kill();
        let errors = self.errors.take().and_then(|thread| thread.join().ok());
        String::from_utf8_lossy(&self.heard).into_owned() + &errors.unwrap_or_default()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(script: &str, wire: Wire) -> Machine {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Machine { command, wire, files: None }
    }

    /// As a console: a prompt, an echo, CR LF.
    const CONSOLE: &str = r#"
        printf 'Rill on sh\r\n> '
        while IFS= read -r -d "$(printf '\r')" line 2>/dev/null || exit 9; do
            printf '%s\r\n' "$line"
            case "$line" in
                /quit) exit 0 ;;
                /stats) printf 'load  0 s, kernels neon, 4 threads\r\n> ' ;;
                *) printf 'I heard\r\n%s\r\n> ' "$line" ;;
            esac
        done"#;

    #[test]
    fn programs_and_consoles_give_the_same_transcript() {
        let program = "read a; read b; printf 'I heard\n%s\nI heard\n%s\n' \"$a\" \"$b\"; \
                       echo 'load  0 s, kernels neon, 4 threads'; cat >/dev/null";
        let said = converse(machine(program, Wire::Program), &["one", "two"]).unwrap();
        assert_eq!(said.answers, "I heard\none\nI heard\ntwo\n");
        assert_eq!(said.kernels(), Some("neon"));
        let mut command = Command::new("bash");
        command.args(["-c", CONSOLE]);
        let console = Machine { command, wire: Wire::Console, files: None };
        assert_eq!(converse(console, &["one", "two"]).unwrap(), said);
    }

    #[test]
    fn a_machine_that_fails_is_quoted() {
        for (script, parts) in [
            ("echo some words; echo 'error: no card' >&2; exit 3", &["3", "error: no card"][..]),
            ("printf 'panic\r\n'", &["ended before", "panic"]),
        ] {
            let error = converse(machine(script, Wire::Console), &["one"]).unwrap_err();
            let text = format!("{error:#}");
            assert!(text.contains("error: no card") || text.contains("panic"), "{text}");
            assert!(parts.iter().any(|part| text.contains(part)), "{text}");
        }
    }
}
