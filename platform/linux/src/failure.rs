use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use rill::answer::StopError;
use rill::engine::LoadError;
use rill::image::ImageError;
use rill::plan::PlanError;
use rill::sequence::SequenceError;
use rill::size::Size;
use rill_linux::storage::OpenError;
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
    /// The image cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The image cannot be used.
    #[error("{model}: {error}")]
    Image {
        /// Its path, or what the built-in one is called.
        model: String,
        /// What is wrong.
        error: ImageError,
    },
    /// The budget is too small.
    #[error(
        "budget {} is below the least that works, {}; close programs or use a smaller context (-c)",
        Size(*.budget),
        Size(*.least)
    )]
    Budget {
        /// Bytes of the whole process.
        budget: u64,
        /// The least that works.
        least: u64,
    },
    /// There is no plan for another reason.
    #[error(transparent)]
    Plan(PlanError),
    /// The RAM of the plan is not there.
    #[error("cannot get {} of RAM: {error}; use a smaller --ram", Size(*.bytes))]
    Ram {
        /// Bytes asked for.
        bytes: u64,
        /// What the system says.
        error: io::Error,
    },
    /// The model cannot be loaded.
    #[error("{model}: {error}")]
    Load {
        /// Its path, or what the built-in one is called.
        model: String,
        /// What is wrong.
        error: LoadError,
    },
    /// The model cannot go on.
    #[error("{0}{advice}", advice = advice(.0))]
    Session(#[from] SequenceError),
    /// The model's chat template does not render the conversation.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A stop string is not usable.
    #[error(transparent)]
    Stop(#[from] StopError),
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
    /// Parts of the image are not what was packed.
    #[error("{0} damaged; copy or pack the image again")]
    Damaged(String),
    /// A signal asked to end.
    #[error("interrupted")]
    Interrupted,
}

/// The option that helps, after what went wrong.
fn advice(error: &SequenceError) -> &'static str {
    match error {
        SequenceError::ContextFull { .. } => " (-c)",
        SequenceError::NoChat => " (--raw)",
        _ => "",
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
            // Whoever read the result has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
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
