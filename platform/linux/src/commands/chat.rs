use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread::Builder;
use std::time::Duration;

use rill::generate::Ending;
use rill::seams::Silent;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::engine::{Engine, EngineArgs};
use crate::failure::Failure;
use crate::generate::GenerateArgs;
use crate::idle::{Chores, Lines, next_line};
use crate::interrupt;
use crate::saved;
use crate::talk::Talk;

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
    interrupt::watch()?;
    let generate = &args.generate;
    let mut engine = args.engine.load(None, generate.sampling(), generate.seed)?;
    engine.recall();
    let mut talk = Talk::begin(&mut engine, args.system.as_deref())?;
    let mut lines = Terminal::start()?;
    loop {
        let line = match lines.next(&mut engine)? {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(terminal(error)),
        };
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let path = Path::new(rest.trim());
        match word {
            "" => {}
            "/quit" | "/exit" => break,
            "/help" => println!("{HELP}"),
            "/stats" => println!("{}", engine.report()),
            "/reset" => talk.reset(&mut engine)?,
            "/save" | "/load" if rest.is_empty() => println!("{word} needs the name of a file"),
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
                println!("no command `{command}`; /help lists them");
            }
            _ => match answer(args, &mut engine, &mut talk, line) {
                Ok(()) => {}
                // What can be helped within the conversation does not end it.
                Err(Failure::Session(error)) => eprintln!("\nerror: {error} (/reset)"),
                Err(Failure::Template(error)) => eprintln!("error: {error}"),
                Err(failure) => return Err(failure),
            },
        }
    }
    engine.keep();
    Ok(())
}

/// Tells the user of a file that could not be used; the conversation goes on.
fn said(outcome: Result<(), Failure>) -> Result<(), Failure> {
    match outcome {
        Err(failure @ (Failure::File { .. } | Failure::Session(_))) => {
            eprintln!("error: {failure}")
        }
        other => return other,
    }
    Ok(())
}

/// What the user types, read by a thread of its own: meanwhile experts are read ahead of the
/// question.
struct Terminal {
    ask: SyncSender<()>,
    typed: Receiver<Result<String, ReadlineError>>,
}

impl Terminal {
    fn start() -> Result<Self, Failure> {
        let mut editor = DefaultEditor::new().map_err(terminal)?;
        let (ask, asked) = sync_channel(1);
        let (tell, typed) = sync_channel(1);
        let read = move || {
            while asked.recv().is_ok() {
                let line = editor.readline("> ");
                if let Some(line) = line.as_ref().ok().filter(|line| !line.trim().is_empty()) {
                    // A history that is full forgets its oldest line.
                    let _ = editor.add_history_entry(line.as_str());
                }
                if tell.send(line).is_err() {
                    break;
                }
            }
        };
        let failed = |error| Failure::System { what: "cannot start threads", error };
        Builder::new().name("rill-lines".into()).spawn(read).map_err(failed)?;
        Ok(Self { ask, typed })
    }

    /// Asks for a line and waits for it.
    fn next(&mut self, engine: &mut Engine) -> Result<Result<String, ReadlineError>, Failure> {
        self.ask.send(()).map_err(|_| gone())?;
        next_line(self, engine)
    }
}

impl Lines for Terminal {
    type Line = Result<String, ReadlineError>;
    type Error = Failure;

    fn poll(&mut self) -> Result<Option<Self::Line>, Failure> {
        match self.typed.try_recv() {
            Ok(line) => Ok(Some(line)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(gone()),
        }
    }

    fn wait(&mut self, time: Option<Duration>) -> Result<Option<Self::Line>, Failure> {
        let Some(time) = time else { return self.typed.recv().map(Some).map_err(|_| gone()) };
        match self.typed.recv_timeout(time) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }
}

impl Chores for Engine {
    fn warm(&mut self) -> bool {
        Self::warm(self)
    }

    fn keep(&mut self) {
        Self::keep(self);
    }
}

fn gone() -> Failure {
    let error = io::ErrorKind::BrokenPipe.into();
    Failure::System { what: "cannot read from the terminal", error }
}

fn answer(args: &Args, engine: &mut Engine, talk: &mut Talk, message: &str) -> Result<(), Failure> {
    talk.ask(engine, message)?;
    let mut voice = args.generate.voice();
    let ending = args
        .generate
        .generate(engine, Some(talk), &mut Silent, |part, text| voice.say(part, text))?;
    voice.finish()?;
    println!();
    match ending {
        Ending::ContextFull => eprintln!("note: the context is full: /reset, or a larger one (-c)"),
        Ending::Interrupted => eprintln!("note: interrupted"),
        Ending::Stop | Ending::MaxTokens => {}
    }
    Ok(())
}

fn terminal(error: ReadlineError) -> Failure {
    Failure::System { what: "cannot read from the terminal", error: io::Error::other(error) }
}
