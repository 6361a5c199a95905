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
mod talks;
mod terminal;
mod typed;
mod voice;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let program = match commands::Program::try_parse() {
        Ok(program) => program,
        Err(error) => return answer(&error),
    };
    let code = match program.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    };
    terminal::restore();
    code
}

/// Says what is wrong with the command line, or gives the help that it asks for. What it quotes may be
/// names of files.
fn answer(error: &clap::Error) -> ExitCode {
    let has_controls =
        std::env::args_os().any(|arg| arg.to_string_lossy().chars().any(terminal::is_control));
    if error.use_stderr() && has_controls {
        terminal::tell(error.render().to_string().trim_end());
        return ExitCode::from(2);
    }
    error.exit()
}
