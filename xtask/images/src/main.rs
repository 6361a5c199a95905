//! `cargo xtask image`, `run`, `count`, `emulate-x86` and `test --board`: makes images for boards, and
//! runs, tests and measures them.

mod board_test;
mod bochs;
mod chat;
mod container;
mod container_test;
mod count;
mod debian;
mod executorch_test;
mod fault_test;
mod image;
mod initramfs;
mod kernel;
mod log;
mod monitor;
mod power_cut_test;
mod program;
mod qemu;
mod run;

use std::process::ExitCode;

use clap::Parser;
use xtask::board_args::BoardArgs;

/// Tasks of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Talk with a board and compare its answers with those of this machine.
    Test(BoardArgs),
    Image(image::Args),
    Run(run::Args),
    Count(count::Args),
    EmulateX86(bochs::Args),
}

fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::Test(args) => board_test::run(&args),
        Task::Image(args) => image::run(&args),
        Task::Run(args) => run::run(&args),
        Task::Count(args) => count::run(&args),
        Task::EmulateX86(args) => bochs::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
