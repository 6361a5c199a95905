//! `cargo xtask`: tests, packing and board images.

mod board_test;
mod bochs;
mod chat;
mod count;
mod debian;
mod doctor;
mod fault_test;
mod image;
mod initramfs;
mod kernel;
mod log;
mod monitor;
mod need;
mod pack;
mod power_cut_test;
mod program;
mod qemu;
mod run;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

/// Tasks of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Task {
    Test(test::Args),
    Pack(pack::Args),
    Image(image::Args),
    Run(run::Args),
    Doctor(doctor::Args),
    Count(count::Args),
    EmulateX86(bochs::Args),
}

fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::Test(args) => test::run(&args),
        Task::Pack(args) => pack::run(&args).map_err(|error| anyhow::anyhow!("{error}")),
        Task::Image(args) => image::run(&args),
        Task::Run(args) => run::run(&args),
        Task::Doctor(args) => doctor::run(&args),
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
