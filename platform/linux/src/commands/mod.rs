//! One file each.

mod bench;
mod chat;
mod inspect;
mod logits;
mod perplexity;
mod plan;
#[cfg(feature = "pull")]
mod pull;
mod replay;
mod run;
mod sweep;
mod tokenize;
mod trace;
mod verify;

use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use clap::{Parser, Subcommand};

use crate::failure::Failure;

/// Runs mixture-of-experts language models that are larger than RAM.
///
/// The weights that every token uses stay in RAM; the experts stay on flash and are read as the
/// model asks for them, into as much RAM as you allow.
#[derive(Debug, Parser)]
#[command(name = "rill", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Program {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  rill run \"Tell me a story about a fox and a kite.\"   the small model built into this program
  rill pack LFM2-8B-A1B-Q4_0.gguf                       make LFM2-8B-A1B-Q4_0.rill
  rill pull LiquidAI/LFM2-8B-A1B-GGUF:Q4_0              the same from the Hugging Face hub
  rill chat -m LFM2-8B-A1B-Q4_0.rill --ram 1.5GiB       talk to it in 1.5 GiB of RAM
  rill plan -m LFM2-8B-A1B-Q4_0.rill --ram 900MiB       what would go where
  rill bench -m LFM2-8B-A1B-Q4_0.rill --ram 2GiB        how fast it is here

Exit status: 0 done, 1 failed, 2 wrong command line, 130 after Ctrl-C.";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Chat(chat::Args),
    Pack(rill_pack::cli::Args),
    #[cfg(feature = "pull")]
    Pull(pull::Args),
    Plan(plan::Args),
    Inspect(inspect::Args),
    Verify(verify::Args),
    Tokenize(tokenize::Args),
    Bench(bench::Args),
    Perplexity(perplexity::Args),
    Logits(logits::Args),
    Trace(trace::Args),
    Replay(replay::Args),
}

impl Program {
    /// Does what the command line asks.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Run(args) => run::run(&args),
            Command::Chat(args) => chat::run(&args),
            Command::Pack(args) => Ok(rill_pack::cli::run(&args)?),
            #[cfg(feature = "pull")]
            Command::Pull(args) => pull::run(args),
            Command::Plan(args) => plan::run(&args),
            Command::Inspect(args) => inspect::run(&args),
            Command::Verify(args) => verify::run(&args),
            Command::Tokenize(args) => tokenize::run(&args),
            Command::Bench(args) => bench::run(&args),
            Command::Perplexity(args) => perplexity::run(&args),
            Command::Logits(args) => logits::run(&args),
            Command::Trace(args) => trace::run(&args),
            Command::Replay(args) => replay::run(&args),
        }
    }
}

/// A text given on the command line; `-`, or none where standard input is no terminal, is read
/// from there.
fn text_or_stdin(text: Option<&str>, what: &str) -> Result<String, Failure> {
    match text {
        Some("-") => {}
        Some(text) => return Ok(text.to_owned()),
        None if io::stdin().is_terminal() => {
            let message = format!("give {what}, or `-` to read it from standard input");
            return Err(Failure::Usage(message));
        }
        None => {}
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(Failure::file("standard input"))?;
    Ok(text)
}

/// The token ids in a text file, separated by white space.
fn read_ids(path: &Path) -> Result<Vec<u32>, Failure> {
    let text = fs::read_to_string(path).map_err(Failure::file(path))?;
    let id = |word: &str| {
        word.parse()
            .map_err(|_| Failure::Usage(format!("{}: `{word}` is not a token id", path.display())))
    };
    let ids: Vec<u32> = text.split_whitespace().map(id).collect::<Result<_, _>>()?;
    if ids.is_empty() {
        return Err(Failure::Usage(format!("{} has no token ids", path.display())));
    }
    Ok(ids)
}
