//! The `rill` program: runs, packs, inspects and measures models on Linux.
//!
//! Each command is one file of [`commands`]; what they share lies beside it: [`model`] finds the
//! image, [`engine`] loads it within a budget, [`generate`] lets it speak.

mod beside;
mod commands;
mod engine;
mod failure;
mod generate;
mod idle;
mod interrupt;
mod logprobs;
mod model;
mod npy;
mod plot;
#[cfg(feature = "pull")]
mod pull;
mod routes;
mod saved;
mod table;
mod talk;
mod terminal;
mod typed;
mod usage;
mod voice;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let code = match commands::Program::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    };
    terminal::restore();
    code
}
