//! How a conversation ends: by a signal, with its terminal, or by what comes instead of text. What was
//! learned about the image is kept every time, and the terminal is left as it was.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rill_tests::kiosk;
use rill_tests::program::{path, rill, rill_with_input};
use rill_tests::server::soon;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

const PROMPT: &str = "Tell me a story about a fox and a kite.";
const BUDGET: [&str; 6] = ["--greedy", "--ram", "40MiB", "-c", "512", "-m"];

/// The kiosk image in a folder of its own.
struct Kiosk(tempfile::TempDir);

impl Kiosk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("kiosk.rill"), kiosk::default_image()).unwrap();
        Self(folder)
    }

    fn image(&self) -> PathBuf {
        self.0.path().join("kiosk.rill")
    }

    fn usage(&self) -> PathBuf {
        self.0.path().join("kiosk.rill.usage")
    }
}

/// A conversation on a terminal of its own.
struct Talk {
    child: Child,
    /// The terminal's other side; `None` once it is closed.
    master: Option<File>,
    shown: Vec<u8>,
}

impl Talk {
    fn start(kiosk: &Kiosk) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let name = PathBuf::from(name.into_string().unwrap());
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open(&name, flags, Mode::empty()).unwrap();
        let stdio = || Stdio::from(terminal.try_clone().unwrap());
        let mut command = Command::new(path());
        command.arg("chat").args(BUDGET).arg(kiosk.image()).env("TERM", "xterm");
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        let lead = || {
            rustix::process::setsid()?;
            Ok(rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?)
        };
        // SAFETY: between fork and exec it makes system calls only.
        unsafe { command.pre_exec(lead) };
        let child = command.spawn().unwrap();
        Self { child, master: Some(master.into()), shown: Vec::new() }
    }

    fn enter(&mut self, bytes: &[u8]) {
        self.master.as_ref().unwrap().write_all(bytes).unwrap();
    }

    /// Waits until `text` is shown; returns all that came before it, and forgets both.
    #[track_caller]
    fn wait_for(&mut self, text: &str) -> String {
        loop {
            let find =
                |shown: &[u8]| shown.windows(text.len()).position(|at| at == text.as_bytes());
            if let Some(at) = find(&self.shown) {
                let rest = self.shown.split_off(at + text.len());
                let before = std::mem::replace(&mut self.shown, rest);
                return String::from_utf8_lossy(&before[..at]).into_owned();
            }
            assert!(self.read(), "no `{text}` in {}", String::from_utf8_lossy(&self.shown));
        }
    }

    /// Takes what is shown next; `false` when the terminal is closed.
    #[track_caller]
    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let mut master = self.master.as_ref().unwrap();
        let hangs = Timespec { tv_sec: 100, tv_nsec: 0 };
        let count = poll(&mut [PollFd::new(master, PollFlags::IN)], Some(&hangs));
        assert_ne!(count, Ok(0), "nothing more after {}", String::from_utf8_lossy(&self.shown));
        match master.read(&mut bytes) {
            Ok(0) => false,
            Ok(len) => {
                self.shown.extend(&bytes[..len]);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(_) => false,
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end; the exit status, and whether the terminal edits lines itself again.
    fn end(mut self) -> (Option<i32>, bool) {
        // What is not taken may block the program's last words.
        while self.master.is_some() && self.read() {}
        let code = self.child.wait().unwrap().code();
        let modes = self.master.and_then(|master| tcgetattr(master).ok());
        let usual = LocalModes::ICANON | LocalModes::ECHO;
        (code, modes.is_some_and(|modes| modes.local_modes.contains(usual)))
    }
}

#[test]
fn one_signal_at_the_prompt_ends_the_program_properly() {
    for signal in [Signal::TERM, Signal::HUP] {
        let kiosk = Kiosk::new();
        let mut talk = Talk::start(&kiosk);
        talk.wait_for("> ");
        talk.signal(signal);
        assert_eq!(talk.end(), (Some(130), true), "{signal:?}");
        assert!(kiosk.usage().is_file(), "{signal:?}");
    }
}

#[test]
fn a_signal_ends_a_conversation_that_comes_through_a_pipe_too() {
    let kiosk = Kiosk::new();
    let mut child = Command::new(path())
        .arg("chat")
        .args(BUDGET)
        .arg(kiosk.image())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{PROMPT}\n/help").unwrap();
    let mut out = io::BufReader::new(child.stdout.take().unwrap());
    loop {
        let mut line = String::new();
        assert!(io::BufRead::read_line(&mut out, &mut line).unwrap() > 0);
        if line.contains("/quit") {
            break;
        }
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(kiosk.usage().is_file());
    drop(stdin);
}

#[test]
fn a_signal_within_a_long_batch_ends_it_and_what_was_learned_is_kept() {
    let kiosk = Kiosk::new();
    let mut child = Command::new(path())
        .args([
            "chat", "--greedy", "--ram", "64MiB", "-c", "2048", "--batch", "2048", "-t", "1", "-m",
        ])
        .arg(kiosk.image())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "/help\n{}", "Tell me a story about a fox. ".repeat(150)).unwrap();
    let mut out = io::BufReader::new(child.stdout.take().unwrap());
    loop {
        let mut line = String::new();
        assert!(io::BufRead::read_line(&mut out, &mut line).unwrap() > 0);
        if line.contains("/quit") {
            break;
        }
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(kiosk.usage().is_file());
    drop(stdin);
}

#[test]
fn ctrl_c_at_the_prompt_does_not_spoil_the_next_answer() {
    let kiosk = Kiosk::new();
    let image = kiosk.image();
    let args = [&["run"][..], &BUDGET, &[image.to_str().unwrap(), PROMPT]].concat();
    let answer = rill(&args).ok();
    let mut talk = Talk::start(&kiosk);
    talk.wait_for("> ");
    talk.signal(Signal::INT);
    talk.enter(b"\x03");
    talk.wait_for("> ");
    talk.enter(format!("{PROMPT}\r").as_bytes());
    talk.wait_for(answer.split_whitespace().next_back().unwrap());
    talk.wait_for("> ");
    talk.enter(b"/quit\r");
    assert_eq!(talk.end(), (Some(0), true));
}

#[test]
fn a_second_ctrl_c_at_the_same_prompt_ends_the_program() {
    let kiosk = Kiosk::new();
    let mut talk = Talk::start(&kiosk);
    talk.wait_for("> ");
    // Two that come at once may be heard as one.
    soon(|| {
        talk.signal(Signal::INT);
        talk.child.try_wait().unwrap()
    });
    assert_eq!(talk.end(), (Some(130), true));
}

#[test]
fn a_terminal_that_is_closed_ends_the_program_quietly() {
    let kiosk = Kiosk::new();
    let mut talk = Talk::start(&kiosk);
    talk.wait_for("> ");
    talk.enter(format!("{PROMPT}\r").as_bytes());
    // In the middle of the answer, or later.
    talk.wait_for("\n");
    drop(talk.master.take());
    let (code, _) = talk.end();
    assert!(matches!(code, Some(0 | 130)), "{code:?}");
    assert!(kiosk.usage().is_file());
}

#[test]
fn a_second_signal_leaves_the_terminal_as_it_was() {
    let kiosk = Kiosk::new();
    let mut talk = Talk::start(&kiosk);
    talk.wait_for("> ");
    // Whichever of them it is that ends the program.
    talk.signal(Signal::TERM);
    talk.signal(Signal::HUP);
    assert_eq!(talk.end(), (Some(130), true));
}

#[test]
fn a_byte_that_is_no_text_is_replaced_and_said() {
    let kiosk = Kiosk::new();
    let mut child = Command::new(path())
        .arg("chat")
        .args(BUDGET)
        .arg(kiosk.image())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let input = [b"caf\xe9?\n", format!("/reset\n{PROMPT}\n").as_bytes()].concat();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    let output = child.wait_with_output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(err.contains("not UTF-8"), "{err}");
    let image = kiosk.image().display().to_string();
    let alone = rill_with_input(&["run", "--greedy", "-m", &image, "-"], PROMPT).ok();
    assert!(out.ends_with(&alone), "{out}");
    // On a terminal too.
    let mut talk = Talk::start(&kiosk);
    talk.wait_for("> ");
    talk.enter(b"caf\xe9?\r");
    talk.wait_for("not UTF-8");
    talk.wait_for("> ");
    talk.enter(b"\x15/quit\r");
    assert_eq!(talk.end().0, Some(0));
}
