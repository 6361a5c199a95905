//! Builds the `rill` program for a board with Linux.

use std::env::consts::ARCH;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cargo_metadata::{Artifact, Message};
use rill_board::Board;
use xtask::{need, needs, workspace};

/// What programs for boards can do beside what every build of `platform/linux` can.
pub const FEATURES: &str = "serve";

/// What the library for C can do: all that it can.
pub const LIBRARY_FEATURES: &str = "std";

/// Builds a program of `platform/linux`: static, with symbols, with no model inside and with no path
/// of this machine in it, so that equal sources give equal bytes.
pub fn build(board: &Board, name: &str) -> Result<PathBuf> {
    need::require(&needs::program(board))?;
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--release", "--package", "rill-linux", "--bin", name]);
    cargo.args(["--no-default-features", "--features", FEATURES]);
    settings(board, &mut cargo)?;
    executable(&mut cargo)
}

/// Builds a package as a static library, with the flags of [`build`], so that both share what they are
/// made from.
pub fn library(board: &Board, package: &str) -> Result<PathBuf> {
    need::require(&needs::program(board))?;
    let mut cargo = workspace::cargo();
    cargo.args(["rustc", "--release", "--package", package, "--lib", "--crate-type", "staticlib"]);
    cargo.args(["--no-default-features", "--features", LIBRARY_FEATURES]);
    settings(board, &mut cargo)?;
    let is_archive = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "a");
    artifact(&mut cargo, |built| built.filenames.into_iter().map(PathBuf::from).find(is_archive))
}

/// Target, flags and linker of programs and libraries for a board.
fn settings(board: &Board, cargo: &mut Command) -> Result<()> {
    let target = needs::linux_target(board);
    cargo.args(["--target", &target, "--message-format"]);
    cargo.arg("json-render-diagnostics");
    cargo.arg("--config").arg(format!("target.{target}.rustflags = {:?}", rustflags()?));
    if board.architecture() != ARCH && board.architecture() != "aarch64" {
        let linker = format!("target.{target}.linker = \"{}-linux-gnu-gcc\"", board.architecture());
        cargo.arg("--config").arg(linker);
    }
    Ok(())
}

/// Writes a program without its symbols.
pub fn strip(board: &Board, program: &Path, to: &Path) -> Result<()> {
    workspace::run(Command::new(binutil(board, "strip")).arg("-o").arg(to).arg(program))
}

/// What handles a board's binaries, by the name of what handles this machine's.
pub fn binutil(board: &Board, name: &str) -> String {
    let arch = board.architecture();
    if arch == ARCH { name.to_owned() } else { format!("{arch}-linux-gnu-{name}") }
}

/// Runs cargo and returns the program it built.
pub fn executable(cargo: &mut Command) -> Result<PathBuf> {
    artifact(cargo, |built| built.executable.map(PathBuf::from))
}

/// Runs cargo and returns the last file that `pick` finds among those it built.
fn artifact(cargo: &mut Command, pick: impl Fn(Artifact) -> Option<PathBuf>) -> Result<PathBuf> {
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut found = None;
    for message in Message::parse_stream(std::io::BufReader::new(stdout)) {
        if let Message::CompilerArtifact(built) = message? {
            found = pick(built).or(found);
        }
    }
    ensure!(child.wait()?.success(), "it does not build");
    found.context("cargo does not say where it is")
}

fn rustflags() -> Result<Vec<String>> {
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cargo")))
        .context("there is no home folder: set CARGO_HOME")?;
    let sysroot = workspace::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    for (from, to) in [
        (workspace::root().display().to_string(), "/rill"),
        (home.display().to_string(), "/cargo"),
        (sysroot.trim().to_owned(), "/rust"),
    ] {
        flags.push(format!("--remap-path-prefix={from}={to}"));
    }
    Ok(flags)
}
