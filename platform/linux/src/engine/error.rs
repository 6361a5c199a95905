use std::io;
use std::path::PathBuf;

use rill::image::ImageError;
use rill::plan::PlanError;
use rill::size::Size;

use crate::memory::GroupLimit;
use crate::storage::OpenError;

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no model inside, and none was named.
    #[error("this program has no model inside: name an image")]
    NoModel,
    /// The CPU does not have these kernels.
    #[error("this CPU has no kernels `{name}`; it has {}", known.join(", "))]
    Kernels {
        /// What was asked for.
        name: String,
        /// The names of those that it has.
        known: Vec<&'static str>,
    },
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
    /// The folder for what runs find out is none.
    #[error("{}: not a folder", .0.display())]
    State(PathBuf),
    /// Nobody says what RAM is free.
    #[error("cannot find out what RAM is free: {0}")]
    Free(io::Error),
    /// The budget is too small.
    #[error(
        "budget {} is below the least that works, {}{}; close programs or use a smaller context",
        Size(*.budget),
        Size(*.least),
        of_server(*.server)
    )]
    Budget {
        /// Bytes of the whole process.
        budget: u64,
        /// The least that works.
        least: u64,
        /// Of that, what a server takes besides what every program with a model does.
        server: u64,
    },
    /// The budget is more than this process may have.
    #[error(
        "budget {} is above {}, the limit of the memory control group {}, where the kernel ends the \
         process; name at most {} bytes, or raise the limit",
        Size(*.budget),
        Size(.limit.bytes),
        .limit.group.display(),
        .limit.bytes
    )]
    Group {
        /// Bytes of the whole process.
        budget: u64,
        /// The least limit of the groups around this process.
        limit: GroupLimit,
    },
    /// There is no plan for another reason.
    #[error(transparent)]
    Plan(PlanError),
    /// The RAM of the plan is not there.
    #[error("cannot get {} of RAM: {error}; use a smaller budget", Size(*.bytes))]
    Ram {
        /// Bytes asked for.
        bytes: u64,
        /// What the system says.
        error: io::Error,
    },
    /// The arena is smaller than its plan.
    #[error("{model}: {error}")]
    Engine {
        /// Its path, or what the built-in one is called.
        model: String,
        /// What is wrong.
        error: rill::engine::LoadError,
    },
}

/// What of the least that works is a server's.
fn of_server(bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        bytes => format!(", of which the server itself takes {}", Size(bytes)),
    }
}
