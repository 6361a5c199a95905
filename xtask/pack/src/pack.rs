use std::io::{self, BufWriter, ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};

use rill::image::layout::Format;
use rill::image::{FORMAT_VERSION, Header, Manifest, ManifestError};
use rill::size::Size;
use xxhash_rust::xxh3::xxh3_64;

use crate::attempt::Attempt;
use crate::calibrate::{self, Canvas};
use crate::checkpoint::{Checkpoint, CheckpointError, Store};
use crate::image::{self, WriteError};
use crate::journal::{Earlier, Nothing, Required};
use crate::manifest::{self, Slot};
use crate::matrix::{MatrixError, format_for, format_rounding};
use crate::mix;
use crate::options::{Calibration, Options, Progress};
use crate::output::{self, OutputError};
use crate::stored::Stored;
use crate::summary::Summary;
use crate::target::{Target, folder_of, free};
use crate::texts::{self, Text, TextsError};
use crate::vocabulary::{self, PackedVocabulary};

/// Raised whenever equal sources and options come to give other bytes: what is left of an attempt by an
/// older program is then not gone on with.
const REVISION: u32 = 1;
/// Bytes gathered before they go to the file.
const BUFFER: usize = 1 << 20;
/// The same where a kill must not cost much.
const BUFFER_KEPT: usize = 1 << 15;

/// Why a checkpoint was not packed. A file that was there before is untouched.
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
    /// Nothing may be written under the image's name.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// There will be no room for the image; nothing was read of the weights.
    #[error("{path} needs {}, and its disk has {} free; free some or name another folder with -o",
        Size(*.needed), Size(*.free))]
    NoRoom {
        /// The image.
        path: PathBuf,
        /// Bytes that are still to be written.
        needed: u64,
        /// Bytes that can be.
        free: u64,
    },
    /// There is no room for the image any more.
    #[error("the disk is full: {path} needs {} in its folder; free some and try again",
        Size(*.needed))]
    DiskFull {
        /// The image.
        path: PathBuf,
        /// Its size.
        needed: u64,
    },
    /// Files cannot be so large there.
    #[error(
        "{path} needs {}, more than a file may have there (FAT: 4 GiB; see also `ulimit -f`); \
         choose another folder with -o",
        Size(*.needed)
    )]
    TooLarge {
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
    /// Another process is making the same image.
    #[error("{0} is being made by another process; wait for it")]
    Busy(PathBuf),
    /// The source is not what it is said to be.
    #[error("{0}; nothing was kept of it")]
    Check(io::Error),
    /// The texts cannot be used.
    #[error(transparent)]
    Texts(#[from] TextsError),
    /// There is nothing that texts could help with.
    #[error(
        "nothing of this model is rounded to int4 here, so there is nothing to calibrate; leave out the texts"
    )]
    NothingToCalibrate,
    /// No image of the model can be so small.
    #[error(
        "an image of this model has {} at least, with int4 wherever its source leaves a choice, not {}; \
         name a larger size",
        Size(*.least), Size(*.size)
    )]
    Small {
        /// The size that was asked for.
        size: u64,
        /// The smallest there can be.
        least: u64,
    },
    /// All of the model may be int8.
    #[error(
        "{} is enough for int8 everywhere, which takes {}, so there is nothing to choose; leave out the size \
         and the texts, and pass --experts q8 --dense q8 --embedding q8",
        Size(*.size), Size(*.most)
    )]
    Large {
        /// The size that was asked for.
        size: u64,
        /// The largest there can be.
        most: u64,
    },
    /// A text has a token that the model does not.
    #[error(
        "token {id} is beyond the {vocab} of the model; take texts and model from one checkpoint"
    )]
    Token {
        /// The token.
        id: u32,
        /// How many the model has.
        vocab: usize,
    },
    /// The caller asked to stop.
    #[error("stopped; nothing was written")]
    Cancelled,
}

impl PackError {
    /// What to say of a matrix that cannot be read or expressed.
    pub(crate) fn of_matrix(error: MatrixError) -> Self {
        match error {
            MatrixError::Checkpoint(error) => error.into(),
            error => Self::Weight(error),
        }
    }

