//! Board files: one TOML a board, data only.
//!
//! `boards/NAME.toml` says what the board NAME is: its CPU, RAM and storage, how it boots and is
//! run, the budget it gets by default and how large its images may be. A key that nobody knows is
//! an error; errors name the file and the key. Nothing lists the boards: [`all`] reads the folder.

mod bare;
mod check;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use serde::Deserialize;

pub use bare::{Bare, Block, Boot, Console, Controller, Interrupts, Region, Secondaries};
pub use tables::{TABLES, Table};

/// A board.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Board {
    /// Name of the file, without its extension.
    #[serde(skip)]
    pub name: String,
    /// What people call it.
    pub title: String,
    /// Which world the engine runs in.
    pub platform: Platform,
    /// Rust's target, or `native`: that of the machine which builds.
    pub target: String,
    /// RAM that the whole program may use, when nobody says otherwise.
    pub budget: ByteSize,
    /// Its cores.
    pub cpu: Cpu,
    /// Its RAM.
    pub ram: Ram,
    /// Where models lie.
    pub storage: Storage,
    /// What its images may take.
    pub sizes: Sizes,
    /// What the kernels cost, where that is watched.
    pub instructions: Option<Instructions>,
    /// Files of the vendor that it boots with; whoever makes an image names a folder with them.
    #[serde(default)]
    pub firmware: Vec<String>,
    /// How it is run without the board; none: as any program.
    pub emulator: Option<Emulator>,
    /// How Linux starts on it, when the program brings Linux along.
    pub appliance: Option<Appliance>,
    /// What the kernel without an operating system has to know.
    pub bare: Option<Bare>,
}

/// A world, as in the folder `platform/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Platform {
    /// `platform/linux`.
    Linux,
    /// `platform/bare`.
    Bare,
    /// `platform/executorch`.
    Executorch,
}

/// The cores.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Cpu {
    /// As QEMU calls it.
    pub model: String,
    /// How many; none: as many as there are.
    pub cores: Option<u32>,
    /// What every core can do, of what kernel tables use.
    pub features: Vec<String>,
    /// The kernel table that such a CPU gets, or `best`.
    pub kernels: String,
}

/// The RAM.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ram {
    /// Of the smallest board of this kind.
    pub size: ByteSize,
}

/// Where models lie.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Storage {
    /// What the board boots from, as people call it.
    pub medium: String,
    /// Size of the medium that an image is made for, when nothing larger is needed; QEMU's cards
    /// are powers of two.
    pub image: Option<ByteSize>,
}

/// What images may take, in bytes, without the model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sizes {
    /// The program, or the kernel image.
    pub program: ByteSize,
    /// Everything that is installed on a board with Linux, but the model.
    pub bundle: Option<ByteSize>,
    /// What it boots with: kernel, initramfs and firmware.
    pub boot: Option<ByteSize>,
    /// Code of the engine and all read-only data.
    pub engine: Option<ByteSize>,
    /// RAM outside the arena that holds data.
    pub ram: Option<ByteSize>,
}

/// Executed instructions, as `cargo xtask count` counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Instructions {
    /// In kernels, for one token of an answer of the kiosk model, on one core.
    pub token: u64,
}

/// How the board is run on another machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields, rename_all = "kebab-case")]
pub enum Emulator {
    /// The program alone, on this machine's kernel: `qemu-ARCH -cpu MODEL`.
    User,
    /// The whole machine: `qemu-system-ARCH -M MACHINE`.
    #[serde(rename_all = "kebab-case")]
    System {
        /// As QEMU calls it.
        machine: String,
        /// RAM of the emulated machine.
        ram: ByteSize,
        /// How the image is attached.
        disk: Disk,
        /// The oldest QEMU that has the machine.
        least_version: u32,
    },
}

/// How QEMU attaches an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disk {
    /// A virtio block device on MMIO.
    Virtio,
    /// The card of the machine's first SD controller.
    Sd,
    /// A card on the bus of the controller that QEMU calls generic-sdhci.
    GenericSdhci,
}

/// How Linux starts on a board.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Appliance {
    /// Who loads the kernel.
    pub loader: Loader,
    /// Debian's architecture.
    pub architecture: String,
    /// Debian packages whose files the image takes: the kernel first.
    pub packages: Vec<String>,
    /// Device tree for the loader, a file of the kernel's package.
    pub device_tree: String,
    /// Modules that make console, storage and watchdog work, as `modprobe` calls them. What they
    /// depend on comes along; those that the kernel has built in are skipped.
    pub modules: Vec<String>,
    /// Device of the console.
    pub console: String,
}

/// What loads the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loader {
    /// The firmware of Raspberry Pi boards: `config.txt`.
    RaspberryPi,
}

/// Why a board file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Nobody has described this board.
    #[error("no board `{name}`; boards/ has {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A key is missing, unknown or has a wrong value.
    #[error("{}: {key}: {message}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Its key, with dots.
        key: String,
        /// What is wrong.
        message: String,
    },
}

impl Board {
    /// Reads a board file.
    pub fn read(path: &Path) -> Result<Self, BoardError> {
        let text = fs::read_to_string(path)
            .map_err(|error| BoardError::Read { path: path.to_owned(), error })?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&name, &text).map_err(|(key, message)| BoardError::Key {
            path: path.to_owned(),
            key,
            message,
        })
    }

    /// Reads the text of a board file; an error is a key and what is wrong with it.
    fn parse(name: &str, text: &str) -> Result<Self, (String, String)> {
        let tables = toml::Deserializer::parse(text)
            .map_err(|error| ("syntax".to_owned(), error.to_string().trim_end().to_owned()))?;
        let board: Self = serde_path_to_error::deserialize(tables).map_err(|error| {
            let key = error.path().to_string();
            (key, error.into_inner().message().to_owned())
        })?;
        check::check(&board).map_err(|(key, message)| (key.to_owned(), message))?;
        Ok(Self { name: name.to_owned(), ..board })
    }

    /// Whether this machine's programs run on it: the board is the machine which builds.
    pub fn is_native(&self) -> bool {
        self.target == "native"
    }

    /// Whether its programs run on this machine without an emulator, on whatever CPU it has.
    pub fn runs_here(&self) -> bool {
        self.is_native()
            || self.platform == Platform::Executorch
                && self.architecture() == std::env::consts::ARCH
    }

    /// Architecture, as Rust calls it.
    pub fn architecture(&self) -> &str {
        if self.is_native() {
            return std::env::consts::ARCH;
        }
        self.target.split('-').next().unwrap_or(&self.target)
    }
}

/// The board of this name in a folder of board files.
pub fn find(folder: &Path, name: &str) -> Result<Board, BoardError> {
    let path = folder.join(name).with_extension("toml");
    let names = names(folder)?;
    if !names.iter().any(|known| known == name) {
        return Err(BoardError::Unknown { name: name.to_owned(), known: names.join(", ") });
    }
    Board::read(&path)
}

/// All boards of a folder, by name.
pub fn all(folder: &Path) -> Result<Vec<Board>, BoardError> {
    names(folder)?.iter().map(|name| find(folder, name)).collect()
}

fn names(folder: &Path) -> Result<Vec<String>, BoardError> {
    let read = |error| BoardError::Read { path: folder.to_owned(), error };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            names.push(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests;
