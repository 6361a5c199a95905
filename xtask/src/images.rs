//! The tasks that make, run and measure images. They have a program of their own,
//! `rill-images`: what only looks at this machine does not wait until it is built.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use xtask::workspace;

/// Their names; `rill-images` reads the rest of the line.
#[derive(Debug, clap::Subcommand)]
pub enum Task {
    /// Make an image of a model for a board
    Image(Rest),
    /// Run a model on a board: emulated here, or on a real one over ssh
    Run(Rest),
    /// Count the instructions that each token costs on a board, kernel by kernel
    Count(Rest),
    /// Run a static program for x86-64 Linux on an emulated CPU, also one that this machine does
    /// not have
    EmulateX86(Rest),
}

/// Options and arguments, as they stand.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
    rest: Vec<OsString>,
}

/// Names a built `rill-images`.
pub const BUILT: &str = "RILL_IMAGES";

/// Becomes `rill-images`, with the arguments of this program: what [`BUILT`] names, or what it builds.
pub fn run() -> Result<()> {
    let program = std::env::var_os(BUILT).map_or_else(build, |program| Ok(program.into()))?;
    let error = Command::new(&program).args(std::env::args_os().skip(1)).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}

fn build() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("rill-images");
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--package", "rill-images"]);
    if program.exists() {
        cargo.arg("--quiet");
    } else {
        eprintln!("building what makes images, once: this takes some minutes");
    }
    workspace::run(&mut cargo)?;
    Ok(program)
}
