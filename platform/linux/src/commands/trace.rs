use std::io::Write;
use std::path::PathBuf;

use rill::generate::{Ending, Free};
use rill_linux::engine::Memory;
use rill_linux::replace::NewFile;

use super::{PROMPT_BYTES, read_ids, spare, text_or_stdin};
use crate::args::{EngineArgs, GenerateArgs, begin_talk};
use crate::failure::Failure;
use crate::interrupt;
use crate::routes::Routes;
use crate::terminal::stdout;

/// Record which experts the tokens of a run use
///
/// What is recorded does not depend on the budget: `rill replay` shows what each would do.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to answer; `-` reads it from standard input
    #[arg(conflicts_with = "ids")]
    prompt: Option<String>,
    /// Text file with token ids to feed instead, for prompt and answer alike
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// Where to write the trace
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Continue the prompt as it is, without the chat format
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    generate: GenerateArgs,
}

const EXAMPLES: &str = "\
Examples:
  rill trace -m model.rill -o story.trace \"Tell me a story about a fox and a kite.\"
  rill trace -m model.rill -o text.trace --ids text.ids
  rill replay text.trace";

pub fn run(args: &Args) -> Result<(), Failure> {
    spare(&args.output, args.engine.image().into_iter().chain(args.ids.as_deref()))?;
    let ids = args.ids.as_deref().map(read_ids).transpose()?;
    let prompt = match &ids {
        Some(_) => String::new(),
        None => text_or_stdin(args.prompt.as_deref(), "a prompt", PROMPT_BYTES)?,
    };
    let generate = &args.generate;
    let tokens = ids.as_ref().map(|ids| u32::try_from(ids.len()).unwrap_or(u32::MAX));
    // A token is to be recorded once, and nothing that was only guessed.
    let mut options = args.engine.clone();
    options.no_draft = true;
    let mut memory = Memory::new();
    let mut engine = generate.load(&options, tokens, &mut memory)?;
    if engine.budget.plan.pages == 0 {
        return Err(Failure::Usage("this model has no experts: there is nothing to record".into()));
    }
    let mut out = NewFile::output(&args.output).map_err(Failure::file(&args.output))?;
    let mut routes = Routes::new(&engine.image);
    let mut talk = None;
    match &ids {
        Some(ids) => engine.session.append(ids)?,
        None if args.raw => engine.session.append_text(&prompt)?,
        None => talk.insert(begin_talk(&mut engine, None)?).ask(&mut engine, &prompt)?,
    }
    let prompt_tokens = engine.session.tokens().len();
    while engine.session.compute_every(&mut engine.machine.world(&mut routes))? {
        interrupt::check()?;
    }
    if ids.is_none() {
        routes.head.prompt_tokens = prompt_tokens;
        let talk = talk.as_mut();
        let ending = generate.generate(&mut engine, talk, &mut routes, &mut Free, |_, _| Ok(()))?;
        if ending == Ending::Interrupted {
            return Err(Failure::Interrupted);
        }
    }
    let written = routes.write(&mut out).and_then(|()| out.finish());
    written.map_err(Failure::file(&args.output))?;
    writeln!(stdout(), "{}: {} tokens", args.output.display(), routes.head.tokens)?;
    Ok(())
}
