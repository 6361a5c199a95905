//! What each task needs, beside a Rust installation.

use std::env::consts::ARCH;

use anyhow::{Result, bail};
use rill_board::{Board, Emulator, Platform};

use crate::need::Need;

/// Target of boards with Linux and a 64-bit Arm CPU.
pub const LINUX_ARM: &str = "aarch64-unknown-linux-gnu";

/// Making an image for a board.
pub fn image(board: &Board) -> Vec<Need> {
    match board.platform {
        Platform::Linux => program(board),
        Platform::Bare => vec![Need::target(board.target.clone())],
        Platform::Executorch => {
            let mut needs = program(board);
            needs.extend([cxx(board.architecture()), Need::PYTHON3, Need::PIP]);
            needs
        }
    }
}

/// Running a board here.
pub fn run(board: &Board) -> Result<Vec<Need>> {
    let mut needs = image(board);
    if board.platform == Platform::Executorch && board.runs_here() {
        needs.push(Need::CMAKE);
    }
    match board.emulator {
        None => {}
        Some(Emulator::User) if board.runs_here() => {}
        Some(Emulator::User) => needs.push(user_emulator(board)?),
        Some(Emulator::System { .. }) => needs.push(Need::QEMU_SYSTEM),
    }
    Ok(needs)
}

/// Making and booting an appliance, beside its board's image.
pub const APPLIANCE: [Need; 4] = [Need::APT, Need::DPKG, Need::MKE2FS, Need::QEMU_SYSTEM];

/// Running what a board's OCI image holds; `None` where its programs do not run on this machine.
pub fn container(board: &Board) -> Option<Vec<Need>> {
    let is_here = board.platform == Platform::Linux && board.runs_here();
    is_here.then(|| [image(board), vec![Need::USER_NAMESPACES]].concat())
}

/// Building the `rill` program for a board with Linux.
pub fn program(board: &Board) -> Vec<Need> {
    vec![Need::target(linux_target(board)), linker(board.architecture())]
}

/// Rust's target for a board with Linux.
pub fn linux_target(board: &Board) -> String {
    if board.is_native() { format!("{ARCH}-unknown-linux-gnu") } else { board.target.clone() }
}

/// What links programs for Linux on this architecture.
pub fn linker(architecture: &str) -> Need {
    match architecture {
        "aarch64" => Need::CROSS_GCC,
        arch if arch == ARCH => Need::GCC,
        _ => Need::CROSS_GCC_X86,
    }
}

/// What compiles C++ for Linux on this architecture.
pub fn cxx(architecture: &str) -> Need {
    match architecture {
        arch if arch == ARCH => Need::GXX,
        "aarch64" => Need::CROSS_GXX,
        _ => Need::CROSS_GXX_X86,
    }
}

/// What emulates the CPU of a board with Linux.
pub fn user_emulator(board: &Board) -> Result<Need> {
    match board.architecture() {
        "aarch64" => Ok(Need::QEMU_USER),
        "x86_64" => Ok(Need::QEMU_USER_X86),
        other => bail!("{}: no emulator is known for {other}", board.name),
    }
}

/// Building and running programs for 64-bit Arm Linux.
pub fn cross() -> [Need; 3] {
    [Need::target(LINUX_ARM), Need::CROSS_GCC, Need::QEMU_USER]
}

/// Building Bochs from its source.
pub const BOCHS: [Need; 3] = [Need::GXX, Need::MAKE, Need::APT];

/// Running programs on an emulated x86-64 CPU.
pub fn emulate_x86() -> Vec<Need> {
    [&BOCHS[..], &[Need::DPKG]].concat()
}
