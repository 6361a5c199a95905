//! Builds the `rill` program for a board with Linux.

use std::env::consts::ARCH;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::Message;
use rill_board::Board;
use xtask::{need, needs, workspace};

/// What programs for boards can do beside what every build of `platform/linux` can.
pub const FEATURES: &str = "serve";

/// Builds a program of `platform/linux`: static, with symbols, with no model inside and with no path
/// of this machine in it, so that equal sources give equal bytes.
pub fn build(board: &Board, name: &str) -> Result<PathBuf> {
    need::require(&needs::program(board))?;
    let target = needs::linux_target(board);
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--release", "--package", "rill-linux", "--bin", name]);
    cargo.args(["--no-default-features", "--features", FEATURES]);
    cargo.args(["--target", &target, "--message-format"]);
    cargo.arg("json-render-diagnostics");
    cargo.arg("--config").arg(format!("target.{target}.rustflags = {:?}", rustflags()?));
    if board.architecture() != ARCH && board.architecture() != "aarch64" {
        let linker = format!("target.{target}.linker = \"{}-linux-gnu-gcc\"", board.architecture());
        cargo.arg("--config").arg(linker);
    }
    executable(&mut cargo)
}

/// Writes a program without its symbols.
pub fn strip(board: &Board, program: &Path, to: &Path) -> Result<()> {
    let arch = board.architecture();
    let strip = if arch == ARCH { "strip".to_owned() } else { format!("{arch}-linux-gnu-strip") };
    workspace::run(Command::new(strip).arg("-o").arg(to).arg(program))
}

/// Runs cargo and returns the program it built.
pub fn executable(cargo: &mut Command) -> Result<PathBuf> {
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut program = None;
    for message in Message::parse_stream(std::io::BufReader::new(stdout)) {
        if let Message::CompilerArtifact(artifact) = message? {
            program = artifact.executable.or(program);
        }
    }
    ensure!(child.wait()?.success(), "the program does not build");
    match program {
        Some(path) => Ok(path.into()),
        None => bail!("cargo does not say where the program is"),
    }
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
