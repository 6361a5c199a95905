//! An image under way that outlives the process that makes it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempPath};

use crate::journal::Journal;
use crate::kept::{self, beside};
use crate::target::{Target, folder_of, prefix};

/// What the name of a journal has more than that of its image under way.
const JOURNAL: &str = ".journal";
/// The same of what a calibration goes on from.
const LAYERS: &str = ".layers";
/// The same of what a choice of formats goes by.
const TRIAL: &str = ".trial";

/// An image under way and the journal beside it.
#[derive(Debug)]
pub struct Attempt {
    /// The image.
    pub target: Target,
    /// What of it is made.
    pub journal: Journal,
    lines: PathBuf,
    layers: PathBuf,
    trial: PathBuf,
}

impl Attempt {
    /// Where a calibration keeps what it goes on from.
    pub fn layers(&self) -> &Path {
        &self.layers
    }

    /// Where it keeps what formats were chosen by.
    pub fn trial(&self) -> &Path {
        &self.trial
    }

    /// Goes on with an attempt at `path` that has this `identity`, or starts one. Attempts at
    /// `path` with another identity are removed.
    ///
    /// An error of the kind `ResourceBusy` says that another process is at it.
    pub fn at(path: &Path, identity: &str) -> io::Result<Self> {
        let name = path.file_name().ok_or(ErrorKind::InvalidFilename)?;
        let prefix = prefix(name, "pull");
        for entry in fs::read_dir(folder_of(path))? {
            let found = entry?.path();
            let name = found.file_name().unwrap_or_default().to_string_lossy();
            // The image's own name may have any ending.
            let Some(rest) = name.strip_prefix(&prefix) else { continue };
            if [JOURNAL, LAYERS, TRIAL].iter().any(|ending| rest.contains(ending)) {
                continue;
            }
            // In a folder that others may write to, what is not ours is none of our attempts.
            let Some(file) = own(&found)? else { continue };
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Err(ErrorKind::ResourceBusy.into()),
                // Some file systems have no locks.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            let lines = beside(&found, JOURNAL);
            let temporary = NamedTempFile::from_parts(file, TempPath::try_from_path(&found)?);
            if let Some(opened) = own(&lines)?
                && let Some(journal) = Journal::resume(opened, File::open(&found)?, identity)?
            {
                return Ok(Self::of(temporary, path, journal, lines));
            }
            // Dropping `temporary` removes the image. Somebody else may have been faster.
            let _ = fs::remove_file(&lines);
            kept::remove(&beside(&found, LAYERS));
            kept::remove(&beside(&found, TRIAL));
        }
        let temporary = Target::temporary(path, &prefix)?;
        // Where there are no locks, nobody sees that this one is under way.
        let _ = temporary.as_file().try_lock();
        let lines = beside(temporary.path(), JOURNAL);
        let opened = OpenOptions::new().read(true).write(true).create_new(true).open(&lines)?;
        let journal = Journal::start(opened, File::open(temporary.path())?, identity)?;
        Ok(Self::of(temporary, path, journal, lines))
    }

    fn of(mut temporary: NamedTempFile, path: &Path, journal: Journal, lines: PathBuf) -> Self {
        temporary.disable_cleanup(true);
        let [layers, trial] = [LAYERS, TRIAL].map(|ending| beside(temporary.path(), ending));
        Self { target: Target::of(temporary, path), journal, lines, layers, trial }
    }

    /// Gives the image its name. It has `len` bytes.
    pub fn finish(mut self, len: u64) -> io::Result<()> {
        self.target.file().set_len(len)?;
        self.target.commit()?;
        // The image is complete without these.
        let _ = fs::remove_file(&self.lines);
        kept::remove(&self.layers);
        kept::remove(&self.trial);
        Ok(())
    }

    /// Removes what was made.
    pub fn discard(self) {
        self.target.discard();
        let _ = fs::remove_file(&self.lines);
        kept::remove(&self.layers);
        kept::remove(&self.trial);
    }
}

/// Opens a file for reading and writing if it is this user's and has no other name; follows no
/// link. `None` when it is not so, or not there.
fn own(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.custom_flags(flags.bits() as i32);
    }
    let Ok(file) = options.open(path) else { return Ok(None) };
    let metadata = file.metadata()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.nlink() != 1 {
            return Ok(None);
        }
    }
    Ok(metadata.is_file().then_some(file))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::journal::Earlier;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn take(attempt: &mut Attempt) -> bool {
        let mut bytes = [0; 3];
        attempt.journal.take(0, &mut bytes, &mut []).unwrap() && bytes == *b"one"
    }

    /// An attempt at `path` that made one piece and ended.
    fn leave(path: &Path) {
        let mut attempt = Attempt::at(path, "a").unwrap();
        attempt.target.file().write_all(b"one").unwrap();
        attempt.journal.made(0, b"one", &[]).unwrap();
    }

    #[test]
    fn an_attempt_goes_on_where_the_last_one_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.rill");
        leave(&path);
        assert_eq!(names(folder.path()).len(), 2);
        let mut attempt = Attempt::at(&path, "a").unwrap();
        assert!(take(&mut attempt));
        let busy = Attempt::at(&path, "a").unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::ResourceBusy);
        attempt.finish(3).unwrap();
        assert_eq!(names(folder.path()), ["m.rill"]);
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }

    #[test]
    fn an_image_may_be_called_as_what_lies_beside_it() {
        for name in ["k.layers.rill", "k.layers", "k.journal", "k.trial"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            leave(&path);
            let mut attempt = Attempt::at(&path, "a").unwrap();
            let layers = attempt.layers().to_owned();
            fs::write(&layers, "what is not finished").unwrap();
            fs::write(attempt.trial(), "what was measured").unwrap();
            assert!(take(&mut attempt), "{name}");
            drop(attempt);
            Attempt::at(&path, "a").unwrap().discard();
            assert_eq!(names(folder.path()), [""; 0], "{name}");
        }
    }

    #[test]
    fn attempts_at_something_else_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.rill");
        leave(&path);
        let mut attempt = Attempt::at(&path, "b").unwrap();
        assert!(!take(&mut attempt));
        assert_eq!(names(folder.path()).len(), 2);
        attempt.discard();
        assert!(names(folder.path()).is_empty());
        leave(&folder.path().join("other.rill"));
        Attempt::at(&path, "a").unwrap().discard();
        assert_eq!(names(folder.path()).len(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn links_that_somebody_planted_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let private = folder.path().join("private");
        fs::write(&private, "secret").unwrap();
        let path = folder.path().join("m.rill");
        for plant in [std::os::unix::fs::symlink::<&Path, PathBuf>, fs::hard_link] {
            let planted = folder.path().join(".m.rill.pull-abc");
            plant(&private, planted.clone()).unwrap();
            Attempt::at(&path, "a").unwrap().discard();
            assert_eq!(fs::read(&private).unwrap(), b"secret");
            fs::remove_file(planted).unwrap();
        }
        leave(&path);
        let journal = names(folder.path()).into_iter().find(|name| name.ends_with(JOURNAL));
        let journal = folder.path().join(journal.unwrap());
        fs::remove_file(&journal).unwrap();
        std::os::unix::fs::symlink(&private, &journal).unwrap();
        Attempt::at(&path, "a").unwrap().discard();
        assert_eq!(fs::read(&private).unwrap(), b"secret");
        assert_eq!(names(folder.path()), ["private"]);
    }
}
