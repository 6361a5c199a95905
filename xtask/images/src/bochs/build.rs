//! Bochs, built from Debian's source: Debian's own program needs a desktop, and that of older suites
//! does not know these CPUs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use xtask::{need, needs, workspace};

use crate::debian;

/// The source, in Debian's pool, and its SHA-256.
const SOURCE: &str = "main/b/bochs/bochs_3.0+dfsg.orig.tar.xz";
const SHA256: &str = "78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b";
/// The folder in it.
const VERSION: &str = "bochs-3.0";

/// A CPU with all that the kernels use, memory, a serial port and as little else as there can be.
/// What shows the speed logs it in a signal handler, and now and then waits there for itself.
const OPTIONS: [&str; 16] = [
    "--with-nogui",
    "--without-x",
    "--enable-cpu-level=6",
    "--enable-x86-64",
    "--enable-avx",
    "--enable-evex",
    "--enable-protection-keys",
    "--enable-all-optimizations",
    "--disable-pci",
    "--disable-gameport",
    "--disable-cdrom",
    "--disable-large-ramfile",
    "--disable-docbook",
    "--disable-xpm",
    "--disable-logging",
    "--disable-show-ips",
];
/// Half the time to build of -O2; what runs afterwards takes half a minute.
const FLAGS: &str = "-O1";

/// The program: built the first time.
pub fn program() -> Result<PathBuf> {
    let folder = workspace::cache("bochs")?;
    let _alone = workspace::alone_in(&folder)?;
    let recipe = [&[SHA256, FLAGS][..], &OPTIONS].concat().join(" ");
    let recipe: String = Sha256::digest(recipe).iter().map(|byte| format!("{byte:02x}")).collect();
    let program = folder.join(format!("{VERSION}-{}", &recipe[..16]));
    if program.is_file() {
        return Ok(program);
    }
    need::require(&needs::BOCHS)?;
    println!("building {VERSION}, once: this takes a minute or two");
    let made = tempfile::tempdir_in(&folder)?;
    debian::unpack_source(SOURCE, SHA256, made.path()).context("cannot get Bochs' source")?;
    let source = made.path().join(VERSION);
    let mut configure = Command::new("./configure");
    configure.args(OPTIONS).env("CFLAGS", FLAGS).env("CXXFLAGS", FLAGS);
    workspace::output(configure.current_dir(&source)).context("Bochs' source")?;
    let jobs = available_parallelism().map_or(1, usize::from);
    let mut make = Command::new("make");
    make.arg(format!("-j{jobs}")).arg("bochs").env_remove("MAKEFLAGS");
    workspace::output(make.current_dir(&source)).context("Bochs' source")?;
    fs::rename(source.join("bochs"), &program).with_context(|| program.display().to_string())?;
    Ok(program)
}
