use std::io::Write;
use std::path::Path;

use rill::generate::{Ending, Free};
use rill::seams::Silent;
use rill_linux::engine::{Engine, Memory};
use rill_linux::talk::Talk;

use crate::args::{EngineArgs, GenerateArgs};
use crate::failure::Failure;
use crate::idle::Chores;
use crate::interrupt::{self, Doing};
use crate::saved;
use crate::talks::Talks;
use crate::terminal::{stdout, tell, tell_failure};
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
  /undo    take back the last question and its answer
  /regenerate  answer the last question again, with other random choices
  /reset   forget it and begin anew
  /new     begin another one beside it; /fork begins it with what was said so far
  /close   give this one up, and go on with another
  /switch N  go on with conversation N (--conversations says how many there can be)
  /stats   where the time went
  /save F  keep it in the file F
  /load F  go on with what is in F
  /help    this list
  /quit    leave (so does Ctrl-D)
Ctrl-C ends an answer. What you type is kept in RAM only, and in no file but those you /save, unless
--keep-beginnings says so. How often each expert was used is kept beside the image.";

pub fn run(args: &Args) -> Result<(), Failure> {
    let mut memory = Memory::new();
    let mut engine = args.generate.load(&args.engine, None, &mut memory)?;
    tell_failure(engine.recall());
    interrupt::now(Doing::Answer);
    let ended = converse(args, &mut engine);
    // However it ended.
    tell_failure(interrupt::unhurried(|| engine.keep()));
    ended
}

/// Holds conversations until they are left.
fn converse(args: &Args, engine: &mut Engine<'_>) -> Result<(), Failure> {
    let mut talks = Talks::begin(engine, args.system.as_deref())?;
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
            "/reset" => {
                talks.now().reset(engine)?;
                writeln!(stdout(), "forgotten")?;
            }
            "/undo" => match talks.now().undo(engine) {
                Some(question) => writeln!(stdout(), "taken back: {question}")?,
                None => writeln!(stdout(), "{NO_QUESTION}")?,
            },
            "/regenerate" => helped(again(args, engine, talks.now()))?,
            "/new" | "/fork" => match talks.add(engine, word == "/fork")? {
                Some(number) => writeln!(stdout(), "conversation {number}")?,
                None => writeln!(
                    stdout(),
                    "there is RAM for {} (--conversations N): /switch to one of them, or /close this one",
                    talks.list()
                )?,
            },
            "/close" => match talks.close(engine) {
                Some(number) => writeln!(stdout(), "closed; conversation {number}")?,
                None => writeln!(stdout(), "there is no other one: /reset begins it anew")?,
            },
            "/switch" if talks.switch(engine, rest.trim()) => {
                writeln!(stdout(), "conversation {}", rest.trim())?;
            }
            "/switch" => writeln!(stdout(), "{word} needs one of {}", talks.list())?,
            "/save" | "/load" if rest.is_empty() => {
                writeln!(stdout(), "{word} needs the name of a file")?;
            }
            "/save" => {
                let identity = engine.identity();
                let words = talks.now().said();
                let kept = saved::save(&mut engine.session, &words, identity, path);
                said(kept, &format!("kept in {}", path.display()))?;
            }
            "/load" => {
                let identity = engine.identity();
                let is_rendered = talks.now().is_rendered();
                let loaded = saved::load(&mut engine.session, is_rendered, identity, path);
                let loaded = loaded.map(|words| talks.now().restore(words));
                said(loaded, &format!("going on with {}", path.display()))?;
            }
            command if command.starts_with('/') => {
                writeln!(stdout(), "no command `{command}`; /help lists them")?;
            }
            _ => helped(ask(args, engine, talks.now(), line))?,
        }
    }
}

/// What there is to say where nothing can be taken back.
const NO_QUESTION: &str = "nothing was asked here since it began or was loaded";

/// What can be helped within the conversation does not end it.
fn helped(answered: Result<(), Failure>) -> Result<(), Failure> {
    match answered {
        Err(Failure::Session(error)) => tell(format_args!("error: {error} (/reset)")),
        Err(Failure::Template(error)) => tell(format_args!("error: {error}")),
        other => return other,
    }
    Ok(())
}

/// Says what was `done`, or tells the user of a file that could not be used; the conversation goes on.
fn said(outcome: Result<(), Failure>, done: &str) -> Result<(), Failure> {
    match outcome {
        Ok(()) => writeln!(stdout(), "{done}")?,
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
        // Somebody is about to type: it is said in the end.
        let _ = self.keep_meanwhile();
    }
}

/// Asks, and answers.
fn ask(args: &Args, engine: &mut Engine<'_>, talk: &mut Talk, line: &str) -> Result<(), Failure> {
    talk.ask(engine, line)?;
    answer(args, engine, talk)
}

/// Answers the last question again.
fn again(args: &Args, engine: &mut Engine<'_>, talk: &mut Talk) -> Result<(), Failure> {
    if talk.ask_again(engine)? {
        answer(args, engine, talk)
    } else {
        Ok(writeln!(stdout(), "{NO_QUESTION}")?)
    }
}

fn answer(args: &Args, engine: &mut Engine<'_>, talk: &mut Talk) -> Result<(), Failure> {
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
