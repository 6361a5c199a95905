use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rill_linux::engine::LoadError;
use rill_linux::model::Model;
use rill_linux::storage::Via;

/// Which model.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// Image of the model, made by `rill pack`; without it, the small one built into this program
    #[arg(short, long, value_name = "IMAGE")]
    model: Option<PathBuf>,
    /// How the image is read
    #[arg(long, value_enum, default_value = "best", hide_short_help = true)]
    io: Io,
}

/// What reads an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Io {
    /// io_uring where the kernel allows it, threads elsewhere
    Best,
    /// io_uring only
    Uring,
    /// Threads only
    Threads,
}

impl ModelArgs {
    /// The file of the image, if it is one.
    pub fn path(&self) -> Option<&Path> {
        self.model.as_deref()
    }

    /// The same for another image.
    pub fn at(&self, path: &Path) -> Self {
        Self { model: Some(path.into()), ..*self }
    }

    /// What reads it.
    pub fn via(&self) -> Via {
        match self.io {
            Io::Best => Via::Best,
            Io::Uring => Via::Uring,
            Io::Threads => Via::Threads,
        }
    }

    /// Opens the image and checks header and manifest.
    pub fn open(&self) -> Result<Model, LoadError> {
        Model::open(self.path(), self.via())
    }
}
