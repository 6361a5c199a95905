//! The `rill` program: runs, packs, inspects and measures models on Linux.
//!
//! Each command is one file of [`commands`]; [`args`] are the options that several have. The library
//! beside it does the work: it loads a model within a budget and lets it speak.

mod args;
mod commands;
mod failure;
mod idle;
mod interrupt;
mod logprobs;
mod npy;
mod plot;
#[cfg(feature = "pull")]
mod pull;
mod routes;
mod saved;
mod table;
mod terminal;
mod typed;
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