    /// Whether the same attempt may end well another time.
    fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Checkpoint(CheckpointError::Read { .. })
                | Self::NoRoom { .. }
                | Self::DiskFull { .. }
                | Self::Write { .. }
                | Self::Cancelled
        )
    }
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
    pack_if(|_| Ok(()), source, output, options, progress)
}

/// As [`pack`], but replaces nothing except an image of the same model.
pub fn pack_new(
    source: &Path,
    output: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Summary, PackError> {
    output::check_source(source, output)?;
    let may_replace = |manifest: &Manifest| output::check_model(output, manifest);
    pack_if(may_replace, source, output, options, progress)
}

fn pack_if(
    may_replace: impl Fn(&Manifest) -> Result<(), OutputError>,
    source: &Path,
    output: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Summary, PackError> {
    output::check_kind(output)?;
    let checkpoint = Checkpoint::open(source)?;
    let job = Job::new(&checkpoint, output, options, format_for)?;
    may_replace(&job.manifest)?;
    let failed = |error| job.failed(error);
    job.check_room(0)?;
    let mut target = Target::create(output).map_err(failed)?;
    let mut writer = BufWriter::with_capacity(BUFFER, target.file());
    let summary = job.run(&mut writer, &mut Nothing, progress)?;
    writer.into_inner().map_err(|error| failed(error.into_error()))?;
    target.commit().map_err(failed)?;
    Ok(summary)
}

/// Where a checkpoint that is not on this machine comes from.
pub struct Origin<'o> {
    /// Opens its files.
    pub store: &'o dyn Store,
    /// Tells its very bytes from those of any other.
    pub identity: &'o str,
    /// Called when all is packed and before the image gets its name.
    pub check: &'o dyn Fn() -> io::Result<()>,
}

/// As [`pack`], but an attempt that ends early, even by a kill or a power cut, leaves what it has
/// made beside `output`, and the next one goes on from there if it has the same origin and options.
/// The image has the same bytes as one that was packed at once.
pub fn pack_from(
    origin: &Origin<'_>,
    source: &Path,
    output: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Summary, PackError> {
    let checkpoint = Checkpoint::open_in(origin.store, source)?;
    let job = Job::new(&checkpoint, output, options, format_for)?;
    let mut attempt = job.attempt(output, origin.identity)?;
    let mut writer = BufWriter::with_capacity(BUFFER_KEPT, attempt.target.file());
    let made = job.run(&mut writer, &mut attempt.journal, progress).and_then(|summary| {
        writer.into_inner().map_err(|error| job.failed(error.into_error()))?;
        (origin.check)().map_err(PackError::Check)?;
        Ok(summary)
    });
    finish(&job, attempt, made)
}

/// Gives what an attempt made its name, or leaves it where another attempt may end well.
fn finish(
    job: &Job<'_>,
    attempt: Attempt,
    made: Result<Summary, PackError>,
) -> Result<Summary, PackError> {
    match made {
        Ok(summary) => {
            attempt.finish(summary.header.file_len).map_err(|error| job.failed(error))?;
            Ok(summary)
        }
        Err(error) => {
            if !error.may_pass() {
                attempt.discard();
            }
            Err(error)
        }
    }
}

/// As [`pack`], but chooses int4 values by what they do to the model's outputs over sample texts, and
/// formats too where a size is named. Q8_0 tensors may be rounded here. An attempt that ends early leaves
/// what it has made beside `output`, and the next one with the same source, texts and options goes on after
/// the last layer that was finished.
///
/// The same source, texts and options always give the same bytes.
pub fn pack_calibrated(
    source: &Path,
    output: &Path,
    options: &Options,
    calibration: &Calibration<'_>,
    progress: &dyn Progress,
) -> Result<Summary, PackError> {
    calibrated_if(|_| Ok(()), source, output, options, calibration, progress)
}

/// As [`pack_calibrated`], but replaces nothing except an image of the same model.
pub fn pack_new_calibrated(
    source: &Path,
    output: &Path,
    options: &Options,
    calibration: &Calibration<'_>,
    progress: &dyn Progress,
) -> Result<Summary, PackError> {
    output::check_source(source, output)?;
    let may_replace = |manifest: &Manifest| output::check_model(output, manifest);
    calibrated_if(may_replace, source, output, options, calibration, progress)
}

/// Tokens of a text that samples are cut into.
const WINDOW: usize = 512;
/// Fewest tokens of all samples.
const TOKENS_LEAST: usize = 32;

fn calibrated_if(
    may_replace: impl Fn(&Manifest) -> Result<(), OutputError>,
    source: &Path,
    output: &Path,
    options: &Options,
    calibration: &Calibration<'_>,
    progress: &dyn Progress,
) -> Result<Summary, PackError> {
    output::check_kind(output)?;
    let checkpoint = Checkpoint::open(source)?;
    let mut job = Job::new(&checkpoint, output, options, format_rounding)?;
    may_replace(&job.manifest)?;
    let PackedVocabulary { tables, template, chat, .. } = &job.words;
    let reader = texts::Reader::new(tables, job.manifest.shape.vocab, chat, template, WINDOW)?;
    let samples = reader.read(calibration.texts)?;
    if samples.iter().map(|text| text.ids.len()).sum::<usize>() < TOKENS_LEAST {
        return Err(TextsError::Short { least: TOKENS_LEAST }.into());
    }
    let free = match calibration.target_size {
        Some(size) => job.shrink(size)?,
        None => Vec::new(),
    };
    if !calibrate::is_of_use(&checkpoint, &job.manifest, &job.header()?) {
        return Err(PackError::NothingToCalibrate);
    }
    let mut ids = Vec::new();
    for text in calibrate::used(&samples) {
        ids.extend((text.ids.len() as u32).to_le_bytes());
        ids.extend(text.ids.iter().flat_map(|id| id.to_le_bytes()));
    }
    let mut identity =
        format!("{}, calibrated {:016x}", checkpoint.files.identity(), xxh3_64(&ids));
    if let Some(size) = calibration.target_size {
        identity += &format!(", {size} bytes");
    }
    let path = output::resolved(output).unwrap_or_else(|_| output.into());
    let mut attempt = job.attempt(&path, &identity)?;
    let mix =
        calibration.target_size.map(|size| job.mix(size, &free, &samples, &attempt, progress));
    let made = mix.transpose().and_then(|mix| {
        let mut summary = job.calibrated(&samples, &mut attempt, progress)?;
        summary.mix = mix;
        Ok(summary)
    });
    finish(&job, attempt, made)
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
        format: fn(&[Stored], Format) -> Format,
    ) -> Result<Self, PackError> {
        let words = vocabulary::of(checkpoint)?;
        let wanted = |slot, stored: &[Stored]| format(stored, options.format(slot));
        let manifest = manifest::of(checkpoint, words.chat.clone(), &wanted)?;
        Ok(Self { checkpoint, words, manifest, options, output })
    }

    /// Has int4 wherever there is a choice, and returns where that is, if an image of `size` bytes leaves
    /// one.
    fn shrink(&mut self, size: u64) -> Result<Vec<Slot>, PackError> {
        let chat = self.words.chat.clone();
        let free;
        (self.manifest, free) = manifest::smallest(self.checkpoint, chat)?;
        let least = self.header()?.file_len;
        if size < least {
            return Err(PackError::Small { size, least });
        }
        let most = self.header_with(&free, &vec![true; free.len()])?.file_len;
        if most <= size {
            return Err(PackError::Large { size, most });
        }
        Ok(free)
    }

    /// Chooses the formats of an image of `size` bytes.
    fn mix(
        &mut self,
        size: u64,
        free: &[Slot],
        samples: &[Text],
        attempt: &Attempt,
        progress: &dyn Progress,
    ) -> Result<mix::Report, PackError> {
        let header = |int8: &[bool]| self.header_with(free, int8);
        let start = (&self.manifest, free);
        // What does not count for the image's identity has no say in its formats.
        let (samples, path) = (calibrate::used(samples), attempt.trial());
        let report = mix::of(self.checkpoint, start, samples, size, &header, path, progress)
            .map_err(|error| self.not_written(error))?;
        let int8: Vec<bool> = report.choices.iter().map(|choice| choice.int8).collect();
        self.manifest = self.manifest_with(free, &int8)?;
        self.check_room(attempt.target.kept())?;
        Ok(report)
    }

    /// The manifest with int8 where it is marked, and int4 elsewhere.
    fn manifest_with(&self, free: &[Slot], int8: &[bool]) -> Result<Manifest, ManifestError> {
        let larger = |slot| free.iter().zip(int8).any(|(&one, &int8)| int8 && one == slot);
        let format = |slot, _: &[Stored]| if larger(slot) { Format::Q8 } else { Format::Q4 };
        manifest::of(self.checkpoint, self.words.chat.clone(), &format)
    }

    fn header_with(&self, free: &[Slot], int8: &[bool]) -> Result<Header, ManifestError> {
        self.header_of(&self.manifest_with(free, int8)?)
    }

    /// Equal for two jobs only if they make the same image in the same way.
    fn identity(&self, origin: &str) -> String {
        let Self { words, manifest, options, .. } = self;
        let version = env!("CARGO_PKG_VERSION");
        let bytes = format!("format {FORMAT_VERSION}, revision {REVISION}");
        let manifest = xxh3_64(format!("{manifest:?}").as_bytes());
        let words = xxh3_64(&[&words.tables[..], &words.template].concat());
        format!("rill {version}, {bytes}, {options:?}, {manifest:016x}, {words:016x}, {origin}")
    }

    /// Goes on with an attempt at the image, or starts one.
    fn attempt(&self, path: &Path, origin: &str) -> Result<Attempt, PackError> {
        let attempt = Attempt::at(path, &self.identity(origin)).map_err(|error| {
            if error.kind() == ErrorKind::ResourceBusy {
                PackError::Busy(self.output.into())
            } else {
                self.failed(error)
            }
        })?;
        let kept = attempt.target.kept();
        if let Err(error) = self.check_room(kept) {
            if kept == 0 {
                attempt.discard();
            }
            return Err(error);
        }
        Ok(attempt)
    }

    /// Calibrates, then writes the image.
    fn calibrated(
        &self,
        samples: &[Text],
        attempt: &mut Attempt,
        progress: &dyn Progress,
    ) -> Result<Summary, PackError> {
        let (header, layers) = (self.header()?, attempt.layers().to_owned());
        let (file, journal) = (attempt.target.file(), &mut attempt.journal);
        let canvas = Canvas { header, file, journal, state: &layers };
        let (report, pieces) =
            calibrate::run(self.checkpoint, &self.manifest, samples, canvas, progress)
                .map_err(|error| self.not_written(error))?;
        attempt.target.file().rewind().map_err(|error| self.failed(error))?;
        let mut writer = BufWriter::with_capacity(BUFFER, attempt.target.file());
        let mut earlier = Required { earlier: &mut attempt.journal, pieces: &pieces };
        let mut summary = self.run(&mut writer, &mut earlier, progress)?;
        writer.into_inner().map_err(|error| self.failed(error.into_error()))?;
        summary.calibration = Some(report);
        Ok(summary)
    }

    /// Where the image's sections lie.
    fn header(&self) -> Result<Header, ManifestError> {
        self.header_of(&self.manifest)
    }

    fn header_of(&self, manifest: &Manifest) -> Result<Header, ManifestError> {
        let len = manifest.encode(&mut [0; image::MANIFEST_MOST])?.len();
        Ok(image::lay_out(manifest, len, &self.words))
    }

    /// An error when the image's disk has less room than it still needs. Where a file system does not
    /// know its room, or says that there is none, writing shows it.
    fn check_room(&self, kept: u64) -> Result<(), PackError> {
        let output = output::resolved(self.output).unwrap_or_else(|_| self.output.into());
        self.short_of_room(kept, free(folder_of(&output)))
    }

    fn short_of_room(&self, kept: u64, free: Option<u64>) -> Result<(), PackError> {
        let needed = self.file_len().saturating_sub(kept);
        match free {
            Some(free) if free > 0 && free < needed => {
                Err(PackError::NoRoom { path: self.output.into(), needed, free })
            }
            _ => Ok(()),
        }
    }

    /// Bytes of the image, or a few more.
    fn file_len(&self) -> u64 {
        image::lay_out(&self.manifest, image::MANIFEST_MOST, &self.words).file_len
    }

    /// Writes the image.
    fn run(
        &self,
        writer: &mut (impl Write + Seek),
        earlier: &mut dyn Earlier,
        progress: &dyn Progress,
    ) -> Result<Summary, PackError> {
        let Self { checkpoint, words, manifest, options, .. } = self;
        match image::write(writer, checkpoint, manifest, words, earlier, progress) {
            Ok((header, report)) => Ok(Summary {
                header,
                manifest: manifest.clone(),
                report,
                options: **options,
                mix: None,
                calibration: None,
                chat: words.explanation.clone(),
                notes: checkpoint.notes.clone(),
            }),
            Err(error) => Err(self.not_written(error)),
        }
    }

    /// Why there is no image.
    fn not_written(&self, error: WriteError) -> PackError {
        match error {
            WriteError::Matrix(error) => PackError::of_matrix(error),
            WriteError::Manifest(error) => error.into(),
            WriteError::Cancelled => PackError::Cancelled,
            WriteError::Output(error) => self.failed(error),
        }
    }

    /// What to say when the output failed.
    fn failed(&self, error: io::Error) -> PackError {
        let path = self.output.into();
        let needed = self.file_len();
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                PackError::DiskFull { path, needed }
            }
            ErrorKind::FileTooLarge => PackError::TooLarge { path, needed },
            _ => PackError::Write { path, error },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{Cursor, SeekFrom};
    use std::rc::Rc;

    use super::*;

    use crate::checkpoint::{Disk, Source};
    use crate::options::Quiet;
    use crate::threads::tests::ALONE;

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
        let job = Job::new(&checkpoint, Path::new("k.rill"), &options, format_for).unwrap();
        let run = |room, kind| {
            let inner = Cursor::new(Vec::new());
            let mut writer = BufWriter::new(Faulty { inner, room, kind });
            job.run(&mut writer, &mut Nothing, &Quiet).map(|summary| summary.header.file_len)
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

    /// The disk, until so many reads were made.
    #[derive(Debug, Clone)]
    struct Unsteady(Rc<Cell<u64>>);

    impl Store for Unsteady {
        fn is_folder(&self, path: &Path) -> io::Result<bool> {
            Disk.is_folder(path)
        }

        fn open(&self, path: &Path) -> io::Result<Box<dyn Source>> {
            Ok(Box::new(UnsteadySource(Disk.open(path)?, self.clone())))
        }

        fn whole_path(&self, path: &Path) -> PathBuf {
            Disk.whole_path(path)
        }
    }

    #[derive(Debug)]
    struct UnsteadySource(Box<dyn Source>, Unsteady);

    impl Source for UnsteadySource {
        fn size(&self) -> u64 {
            self.0.size()
        }

        fn read_at(&self, at: u64, end: u64, into: &mut [u8]) -> io::Result<()> {
            assert!(end == 0 || at + into.len() as u64 <= end, "a read stays in its tensor");
            let left = &self.1.0;
            left.set(left.get().checked_sub(1).ok_or(ErrorKind::ConnectionReset)?);
            self.0.read_at(at, end, into)
        }
    }

    #[test]
    fn attempts_that_end_early_add_up_to_the_image_that_is_packed_at_once() {
        let kiosk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/kiosk");
        for source in ["kiosk-16m", "kiosk-q4_0.gguf"] {
            let source = kiosk.join(source);
            let folder = tempfile::tempdir().unwrap();
            let [whole, output] = ["whole.rill", "k.rill"].map(|name| folder.path().join(name));
            let options = Options::default();
            let expected = pack(&source, &whole, &options, &Quiet).unwrap();
            let left = Rc::new(Cell::new(0));
            let store = Unsteady(left.clone());
            let try_once = |reads, identity: &str, check: io::Result<()>| {
                left.set(reads);
                let check = Cell::new(Some(check));
                let check = || check.take().unwrap();
                let origin = Origin { store: &store, identity, check: &check };
                let result = pack_from(&origin, &source, &output, &options, &Quiet);
                (result, reads - left.get())
            };
            // Each attempt comes at least a piece further than the one before.
            let mut attempts = 0;
            let summary = loop {
                attempts += 1;
                match try_once(60, "a", Ok(())).0 {
                    Ok(summary) => break summary,
                    Err(PackError::Checkpoint(CheckpointError::Read { .. })) => {}
                    Err(error) => panic!("{error}"),
                }
                assert!(attempts < 100, "it ends");
            };
            assert!(attempts > 5, "{attempts}");
            assert_eq!(summary, expected);
            let bytes = std::fs::read(&output).unwrap();
            assert!(bytes == std::fs::read(&whole).unwrap());
            let names = || std::fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(names(), 2, "nothing else is left");

            // What is left of another origin is not used.
            let (_, all) = try_once(1 << 40, "a", Ok(()));
            assert!(try_once(all - 1, "a", Ok(())).0.is_err());
            assert!(try_once(all - 1, "b", Ok(())).0.is_err());
            // A source that is found to be wrong leaves nothing, and the old image as it was.
            let wrong = try_once(1 << 40, "b", Err(ErrorKind::InvalidData.into())).0;
            assert!(matches!(wrong, Err(PackError::Check(_))));
            assert_eq!(names(), 2, "nothing else is left");
            assert!(bytes == std::fs::read(&output).unwrap());
        }
    }

    #[test]
    fn other_bytes_have_another_revision() {
        let kiosk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/kiosk");
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("k.rill");
        // When this fails and is meant to, raise REVISION and put the new sums here.
        let sums = ["kiosk-16m", "kiosk-q4_0.gguf"].map(|source| {
            pack(&kiosk.join(source), &image, &Options::default(), &Quiet).unwrap();
            xxh3_64(&std::fs::read(&image).unwrap())
        });
        assert_eq!(
            (REVISION, sums),
            (1, [0x700e_e4f5_ddc9_c910, 0x4a92_eef1_e03c_5b1e]),
            "{sums:#x?}"
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_before_any_weight_is_read() {
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/kiosk/kiosk-q4_0.gguf");
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("k.rill");
        let checkpoint = Checkpoint::open(&source).unwrap();
        let options = Options::default();
        let job = Job::new(&checkpoint, &output, &options, format_for).unwrap();
        let len = job.file_len();
        assert!(job.short_of_room(0, Some(len)).is_ok());
        let error = job.short_of_room(0, Some(len - 1)).unwrap_err();
        assert!(matches!(error, PackError::NoRoom { needed, free, .. } if needed == free + 1));
        let said = error.to_string();
        assert!(said.contains("k.rill needs 9.8 MiB") && said.contains("MiB free"), "{said}");
        // What is there already needs no room any more.
        assert!(job.short_of_room(1, Some(len - 1)).is_ok());
        assert!(job.short_of_room(len + 1, Some(1)).is_ok());
        for unknown in [None, Some(0)] {
            assert!(job.short_of_room(0, unknown).is_ok());
        }
    }

    #[test]
    fn an_output_that_cannot_be_made_is_an_error() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/kiosk/kiosk-16m");
        let folder = tempfile::tempdir().unwrap();
        let try_it = |output| {
            let output = folder.path().join(output);
            pack(&source, &output, &Options::default(), &Quiet)
        };
        assert!(matches!(try_it("no/such/k.rill"), Err(PackError::Write { .. })));
        assert!(matches!(try_it(".."), Err(PackError::Output(OutputError::NotAFile(_)))));
    }

    #[test]
    fn calibration_gives_the_same_bytes_for_any_number_of_threads() {
        let kiosk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/kiosk");
        let folder = tempfile::tempdir().unwrap();
        let texts = [kiosk.join("texts/held-back.txt")];
        let options = Options::default();
        let [one, many] = [true, false].map(|alone| {
            ALONE.set(alone);
            let image = folder.path().join(format!("{alone}.rill"));
            let calibration = Calibration { texts: &texts, target_size: Some(10 << 20) };
            let source = kiosk.join("kiosk-16m");
            pack_calibrated(&source, &image, &options, &calibration, &Quiet).unwrap();
            std::fs::read(&image).unwrap()
        });
        assert!(one == many);
    }
}
