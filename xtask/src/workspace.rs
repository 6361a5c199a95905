//! This repository and the commands of its Rust installation.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rill_board::Board;

/// The repository's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The board of this name.
pub fn board(name: &str) -> Result<Board> {
    Ok(rill_board::find(&root().join("boards"), name)?)
}

/// All boards.
pub fn boards() -> Result<Vec<Board>> {
    Ok(rill_board::all(&root().join("boards"))?)
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A folder for what xtask makes and can make again.
pub fn cache(name: &str) -> Result<PathBuf> {
    let folder = target_dir().join("xtask").join(name);
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// Package of what decodes logs, which is no part of the workspace.
pub const LOG_DECODER: &str = "xtask/log/Cargo.toml";

/// Arguments of cargo: a task with that package, and where it is built.
pub fn log_decoder(task: &str) -> [String; 5] {
    let target = target_dir().join("log").display().to_string();
    [task, "--manifest-path", LOG_DECODER, "--target-dir", &target].map(str::to_owned)
}

/// A cargo command in the repository, free of flags meant for another build.
pub fn cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root());
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

/// Runs a command to its end and returns what it writes to standard output; an error holds what it
/// writes to standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}: {}", output.status, stderr.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, its output shown.
pub fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot start {program}"))?;
    ensure!(status.success(), "{program}: {status}");
    Ok(())
}
