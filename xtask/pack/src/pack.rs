use std::io::{self, BufWriter, ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};

use rill::image::ManifestError;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::image::{self, WriteError};
use crate::matrix::MatrixError;
use crate::options::{Options, Progress};
use crate::summary::Summary;
use crate::target::Target;
use crate::{manifest, vocabulary};

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
    let failed = |error| PackError::Write { path: output.into(), error };
    let mut target = Target::create(output).map_err(failed)?;
    let mut writer = BufWriter::with_capacity(BUFFER, target.file());
    let summary = pack_into(&mut writer, &checkpoint, output, options, progress)?;
    writer.into_inner().map_err(|error| failed(error.into_error()))?;
    target.commit().map_err(failed)?;
    Ok(summary)
}

/// Packs an opened checkpoint into any place that can be written; `path` is for messages.
fn pack_into<W: Write + Seek>(
    writer: &mut W,
    checkpoint: &Checkpoint,
    path: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Summary, PackError> {
    let words = vocabulary::of(checkpoint)?;
    let manifest = manifest::of(checkpoint, words.chat, options)?;
    match image::write(writer, checkpoint, &manifest, &words.tables, progress) {
        Ok((header, report)) => {
            Ok(Summary { header, manifest, report, options: *options, chat: words.explanation })
        }
        Err(WriteError::Matrix(MatrixError::Checkpoint(error))) => Err(error.into()),
        Err(WriteError::Matrix(error)) => Err(PackError::Weight(error)),
        Err(WriteError::Manifest(error)) => Err(error.into()),
        Err(WriteError::Cancelled) => Err(PackError::Cancelled),
        Err(WriteError::Output(error)) if error.kind() == ErrorKind::StorageFull => {
            Err(PackError::DiskFull {
                path: path.into(),
                needed: image::lay_out(&manifest, image::MANIFEST_MOST, words.tables.len())
                    .file_len,
            })
        }
        Err(WriteError::Output(error)) => Err(PackError::Write { path: path.into(), error }),
    }
}
