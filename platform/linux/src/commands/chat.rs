use std::io::{self, Write, stdout};

use rill::chat::Role;
use rill::generate::Ending;
use rill::image::Template;
use rill::session::SessionError;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::engine::{Engine, EngineArgs};
use crate::failure::Failure;
use crate::generate::GenerateArgs;
use crate::interrupt;

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
  /help    this list
  /quit    leave (so does Ctrl-D)
Ctrl-C ends an answer. What you type is kept in RAM only, never in a file.";

pub fn run(args: &Args) -> Result<(), Failure> {
    interrupt::watch()?;
    let generate = &args.generate;
    let mut engine = args.engine.load(None, generate.sampling(), generate.seed)?;
    match engine.session.chat().template {
        Template::Same => {}
        Template::Differs => eprintln!(
            "note: this model was trained with another chat format; its answers may be poor"
        ),
        Template::Missing => eprintln!(
            "note: this model does not say what chat format it was trained with; it may not chat"
        ),
    }
    begin(args, &mut engine)?;
    let mut editor = DefaultEditor::new().map_err(terminal)?;
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(terminal(error)),
        };
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        // A history that is full forgets its oldest line.
        let _ = editor.add_history_entry(line);
        match line {
            "/quit" | "/exit" => return Ok(()),
            "/help" => println!("{HELP}"),
            "/stats" => println!("{}", engine.report()),
            "/reset" => begin(args, &mut engine)?,
            command if command.starts_with('/') => {
                println!("no command `{command}`; /help lists them");
            }
            message => match answer(args, &mut engine, message) {
                Ok(()) => {}
                // What can be helped within the conversation does not end it.
                Err(Failure::Session(error)) => eprintln!("\nerror: {error} (/reset)"),
                Err(failure) => return Err(failure),
            },
        }
    }
}

/// Begins a conversation.
fn begin(args: &Args, engine: &mut Engine) -> Result<(), SessionError> {
    engine.session.reset();
    match &args.system {
        Some(system) => engine.session.append_message(Role::System, system),
        None => Ok(()),
    }
}

fn answer(args: &Args, engine: &mut Engine, message: &str) -> Result<(), Failure> {
    engine.session.append_message(Role::User, message)?;
    engine.session.begin_answer()?;
    let ending = args.generate.generate(engine, |text| {
        let mut out = stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    })?;
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
