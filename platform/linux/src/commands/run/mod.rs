mod answers;
mod file;
mod line;
mod prompts;

use std::io::Write;
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use rill::generate::Ending;
use rill::report::Report;
use rill::sampler::MOST_LOGPROBS;
use rill::seams::Silent;
use rill::sequence::SequenceError;
use rill_linux::answer::hear;
use rill_linux::engine::{Engine, Memory};
use serde::Serialize;

use super::{PROMPT_BYTES, text_or_stdin};
use crate::args::{EngineArgs, GenerateArgs, begin_talk};
use crate::failure::Failure;
use crate::interrupt;
use crate::logprobs::{Choices, Listener};
use crate::terminal::{stdout, tell, tell_failure};

/// Answer a prompt
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to answer; `-` reads it from standard input
    prompt: Option<String>,
    /// Answer a file of prompts: a JSON string or object a line; see below
    #[arg(long, value_name = "PROMPTS.jsonl", group = "as_json")]
    file: Option<PathBuf>,
    /// With --file: where the answers go, a JSON object a line, in order; the same command goes on where
    /// it was ended [default: standard output]
    #[arg(long, value_name = "ANSWERS.jsonl", requires = "file")]
    out: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    generate: GenerateArgs,
    /// Instruction that comes before the prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Continue the prompt as it is, without the chat format
    #[arg(long)]
    raw: bool,
    /// Say on standard error where the time went
    #[arg(long)]
    stats: bool,
    /// Print one JSON object: the answer and where the time went
    #[arg(long, group = "as_json")]
    json: bool,
    /// With --json or --file: log-probabilities of each token and of so many of the best in its place, by the
    /// model alone, before penalties and temperature
    #[arg(long, value_name = "K", requires = "as_json", value_parser = ranged(MOST_LOGPROBS))]
    logprobs: Option<usize>,
}

const EXAMPLES: &str = "\
Examples:
  rill run \"Why is the sky blue?\"
  rill run -m model.rill --ram 900MiB --stats \"Why is the sky blue?\"
  rill run -m model.rill --system \"Answer in French.\" - < question.txt
  rill run -m model.rill --raw -n 64 \"Once upon a time\"
  rill run -m model.rill --file prompts.jsonl --out answers.jsonl --conversations 4

A line of --file is a prompt, as a JSON string, or an object with `prompt` or `messages` (a list of
{\"role\": \"system\", \"user\" or \"assistant\", \"content\": ...}, the last of them the user's). An object
may also have `id`, `system`, `max_tokens`, `seed`, `stop`, `temperature`, `top_k`, `top_p` and `min_p`,
which go before the options. Each answer has the `line` and `id` of its prompt, and is what it would be
alone; --conversations N answers N side by side. A line that cannot be answered has an `error`, and exit
status 1 in the end.";

#[derive(Serialize)]
struct Output<'r> {
    text: String,
    /// What the model thought before it answered; `None` for one that did not.
    thinking: Option<String>,
    ending: Ending,
    /// Of every token of the answer, thinking and what ends it included.
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Choices<'r>>,
    #[serde(flatten)]
    stats: &'r Report<'r>,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    if let Some(path) = &args.file {
        // Said here: with `conflicts_with` clap does not ask for what --out and --logprobs require.
        return match &args.prompt {
            Some(_) => Err(Failure::Usage("give a prompt or --file, not both".into())),
            None => file::run(args, path),
        };
    }
    let prompt = text_or_stdin(args.prompt.as_deref(), "a prompt", PROMPT_BYTES)?;
    let generate = &args.generate;
    let mut memory = Memory::new();
    let mut engine = generate.load(&args.engine, None, &mut memory)?;
    tell_failure(engine.recall());
    let mut talk = None;
    let asked = if args.raw {
        engine.session.append_text(&prompt).map_err(Failure::from)
    } else {
        let talk = talk.insert(begin_talk(&mut engine, args.system.as_deref())?);
        talk.ask(&mut engine, &prompt).map_err(Failure::from)
    };
    asked.map_err(|failure| refused(&mut engine, args.raw, &[&prompt], failure))?;
    let (mut text, mut thinking) = (String::new(), None::<String>);
    let mut voice = generate.voice();
    let mut listener = Listener::new(args.logprobs);
    let say = |part, piece: &str| {
        if args.json {
            hear(&mut text, &mut thinking, part, piece);
            return Ok(());
        }
        voice.say(part, piece)
    };
    let ending = generate.generate(&mut engine, talk.as_mut(), &mut Silent, &mut listener, say);
    voice.finish()?;
    tell_failure(interrupt::unhurried(|| engine.keep()));
    let ending = ending?;
    let stats = engine.report();
    let mut out = stdout();
    if args.json {
        let logprobs = listener.choices(engine.session.tokenizer());
        let output = Output { text, thinking, ending, logprobs, stats: &stats };
        serde_json::to_writer_pretty(&mut out, &output).map_err(std::io::Error::from)?;
    }
    writeln!(out)?;
    if args.stats {
        tell(&stats);
    }
    match ending {
        Ending::Interrupted => Err(Failure::Interrupted),
        Ending::ContextFull => {
            tell("note: the context is full; a larger one (-c) lets the answer go on");
            Ok(())
        }
        Ending::Stop | Ending::MaxTokens => Ok(()),
    }
}

/// Why texts cannot be asked: where they are too long, how long they are.
fn refused(engine: &mut Engine<'_>, raw: bool, texts: &[&str], failure: Failure) -> Failure {
    let Failure::Session(SequenceError::ContextFull { context, needed }) = failure else {
        return failure;
    };
    let (core, _) = engine.session.parts();
    let count = |text: &&str| core.encode(text, raw, &mut vec![0; text.len()]).ok();
    let tokens = needed.unwrap_or_else(|| texts.iter().filter_map(count).sum());
    Failure::Long { tokens, context }
}

/// A whole number of at most `most`.
fn ranged(most: usize) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(..=most as u64)
}
