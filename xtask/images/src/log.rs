//! The log of a board without an operating system, as text.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use rill_board::Board;
use xtask::workspace;

use crate::kernel;

/// Decodes the frames that a board's kernel, the one last built, has written to a file: a line each.
///
/// Fails when anything in the file is no frame of that kernel.
pub fn decode(board: &Board, frames: &Path) -> Result<String> {
    workspace::output(&mut decoder(board, frames)?)
        .with_context(|| format!("{} wrote a log that cannot be decoded", board.name))
}

/// Shows them on standard error.
pub fn show(board: &Board, frames: &Path) -> Result<()> {
    workspace::run(decoder(board, frames)?.stdout(Stdio::from(io::stderr())))
}

/// The first line of this level that contains a text.
pub fn find<'l>(log: &'l str, level: &str, text: &str) -> Result<&'l str> {
    let is_it = |line: &&str| line.split_whitespace().nth(1) == Some(level) && line.contains(text);
    let found = log.lines().find(is_it);
    found.with_context(|| format!("no line {level} of the log says {text:?}:\n{log}"))
}

fn decoder(board: &Board, frames: &Path) -> Result<Command> {
    let mut cargo = workspace::cargo();
    cargo
        .args(workspace::log_decoder("run"))
        .args(["--quiet", "--"])
        .arg(kernel::kept(board)?)
        .arg(frames);
    Ok(cargo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_level_and_text() {
        let log = "0.000005 INFO  page 7 (src/a.rs:1)\n0.000006 WARN  page 71 (src/a.rs:2)\n";
        assert_eq!(find(log, "WARN", "page 7").unwrap(), log.lines().nth(1).unwrap());
        assert!(find(log, "INFO", "page 71").is_err());
        assert!(find("", "INFO", "").is_err());
    }
}
