use std::io::{self, BufWriter, ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};

use rill::image::{Manifest, ManifestError};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::image::{self, WriteError};
use crate::manifest;
use crate::matrix::MatrixError;
use crate::options::{Options, Progress};
use crate::summary::Summary;
use crate::target::Target;
use crate::vocabulary::{self, PackedVocabulary};

/// Bytes gathered before they go to the file.
const BUFFER: usize = 1 << 20;

/// Why a checkpoint was not packed. Nothing is left of the attempt, and a file that was there
/// before is untouched.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The source cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model is beyond what an image can describe.
    #[error("the model cannot be packed: {0}")]
    Manifest(#[from] ManifestError),
    /// A weight cannot be expressed.
    #[error(transparent)]
    Weight(MatrixError),
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] vocabulary::VocabularyError),
    /// There is no room for the image.
    #[error("the disk is full: {path} needs {needed} bytes in its folder; free some and try again")]
    DiskFull {
        /// The image.
        path: PathBuf,
        /// Its size.
        needed: u64,
    },
    /// The image cannot be written.
    #[error("{path} cannot be written: {error}")]
    Write {
        /// The image.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The caller asked to stop.
    #[error("stopped; nothing was written")]
    Cancelled,
}

/// Packs `source`, a GGUF file or a Hugging Face folder, into the image `output`.
///
/// The image is written beside `output` under a temporary name, synced, and renamed when it is
/// complete: whatever happens, `output` is either as before or whole. What a killed attempt left
/// behind is removed by the next one.
pub fn pack(
    source: &Path,
    output: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Summary, PackError> {
    let checkpoint = Checkpoint::open(source)?;
    let job = Job::new(&checkpoint, output, options)?;
    let failed = |error| job.failed(error);
    let mut target = Target::create(output).map_err(failed)?;
    let mut writer = BufWriter::with_capacity(BUFFER, target.file());
    let summary = job.run(&mut writer, progress)?;
    writer.into_inner().map_err(|error| failed(error.into_error()))?;
    target.commit().map_err(failed)?;
    Ok(summary)
}

/// A checkpoint and all that is decided before anything is written.
struct Job<'c> {
    checkpoint: &'c Checkpoint,
    words: PackedVocabulary,
    manifest: Manifest,
    options: &'c Options,
    /// Where the image will be, for messages.
    output: &'c Path,
}

impl<'c> Job<'c> {
    fn new(
        checkpoint: &'c Checkpoint,
        output: &'c Path,
        options: &'c Options,
    ) -> Result<Self, PackError> {
        let words = vocabulary::of(checkpoint)?;
        let manifest = manifest::of(checkpoint, words.chat.clone(), options)?;
        Ok(Self { checkpoint, words, manifest, options, output })
    }

    /// Writes the image.
    fn run(
        &self,
        writer: &mut (impl Write + Seek),
        progress: &dyn Progress,
    ) -> Result<Summary, PackError> {
        let Self { checkpoint, words, manifest, options, .. } = self;
        match image::write(writer, checkpoint, manifest, &words.tables, progress) {
            Ok((header, report)) => Ok(Summary {
                header,
                manifest: manifest.clone(),
                report,
                options: **options,
                chat: words.explanation.clone(),
            }),
            Err(WriteError::Matrix(MatrixError::Checkpoint(error))) => Err(error.into()),
            Err(WriteError::Matrix(error)) => Err(PackError::Weight(error)),
            Err(WriteError::Manifest(error)) => Err(error.into()),
            Err(WriteError::Cancelled) => Err(PackError::Cancelled),
            Err(WriteError::Output(error)) => Err(self.failed(error)),
        }
    }

    /// What to say when the output failed.
    fn failed(&self, error: io::Error) -> PackError {
        let path = self.output.into();
        if error.kind() == ErrorKind::StorageFull {
            let Self { manifest, words, .. } = self;
            let header = image::lay_out(manifest, image::MANIFEST_MOST, words.tables.len());
            PackError::DiskFull { path, needed: header.file_len }
        } else {
            PackError::Write { path, error }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, SeekFrom};

    use super::*;
    use crate::options::Quiet;

    /// A device that fails in a given way after so many bytes.
    struct Faulty {
        inner: Cursor<Vec<u8>>,
        room: u64,
        kind: ErrorKind,
    }

    impl Write for Faulty {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.room.saturating_sub(self.inner.position());
            if room == 0 && !bytes.is_empty() {
                return Err(self.kind.into());
            }
            self.inner.write(&bytes[..bytes.len().min(room as usize)])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Faulty {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.inner.seek(to)
        }
    }

    #[test]
    fn a_full_disk_and_a_failing_one_are_told_apart_wherever_they_strike() {
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/kiosk/kiosk-q4_0.gguf");
        let checkpoint = Checkpoint::open(&source).unwrap();
        let options = Options::default();
        let job = Job::new(&checkpoint, Path::new("k.rill"), &options).unwrap();
        let run = |room, kind| {
            let inner = Cursor::new(Vec::new());
            let mut writer = BufWriter::new(Faulty { inner, room, kind });
            job.run(&mut writer, &Quiet).map(|summary| summary.header.file_len)
        };
        let len = run(u64::MAX, ErrorKind::Other).unwrap();
        for room in [0, 100, 20_000, 1_000_000, len / 2, len - 1] {
            let full = run(room, ErrorKind::StorageFull).unwrap_err();
            assert!(matches!(full, PackError::DiskFull { needed, .. } if needed >= len), "{room}");
            assert!(full.to_string().contains("k.rill"));
            let broken = run(room, ErrorKind::Other).unwrap_err();
            assert!(matches!(broken, PackError::Write { .. }), "{room}");
        }
        assert_eq!(run(len, ErrorKind::StorageFull).unwrap(), len);
    }

    #[test]
    fn an_output_that_cannot_be_made_is_an_error() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/kiosk/kiosk-16m");
        let folder = tempfile::tempdir().unwrap();
        for output in [folder.path().join("no/such/k.rill"), folder.path().join("..")] {
            let result = pack(&source, &output, &Options::default(), &Quiet);
            assert!(matches!(result, Err(PackError::Write { .. })), "{output:?}");
        }
    }
}
