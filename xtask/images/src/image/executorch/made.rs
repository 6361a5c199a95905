//! A folder that was made, and programs that use it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rill_board::Board;

use super::sdk::Sdk;
use super::{PROGRAM, backend};
use crate::image::{self, Inputs};
use crate::qemu;

/// A folder that was made for a board, and what runs programs with it.
pub struct Made {
    board: Board,
    folder: PathBuf,
    /// The runtime that programs are linked with.
    pub sdk: Sdk,
}

impl Made {
    /// Makes it.
    pub fn new(inputs: &Inputs, to: &Path) -> Result<Self> {
        let made = image::make(inputs, to)?;
        let [folder] = &made[..] else { bail!("an image is a folder") };
        let board = inputs.board.clone();
        let sdk = Sdk::get(board.architecture())?;
        Ok(Self { board, folder: folder.canonicalize()?, sdk })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The program for ExecuTorch.
    pub fn program(&self) -> PathBuf {
        self.folder.join(PROGRAM)
    }

    /// Builds a C++ program against the folder's shared library and the runtime, beside the folder.
    pub fn link(&self, source: &str) -> Result<PathBuf> {
        let name = Path::new(source).file_stem().context("a source has a name")?;
        let program = self.folder.with_file_name(name);
        let libraries = self.folder.join("lib");
        backend::link(&self.board, &self.sdk, source, &libraries, &program)?;
        Ok(program)
    }

    /// Builds a C++ program with the folder's static library in it.
    pub fn link_static(&self, source: &str, to: &Path) -> Result<()> {
        backend::link_static(&self.board, &self.sdk, source, &self.folder.join("lib"), to)
    }

    /// Builds a C++ program and the backend as one, watched: see [`backend::link_sanitized`].
    pub fn link_sanitized(&self, source: &str, to: &Path) -> Result<()> {
        backend::link_sanitized(&self.board, &self.sdk, source, to)
    }

    /// Runs a program that was linked, under an emulator where its CPU is another.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let libraries = [self.folder.join("lib"), self.sdk.libraries()];
        let libraries = std::env::join_paths(libraries)?;
        if self.board.runs_here() {
            let mut command = Command::new(program);
            command.env("LD_LIBRARY_PATH", libraries);
            return Ok(command);
        }
        let mut command = qemu::user(&self.board)?;
        // Where Debian's cross compilers have their libraries.
        let libraries_of_system = format!("/usr/{}-linux-gnu", self.board.architecture());
        command.args(["-L", &libraries_of_system, "-E"]);
        command.arg(format!("LD_LIBRARY_PATH={}", libraries.to_string_lossy())).arg(program);
        Ok(command)
    }
}
