//! Builds the backend of `platform/executorch`: Rill's library for C, and the C++ that ExecuTorch calls.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use rill_board::Board;
use xtask::{need, needs, workspace};

use super::sdk::Sdk;
use crate::program;

const SOURCES: [&str; 3] = ["backend", "handle", "segments"];
/// What of the C++ standard library and the system the library uses.
const SYSTEM: [&str; 3] = ["-lpthread", "-ldl", "-lm"];

/// The libraries that were built.
pub struct Backend {
    /// To be loaded.
    pub shared: PathBuf,
    /// To be linked.
    pub archive: PathBuf,
}

/// Builds both libraries into a folder.
pub fn build(board: &Board, to: &Path) -> Result<Backend> {
    need::require(&needs::image(board))?;
    let sdk = Sdk::get(board.architecture())?;
    let rill = program::library(board, "rill-ffi")?;
    let folder = workspace::root().join("platform/executorch");
    let mut objects = Vec::new();
    for name in SOURCES {
        let object = to.join(format!("rill_{name}.o"));
        let mut command = compiler(board);
        command.args(["-c", "-fPIC", "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden"]);
        command.args(sdk.compile()).arg(folder.join("src").join(name).with_extension("cpp"));
        workspace::run(command.arg("-o").arg(&object))?;
        objects.push(object);
    }
    let shared = to.join("librill_backend.so");
    let mut command = compiler(board);
    command.args(["-shared", "-s", "-Wl,-soname,librill_backend.so", "-Wl,--gc-sections"]);
    command.args(["-Wl,-z,defs", "-Wl,-z,now"]);
    command.arg(format!("-Wl,--version-script={}", folder.join("src/exports.map").display()));
    command.args(&objects).arg(&rill).arg("-L").arg(sdk.libraries()).arg("-lexecutorch");
    workspace::run(command.args(SYSTEM).arg("-o").arg(&shared))?;
    let archive = to.join("librill_backend.a");
    join(board, &objects, &rill, &archive)?;
    Ok(Backend { shared, archive })
}

/// Builds a program of `platform/executorch` that the backend is linked into dynamically.
pub fn link(board: &Board, sdk: &Sdk, source: &str, libraries: &Path, to: &Path) -> Result<()> {
    let mut command = compiler(board);
    command.args(sdk.compile()).arg(workspace::root().join("platform/executorch").join(source));
    command.arg("-L").arg(libraries).arg("-lrill_backend");
    command.arg("-L").arg(sdk.libraries()).args(["-lexecutorch", "-o"]).arg(to);
    workspace::run(&mut command)
}

/// Builds a program that the backend is linked into statically.
pub fn link_static(
    board: &Board,
    sdk: &Sdk,
    source: &str,
    libraries: &Path,
    to: &Path,
) -> Result<()> {
    let mut command = compiler(board);
    command.args(sdk.compile()).arg(workspace::root().join("platform/executorch").join(source));
    command.arg(libraries.join("librill_backend.a"));
    command.arg("-L").arg(sdk.libraries()).arg("-lexecutorch");
    // As `join`'s tools, the linker may speak of members that another LLVM wrote.
    workspace::output(command.args(SYSTEM).arg("-o").arg(to))?;
    Ok(())
}

/// Builds a program and the backend as one, for this machine, with what finds wrong uses of memory and
/// undefined behaviour in both and then ends it.
pub fn link_sanitized(board: &Board, sdk: &Sdk, source: &str, to: &Path) -> Result<()> {
    let folder = workspace::root().join("platform/executorch");
    let mut command = compiler(board);
    command.args([
        "-Werror",
        "-g",
        "-fno-rtti",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
    ]);
    command.args(sdk.compile()).arg(folder.join(source));
    command.args(SOURCES.map(|name| folder.join("src").join(name).with_extension("cpp")));
    command.arg(program::library(board, "rill-ffi")?);
    command.arg("-L").arg(sdk.libraries()).arg("-lexecutorch");
    workspace::run(command.args(SYSTEM).arg("-o").arg(to))
}

/// A C++ compiler with the flags that all of our code is compiled with.
fn compiler(board: &Board) -> Command {
    let root = workspace::root();
    let mut command = Command::new(needs::cxx(board.architecture()).what());
    command.args(["-std=c++17", "-O2", "-Wall", "-Wextra", "-ffunction-sections"]);
    command.arg(format!("-ffile-prefix-map={}=/rill", root.display()));
    for folder in ["platform/executorch/include", "platform/ffi/include"] {
        command.arg("-I").arg(root.join(folder));
    }
    command
}

/// Adds objects to a copy of an archive.
fn join(board: &Board, objects: &[PathBuf], archive: &Path, to: &Path) -> Result<()> {
    fs::copy(archive, to)?;
    let mut add = Command::new(program::binutil(board, "ar"));
    workspace::output(add.arg("rsD").arg(to).args(objects))?;
    // Those who link it have no use for where our lines are, which are most of its bytes.
    let mut strip = Command::new(program::binutil(board, "strip"));
    // It warns of members that another LLVM wrote, and leaves them as they are.
    workspace::output(strip.args(["--strip-debug", "--enable-deterministic-archives"]).arg(to))?;
    Ok(())
}
