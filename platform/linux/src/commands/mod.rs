//! One file each.

mod bench;
mod chat;
mod doctor;
mod inspect;
#[cfg(feature = "serve")]
mod key;
mod logits;
mod perplexity;
mod plan;
#[cfg(feature = "pull")]
mod pull;
mod quality;
mod replay;
mod run;
#[cfg(feature = "serve")]
mod serve;
mod sweep;
mod tokenize;
mod trace;
mod verify;

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use clap::{Parser, Subcommand};

use rill::size::Size;

use rill_linux::engine::LoadError;
use rill_linux::model::Model;
use rill_linux::replace::folder_of;

use crate::args::BudgetArgs;
use crate::failure::Failure;
use crate::interrupt;
use crate::terminal::stdout;

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
  rill doctor -m LFM2-8B-A1B-Q4_0.rill                  what this machine gives, and what to expect

Exit status: 0 done, 1 failed, 2 wrong command line, 130 after Ctrl-C or another
request to end (SIGTERM, SIGHUP); a second request ends at once. `serve` lets answers
under way end, then exits with 0; SIGHUP has it read its files again.";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Chat(chat::Args),
    #[cfg(feature = "serve")]
    Serve(serve::Args),
    #[cfg(feature = "serve")]
    Key(key::Args),
    Pack(rill_pack::cli::Args),
    #[cfg(feature = "pull")]
    Pull(pull::Args),
    Plan(plan::Args),
    Inspect(inspect::Args),
    Verify(verify::Args),
    Tokenize(tokenize::Args),
    Bench(bench::Args),
    Doctor(doctor::Args),
    Perplexity(perplexity::Args),
    Quality(quality::Args),
    Logits(logits::Args),
    Trace(trace::Args),
    Replay(replay::Args),
}

impl Program {
    /// Does what the command line asks.
    pub fn run(self) -> Result<(), Failure> {
        interrupt::survive_size_limits()?;
        if !self.command.watches_itself() {
            interrupt::watch()?;
        }
        match self.command {
            Command::Run(args) => run::run(&args),
            Command::Chat(args) => chat::run(&args),
            #[cfg(feature = "serve")]
            Command::Serve(args) => serve::run(&args),
            #[cfg(feature = "serve")]
            Command::Key(args) => key::run(&args),
            Command::Pack(args) => Ok(rill_pack::cli::run(&args, &mut stdout())?),
            #[cfg(feature = "pull")]
            Command::Pull(args) => pull::run(args),
            Command::Plan(args) => plan::run(&args),
            Command::Inspect(args) => inspect::run(&args),
            Command::Verify(args) => verify::run(&args),
            Command::Tokenize(args) => tokenize::run(&args),
            Command::Bench(args) => bench::run(&args),
            Command::Doctor(args) => doctor::run(&args),
            Command::Perplexity(args) => perplexity::run(&args),
            Command::Quality(args) => quality::run(&args),
            Command::Logits(args) => logits::run(&args),
            Command::Trace(args) => trace::run(&args),
            Command::Replay(args) => replay::run(&args),
        }
    }
}

impl Command {
    /// Whether it watches for signals itself.
    fn watches_itself(&self) -> bool {
        match self {
            Self::Pack(_) => true,
            #[cfg(feature = "serve")]
            Self::Serve(_) => true,
            _ => false,
        }
    }
}

/// A text given on the command line; `-`, or none where standard input is no terminal, is read
/// from there, `most` bytes of it.
fn text_or_stdin(text: Option<&str>, what: &str, most: u64) -> Result<String, Failure> {
    match text {
        Some("-") => {}
        Some(text) => return Ok(text.to_owned()),
        None if io::stdin().is_terminal() => {
            let message = format!("give {what}, or `-` to read it from standard input");
            return Err(Failure::Usage(message));
        }
        None => {}
    }
    read_text(io::stdin().lock(), most).map_err(Failure::file("standard input"))
}

/// Most bytes of a prompt: more than the longest context has, and it is RAM beside the budget.
const PROMPT_BYTES: u64 = 1 << 20;
/// Most bytes of a text that is cut into tokens, and of a file with token ids.
const TEXT_BYTES: u64 = 16 << 20;

/// Refuses to write a result over what it is made from.
fn spare<'p>(result: &Path, inputs: impl IntoIterator<Item = &'p Path>) -> Result<(), Failure> {
    let file = |path: &Path| path.metadata().ok().filter(|found| found.is_file());
    let Some(there) = file(result) else { return Ok(()) };
    let is_there =
        |found: std::fs::Metadata| (found.dev(), found.ino()) == (there.dev(), there.ino());
    match inputs.into_iter().find(|input| file(input).is_some_and(is_there)) {
        Some(_) => {
            let message = format!("{} is read for this: write to another file", result.display());
            Err(Failure::Usage(message))
        }
        None => Ok(()),
    }
}

/// Refuses to write two results to one file, be it there already or not.
fn apart(one: &Path, other: &Path) -> Result<(), Failure> {
    let place = |path: &Path| {
        let folder = folder_of(path).canonicalize().ok()?;
        let is_new = !path.exists() || path.is_file();
        is_new.then(|| path.file_name().map(|name| folder.join(name))).flatten()
    };
    if place(one).is_some_and(|there| Some(there) == place(other)) || spare(other, [one]).is_err() {
        let message = format!("{} is named for two results: name two files", other.display());
        return Err(Failure::Usage(message));
    }
    Ok(())
}

/// The text of a file.
fn read_file(path: &Path) -> Result<String, Failure> {
    File::open(path).and_then(|file| read_text(file, TEXT_BYTES)).map_err(Failure::file(path))
}

/// A text of at most `most` bytes.
fn read_text(from: impl Read, most: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    if from.take(most + 1).read_to_end(&mut bytes)? as u64 > most {
        let what = format!("longer than {}, the most that is read", Size(most));
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        io::Error::new(io::ErrorKind::InvalidData, format!("not UTF-8 from byte {at} on"))
    })
}

/// The token ids in a text file, separated by white space.
fn read_ids(path: &Path) -> Result<Vec<u32>, Failure> {
    let text = read_file(path)?;
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

/// The least budget that works to serve, of a program that can.
#[cfg(feature = "serve")]
fn least_to_serve(
    budget: &BudgetArgs,
    model: &Model,
    threads: Option<NonZeroUsize>,
) -> Result<Option<u64>, LoadError> {
    serve::least(budget, model, threads).map(Some)
}

#[cfg(not(feature = "serve"))]
fn least_to_serve(
    _: &BudgetArgs,
    _: &Model,
    _: Option<NonZeroUsize>,
) -> Result<Option<u64>, LoadError> {
    Ok(None)
}
