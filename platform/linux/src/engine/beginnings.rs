//! Known beginnings of conversations, kept beside the image for the next run: what a restart or a power
//! cut does not take.
//!
//! A sealed file with what [`save_beginnings`](rill::engine::Engine::save_beginnings) writes. What was
//! said can be read from it, and whoever writes it decides what the model takes for said: it is the
//! user's alone.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rill::engine::Engine;
use rill::saving::SaveError;

use crate::regular;
use crate::replace::with_ending;
use crate::sealed::{Seal, SealError};

const MAGIC: [u8; 8] = *b"RILLPREF";
/// Another one where the same tokens give other keys and values, too.
const VERSION: u64 = 1;
/// Flash wears out: while a program runs, so much time passes between two writes.
const PACE: Duration = Duration::from_secs(900);

/// Why known beginnings were not kept or not taken back.
#[derive(Debug, thiserror::Error)]
pub enum BeginningsError {
    /// They cannot be written.
    #[error("{}: what is known of conversations is not kept: {error}", path.display())]
    Write {
        /// Where to.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file cannot be used.
    #[error("{}: what was kept of conversations is not used: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// The file that they are in, and what is in it.
#[derive(Debug)]
pub(super) struct Beginnings {
    path: PathBuf,
    /// Most bytes of the file, and whether one that was read has more.
    most: u64,
    is_large: bool,
    image: u64,
    /// What was known when it was written, and when that was.
    remembered: u64,
    written: Option<Instant>,
}

impl Beginnings {
    /// Of `image` (what tells images apart); the names of what is kept for it begin with `kept`.
    pub(super) fn new(kept: &Path, image: u64, most: u64) -> Self {
        let path = with_ending(kept, ".beginnings");
        Self { path, most, is_large: false, image, remembered: 0, written: None }
    }

    /// Lets the engine know what is in the file, also where that is larger than the next one may be: the
    /// most useful of it is kept. Without one, or where it cannot be used, it knows nothing.
    pub(super) fn recall(&mut self, core: &mut Engine<'_>) -> Result<(), BeginningsError> {
        match self.read(core).inspect_err(|_| core.forget()) {
            Ok(len) => self.is_large = len > self.most,
            Err(SealError::Read(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(BeginningsError::Read { path: self.path.clone(), why: why(error) });
            }
        }
        Ok(())
    }

    /// Says how many bytes the file has.
    fn read(&self, core: &mut Engine<'_>) -> Result<u64, SealError> {
        let file = regular::open_own(&self.path)?;
        let len = file.metadata()?.len();
        let mut content = self.seal(core).open(BufReader::new(file))?;
        // What it says counts only if all of it is right: see `recall`.
        match core.restore_beginnings(|bytes| content.read_exact(bytes)) {
            Ok(_) => content.finish().map(|_| len),
            Err(SaveError::Keeper(error)) => Err(error.into()),
            Err(SaveError::Damaged | SaveError::Sequence(_)) => Err(SealError::Damaged),
        }
    }

    /// Keeps what is known now, if that is more than what is in the file, or the file is too large.
    pub(super) fn keep(&mut self, core: &mut Engine<'_>) -> Result<(), BeginningsError> {
        if core.remembered() == self.remembered && !self.is_large {
            return Ok(());
        }
        let most = self.most.saturating_sub(Seal::BYTES);
        let written =
            self.seal(core).write(&self.path, |put| core.save_beginnings(most, put).map(drop));
        self.written = Some(Instant::now());
        written.map_err(|error| BeginningsError::Write { path: self.path.clone(), error })?;
        (self.remembered, self.is_large) = (core.remembered(), false);
        Ok(())
    }

    /// As [`Self::keep`], now and then.
    pub(super) fn keep_meanwhile(&mut self, core: &mut Engine<'_>) -> Result<(), BeginningsError> {
        match self.written {
            Some(written) if written.elapsed() < PACE => Ok(()),
            _ => self.keep(core),
        }
    }

    fn seal(&self, core: &Engine<'_>) -> Seal {
        Seal { magic: MAGIC, version: VERSION, image: self.image, kv: core.kv_format() }
    }
}

/// What is wrong with a file, in words.
fn why(error: SealError) -> String {
    match error {
        SealError::Read(error) => error.to_string(),
        SealError::Kind => "it is none of this program".into(),
        SealError::Image => "it belongs to another model".into(),
        SealError::Format(kv) => format!("its keys and values are kept as {}", kv.name()),
        SealError::Damaged => "it is damaged".into(),
    }
}
