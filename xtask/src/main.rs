//! `cargo xtask`: tests, packing and board images.

mod need;
mod pack;
mod test;

use std::process::ExitCode;

use clap::Parser;

/// Tasks of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Task {
    Test(test::Args),
    Pack(pack::Args),
}

fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::Test(args) => test::run(&args),
        Task::Pack(args) => pack::run(&args).map_err(|error| error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
