use std::io::Write;
use std::path::Path;

use rill::generate::{Ending, Free};
use rill::seams::Silent;
use rill_linux::engine::{Engine, Memory};
use rill_linux::talk::Talk;

use crate::args::{EngineArgs, GenerateArgs, begin_talk};
use crate::failure::Failure;
use crate::idle::Chores;
use crate::interrupt::{self, Doing};
use crate::saved;
use crate::terminal::{stdout, tell};
use crate::typed::{Keyboard, Typed, failed};

/// Talk with a model
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    generate: GenerateArgs,
    /// Instruction that comes before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
}

const HELP: &str = "\
In a conversation:
  /reset   forget it and begin anew
  /stats   where the time went
  /save F  keep it in the file F
  /load F  go on with what is in F
  /help    this list
  /quit    leave (so does Ctrl-D)
Ctrl-C ends an answer. What you type is kept in RAM only, and in no file but those you /save. How
often each expert was used is kept beside the image.";

pub fn run(args: &Args) -> Result<(), Failure> {
    let mut memory = Memory::new();
    let mut engine = args.generate.load(&args.engine, None, &mut memory)?;
    engine.recall();
    interrupt::now(Doing::Answer);
    let ended = converse(args, &mut engine);
    // However it ended.
    engine.keep();
    ended
}

/// Holds the conversation until it is left.
fn converse(args: &Args, engine: &mut Engine<'_>) -> Result<(), Failure> {
    let mut talk = begin_talk(engine, args.system.as_deref())?;
    let mut keyboard = Keyboard::start()?;
    loop {
        let (line, note) = match keyboard.next(engine)? {
            Typed::Line(line, note) => (line, note),
            Typed::Nothing => continue,
            Typed::End => return Ok(()),
            Typed::Leave => return Err(Failure::Interrupted),
            Typed::Failed(error) => return Err(failed(error)),
        };
        if let Some(note) = note {
            tell(format_args!("note: {note}"));
        }
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let path = Path::new(rest.trim());
        match word {
            "" => {}
            "/quit" | "/exit" => return Ok(()),
            "/help" => writeln!(stdout(), "{HELP}")?,
            "/stats" => writeln!(stdout(), "{}", engine.report())?,
            "/reset" => talk.reset(engine)?,
            "/save" | "/load" if rest.is_empty() => {
                writeln!(stdout(), "{word} needs the name of a file")?;
            }
            "/save" => {
                let identity = engine.identity();
                let words = talk.said();
                said(saved::save(&mut engine.session, &words, identity, path))?;
            }
            "/load" => {
                let identity = engine.identity();
                let loaded = saved::load(&mut engine.session, identity, path);
                said(loaded.map(|words| talk.restore(&words)))?;
            }
            command if command.starts_with('/') => {
                writeln!(stdout(), "no command `{command}`; /help lists them")?;
            }
            _ => match answer(args, engine, &mut talk, line) {
                Ok(()) => {}
                // What can be helped within the conversation does not end it.
                Err(Failure::Session(error)) => tell(format_args!("error: {error} (/reset)")),
                Err(Failure::Template(error)) => tell(format_args!("error: {error}")),
                Err(failure) => return Err(failure),
            },
        }
    }
}

/// Tells the user of a file that could not be used; the conversation goes on.
fn said(outcome: Result<(), Failure>) -> Result<(), Failure> {
    match outcome {
        Err(failure @ (Failure::File { .. } | Failure::Session(_))) => {
            tell(format_args!("error: {failure}"));
        }
        other => return other,
    }
    Ok(())
}

impl Chores for Engine<'_> {
    fn warm(&mut self) -> bool {
        Self::warm(self)
    }

    fn keep(&mut self) {
        Self::keep(self);
    }
}

fn answer(
    args: &Args,
    engine: &mut Engine<'_>,
    talk: &mut Talk,
    message: &str,
) -> Result<(), Failure> {
    talk.ask(engine, message)?;
    let mut voice = args.generate.voice();
    let say = |part, text: &str| voice.say(part, text);
    let ending = args.generate.generate(engine, Some(talk), &mut Silent, &mut Free, say);
    voice.finish()?;
    let ending = ending?;
    writeln!(stdout())?;
    match ending {
        Ending::ContextFull => tell("note: the context is full: /reset, or a larger one (-c)"),
        Ending::Interrupted => tell("note: interrupted"),
        Ending::Stop | Ending::MaxTokens => {}
    }
    Ok(())
}
