//! `cargo xtask doctor`: what this machine lacks, and what brings it.

use anyhow::{Result, bail};
use rill_board::{Board, Platform};
use xtask::need::Need;
use xtask::{needs, workspace};

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
        task("count", &[Need::target(needs::LINUX_ARM), Need::CROSS_GCC, Need::QEMU_PLUGINS]),
        task("emulate-x86", &needs::emulate_x86()),
    ];
    for board in boards {
        let name = &board.name;
        tasks.push(task(&format!("image --board {name}"), &needs::image(board)));
        tasks.push(task(&format!("run --board {name}"), &needs::run(board)?));
        if board.platform == Platform::Bare {
            // What decodes the log is built for this machine.
            let needs = [needs::run(board)?, vec![Need::GCC]].concat();
            tasks.push(task(&format!("run --log --board {name}"), &needs));
        }
        if let Some(needs) = needs::container(board) {
            tasks.push(task(&format!("test --oci --board {name}"), &needs));
        }
        if board.appliance.is_some() {
            let needs = [needs::image(board), needs::APPLIANCE.to_vec()].concat();
            tasks.push(task(&format!("image --appliance --board {name}"), &needs));
        }
    }
    Ok(tasks)
}
