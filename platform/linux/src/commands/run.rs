use std::io::{Write, stdout};

use rill::chat::Role;
use rill::generate::Ending;
use rill::report::Report;
use rill::seams::Silent;
use serde::Serialize;

use super::text_or_stdin;
use crate::engine::EngineArgs;
use crate::failure::Failure;
use crate::generate::GenerateArgs;
use crate::interrupt;

/// Answer a prompt
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to answer; `-` reads it from standard input
    prompt: Option<String>,
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
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  rill run \"Why is the sky blue?\"
  rill run -m model.rill --ram 900MiB --stats \"Why is the sky blue?\"
  rill run -m model.rill --system \"Answer in French.\" - < question.txt
  rill run -m model.rill --raw -n 64 \"Once upon a time\"";

#[derive(Serialize)]
struct Output {
    text: String,
    ending: Ending,
    #[serde(flatten)]
    stats: Report,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let prompt = text_or_stdin(args.prompt.as_deref(), "a prompt")?;
    interrupt::watch()?;
    let generate = &args.generate;
    let mut engine = args.engine.load(None, generate.sampling(), generate.seed)?;
    engine.recall();
    let session = &mut engine.session;
    if args.raw {
        session.append_text(&prompt)?;
    } else {
        if let Some(system) = &args.system {
            session.append_message(Role::System, system)?;
        }
        session.append_message(Role::User, &prompt)?;
        session.begin_answer()?;
    }
    let mut text = String::new();
    let ending = generate.generate(&mut engine, &mut Silent, |piece| {
        if args.json {
            text.push_str(piece);
            return Ok(());
        }
        let mut out = stdout().lock();
        out.write_all(piece.as_bytes())?;
        out.flush()
    })?;
    let stats = engine.report();
    engine.keep();
    let mut out = stdout().lock();
    if args.stats {
        eprintln!("\n{stats}");
    }
    if args.json {
        serde_json::to_writer_pretty(&mut out, &Output { text, ending, stats })
            .map_err(std::io::Error::from)?;
    }
    writeln!(out)?;
    match ending {
        Ending::Interrupted => Err(Failure::Interrupted),
        Ending::ContextFull => {
            eprintln!("note: the context is full; a larger one (-c) lets the answer go on");
            Ok(())
        }
        Ending::Stop | Ending::MaxTokens => Ok(()),
    }
}
