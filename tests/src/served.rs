//! `rill serve`, run as its users run it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::program::path;

/// A server of the program's own, which ends when this is dropped.
pub struct Served {
    /// The program.
    pub child: Child,
    /// What it says.
    pub lines: BufReader<Box<dyn Read + Send + Sync>>,
    /// Where it listens: an address and a port.
    pub address: String,
}

/// What a small server is given.
pub const SMALL: [&str; 4] = ["--ram", "256MiB", "-c", "512"];

impl Served {
    /// Starts it at a free port of this machine, and waits until it answers.
    pub fn start(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let mut child = Command::new(path())
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let said = child.stderr.take().expect("it is piped");
        let lines = BufReader::<Box<dyn Read + Send + Sync>>::new(Box::new(said));
        let mut served = Self { child, lines, address: String::new() };
        loop {
            let line = served.line();
            if line == "ready" {
                return served;
            }
            if let Some((_, at)) = line.split_once("://").filter(|_| line.starts_with("listening"))
            {
                served.address = at.to_owned();
            }
        }
    }

    /// The next line that it says.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        let len = self.lines.read_line(&mut line).expect("it speaks UTF-8");
        assert!(len > 0, "it goes on");
        line.trim_end().to_owned()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        crate::process::signal(&self.child, signal);
    }

    /// Asks it to end, and waits until it has.
    pub fn end(&mut self) {
        self.signal(Signal::TERM);
        assert!(self.child.wait().expect("it ends").success());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
