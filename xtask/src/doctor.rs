//! `cargo xtask doctor`: what this machine lacks, and what brings it.

use anyhow::{Result, bail};
use rill_board::{Board, Emulator, Platform};

use crate::need::Need;
use crate::{bochs, program, run, workspace};

/// Say what is missing for each task and board, and the command that installs it.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// A task and what it needs.
struct Task {
    name: String,
    needs: Vec<Need>,
}

/// Prints what is there and what is not; fails when something is missing.
pub fn run(_: &Args) -> Result<()> {
    let mut missing: Vec<Need> = Vec::new();
    for Task { name, needs } in tasks(&workspace::boards()?)? {
        let lacks: Vec<_> = needs.into_iter().filter(|need| !need.is_met()).collect();
        let what: Vec<_> = lacks.iter().map(Need::what).collect();
        let verdict =
            if what.is_empty() { "ready".to_owned() } else { format!("needs {}", what.join(", ")) };
        println!("{name:<36} {verdict}");
        for need in lacks {
            if !missing.contains(&need) {
                missing.push(need);
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    println!("\nWhat brings it:");
    for need in &missing {
        println!("  {:<36} {}", need.what(), need.install());
    }
    bail!("something is missing")
}

fn tasks(boards: &[Board]) -> Result<Vec<Task>> {
    let task = |name: &str, needs: &[Need]| Task { name: name.into(), needs: needs.to_vec() };
    let mut tasks = vec![
        task("test", &[Need::GCC, Need::GXX, Need::RUSTFMT, Need::CLIPPY, Need::CARGO_DENY]),
        task(
            "count",
            &[Need::target("aarch64-unknown-linux-gnu"), Need::CROSS_GCC, Need::QEMU_PLUGINS],
        ),
        task("emulate-x86", &bochs::needs()),
    ];
    for board in boards {
        let name = &board.name;
        tasks.push(task(&format!("image --board {name}"), &image_needs(board)));
        tasks.push(task(&format!("run --board {name}"), &run_needs(board)?));
        if board.platform == Platform::Bare {
            // What decodes the log is built for this machine.
            let needs = [run_needs(board)?, vec![Need::GCC]].concat();
            tasks.push(task(&format!("run --log --board {name}"), &needs));
        }
        if board.appliance.is_some() {
            let needs = [image_needs(board), appliance_needs().to_vec()].concat();
            tasks.push(task(&format!("image --appliance --board {name}"), &needs));
        }
    }
    Ok(tasks)
}

/// What making an image for a board takes.
pub fn image_needs(board: &Board) -> Vec<Need> {
    match board.platform {
        Platform::Linux => program::needs(board),
        Platform::Bare => vec![Need::target(board.target.clone())],
    }
}

/// What running a board here takes.
pub fn run_needs(board: &Board) -> Result<Vec<Need>> {
    let mut needs = image_needs(board);
    match board.emulator {
        None => {}
        Some(Emulator::User) => needs.push(run::user_emulator(board)?),
        Some(Emulator::System { .. }) => needs.push(Need::QEMU_SYSTEM),
    }
    Ok(needs)
}

/// What an appliance takes beside.
pub fn appliance_needs() -> [Need; 4] {
    [Need::APT, Need::DPKG, Need::MKE2FS, Need::QEMU_SYSTEM]
}
