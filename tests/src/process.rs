//! Processes: what they are told, and what the kernel says of them.

use std::fmt::Display;
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

/// Sends a signal to a child.
pub fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it was not waited for");
}

/// A line of what the kernel says of a process, after its name. `process` is its number, or `self`.
pub fn status(process: impl Display, name: &str) -> String {
    let status =
        std::fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.expect("Linux says so").trim().to_owned()
}

/// Such a line of a size, in bytes.
pub fn status_bytes(process: impl Display, name: &str) -> u64 {
    let size = status(process, name);
    size.strip_suffix(" kB").expect("it is a size").parse::<u64>().expect("it is a number") << 10
}
