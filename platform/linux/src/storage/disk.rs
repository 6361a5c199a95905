use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rill::seams::{Completion, Geometry, Read, Storage, StorageError};

use super::queue::Queue;
use super::source::Source;
use super::threads::threads;
use super::uring::uring;

/// An image file.
#[derive(Debug)]
pub struct Disk {
    source: Arc<Source>,
    queue: Box<dyn Queue>,
}

/// Which back end to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Via {
    /// io_uring where the kernel allows it, threads elsewhere.
    #[default]
    Best,
    /// io_uring only.
    Uring,
    /// Threads only.
    Threads,
}

/// Why a file cannot be used as a [`Disk`].
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be opened.
    #[error("cannot open {}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The back end does not start.
    #[error("cannot read in the background: {0}")]
    Queue(io::Error),
}

impl Disk {
    /// Opens an image file.
    pub fn open(path: &Path, via: Via) -> Result<Self, OpenError> {
        Self::open_at(path, 0, via)
    }

    /// Opens a file that has an image from byte `offset` on, a multiple of 16 KiB.
    pub fn open_at(path: &Path, offset: u64, via: Via) -> Result<Self, OpenError> {
        let source = Source::open(path, offset)
            .map_err(|error| OpenError::File { path: path.to_path_buf(), error })?;
        let source = Arc::new(source);
        let ring = || uring(Arc::clone(&source)).map(|ring| Box::new(ring) as Box<dyn Queue>);
        let pool = || threads(Arc::clone(&source)).map(|pool| Box::new(pool) as Box<dyn Queue>);
        let queue = match via {
            Via::Best => ring().or_else(|_| pool()),
            Via::Uring => ring(),
            Via::Threads => pool(),
        };
        Ok(Self { queue: queue.map_err(OpenError::Queue)?, source })
    }

    /// The file.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What the user should know, in one line.
    pub fn note(&self) -> Option<&str> {
        self.source.note()
    }

    /// What performs the reads.
    pub fn queue(&mut self) -> &mut dyn Queue {
        &mut *self.queue
    }

    /// Threads that perform the reads.
    pub fn threads(&self) -> usize {
        self.queue.threads()
    }

    /// Name of what performs the reads.
    pub fn via(&self) -> &'static str {
        self.queue.name()
    }
}

impl Storage<'static> for Disk {
    fn geometry(&self) -> Geometry {
        self.queue.geometry()
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        self.queue.read_at(offset, into)
    }

    fn rest(&mut self, attempt: u8) {
        self.queue.rest(attempt);
    }

    fn submit(&mut self, read: Read<'static>) -> Result<(), Read<'static>> {
        self.queue.submit(read)
    }

    fn hurry(&mut self, tag: u32) {
        self.queue.hurry(tag);
    }

    fn abandon(&mut self, tag: u32) {
        self.queue.abandon(tag);
    }

    fn poll(&mut self) -> Option<Completion<'static>> {
        self.queue.poll()
    }

    fn wait(&mut self) -> Option<Completion<'static>> {
        self.queue.wait()
    }
}
