//! `cargo xtask`: tests and board images.

mod check;
mod doctor;
mod images;
mod test;

use std::process::ExitCode;

use clap::Parser;

/// Tasks of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
enum Task {
    Test(test::Args),
    Doctor(doctor::Args),
    #[command(flatten)]
    Images(images::Task),
}

fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::Test(args) => test::run(&args),
        Task::Doctor(args) => doctor::run(&args),
        Task::Images(_) => images::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
