use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use rill::answer::StopError;
use rill::sequence::SequenceError;
use rill_linux::answer::AnswerError;
use rill_linux::engine::LoadError;
use rill_linux::talk::TalkError;
use rill_template::TemplateError;

use crate::interrupt::is_hangup;
use crate::terminal::tell;

/// The exit status of a program that was asked to end: a shell's, of a process that SIGINT ended.
pub const INTERRUPTED: u8 = 130;

/// Why a command did not do what it was asked. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line asks for what is not there.
    #[error("{0}")]
    Usage(String),
    /// The model cannot be loaded.
    #[error("{0}{advice}", advice = load_advice(.0))]
    Load(LoadError),
    /// The model cannot go on.
    #[error("{0}{advice}", advice = advice(.0))]
    Session(#[from] SequenceError),
    /// The model's chat template does not render the conversation.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A stop string is not usable.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// A prompt does not fit into the context.
    #[error(
        "the prompt has at least {tokens} tokens, the context {context}: shorten it, or take a larger \
         context (-c)"
    )]
    Long {
        /// Of its texts; what the chat format puts around them may come to that.
        tokens: usize,
        /// Of the context.
        context: u32,
    },
    /// A file of the user cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The system refuses something else.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        error: io::Error,
    },
    /// The result cannot be written.
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
    /// Packing failed.
    #[error(transparent)]
    Pack(rill_pack::cli::Failure),
    /// Nothing was pulled.
    #[cfg(feature = "pull")]
    #[error("{0}")]
    Pull(String),
    /// The server does not start.
    #[cfg(feature = "serve")]
    #[error(transparent)]
    Serve(#[from] rill_serve::StartError),
    /// Parts of the image are not what was packed.
    #[error("{0} damaged; copy or pack the image again")]
    Damaged(String),
    /// Some prompts of a file have no answer.
    #[error("{0}")]
    Prompts(String),
    /// A signal asked to end.
    #[error("interrupted")]
    Interrupted,
}

/// The option that helps, after what went wrong.
fn load_advice(error: &LoadError) -> &'static str {
    match error {
        LoadError::Budget { server: 0, .. } => " (-c, --kv-tokens)",
        LoadError::Budget { .. } => {
            " (-c, --kv-tokens), or have the server take on less (--conversations, --connections, --body, --queue)"
        }
        LoadError::Group { .. } | LoadError::Ram { .. } => " (--ram)",
        _ => "",
    }
}

/// The option that helps, after what went wrong.
fn advice(error: &SequenceError) -> &'static str {
    match error {
        SequenceError::ContextFull { .. } => " (-c)",
        SequenceError::NoChat => " (--raw)",
        _ => "",
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::NoModel => Self::Usage(format!("{error} (-m)")),
            LoadError::Kernels { .. } => Self::Usage(error.to_string()),
            error => Self::Load(error),
        }
    }
}

impl From<TalkError> for Failure {
    fn from(error: TalkError) -> Self {
        match error {
            TalkError::Sequence(error) => Self::Session(error),
            TalkError::Template(error) => Self::Template(error),
        }
    }
}

impl From<AnswerError> for Failure {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Stop(error) => Self::Stop(error),
            AnswerError::Sequence(error) => Self::Session(error),
        }
    }
}

impl From<rill_pack::cli::Failure> for Failure {
    fn from(failure: rill_pack::cli::Failure) -> Self {
        match failure {
            rill_pack::cli::Failure::Stopped => Self::Interrupted,
            rill_pack::cli::Failure::Output(error) => Self::Output(error),
            failure => Self::Pack(failure),
        }
    }
}

impl Failure {
    /// Tells the user, and says what to tell the shell: 2 for a wrong command line, 130 after
    /// Ctrl-C or another request to end, else 1.
    pub fn report(self) -> ExitCode {
        match &self {
            Self::Interrupted => return ExitCode::from(INTERRUPTED),
            // Whoever read the result has seen enough. A file that is no pipe does not break.
            Self::Output(error) | Self::File { error, .. }
                if error.kind() == io::ErrorKind::BrokenPipe =>
            {
                return ExitCode::SUCCESS;
            }
            // The terminal is gone.
            Self::Output(error) if is_hangup(error) => return ExitCode::from(INTERRUPTED),
            _ => tell(format_args!("error: {self}")),
        }
        if matches!(self, Self::Usage(_)) { ExitCode::from(2) } else { ExitCode::FAILURE }
    }

    /// For results that are made of a file of the user's.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::File { path, error }
    }
}
