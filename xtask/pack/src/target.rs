//! A file that appears whole or not at all.

use std::fs::{self, File, Permissions};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

/// A file under way to its name.
#[derive(Debug)]
pub(crate) struct Target {
    temporary: NamedTempFile,
    path: PathBuf,
}

impl Target {
    /// Starts a file beside `path`, and removes what earlier attempts at `path` left behind when
    /// they were killed.
    ///
    /// A file under way is locked by its writer, so one that can be locked has none.
    pub fn create(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let folder = folder_of(path);
        let prefix = format!(".{}.part-", name.to_string_lossy());
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix)
                && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
            {
                // Somebody else may have been faster.
                let _ = fs::remove_file(entry.path());
            }
        }
        let temporary = Self::temporary(path, &prefix)?;
        temporary.as_file().lock()?;
        Ok(Self::of(temporary, path))
    }

    /// A new file beside `path`, with a name that begins with `prefix`.
    pub fn temporary(path: &Path, prefix: &str) -> io::Result<NamedTempFile> {
        let mut builder = Builder::new();
        builder.prefix(prefix);
        if let Some(permissions) = ordinary() {
            builder.permissions(permissions);
        }
        builder.tempfile_in(folder_of(path))
    }

    /// The file that `temporary` is, on its way to `path`.
    pub fn of(temporary: NamedTempFile, path: &Path) -> Self {
        Self { temporary, path: path.into() }
    }

    /// The file to write.
    pub fn file(&mut self) -> &mut File {
        self.temporary.as_file_mut()
    }

    /// Removes the file, even one that would be left for a later attempt.
    pub fn discard(self) {
        // Nothing is lost when it stays.
        let _ = self.temporary.close();
    }

    /// Brings the bytes to the device, then gives the file its name, in place of an older one.
    pub fn commit(self) -> io::Result<()> {
        self.temporary.as_file().sync_all()?;
        self.temporary.persist(&self.path)?;
        // The new name is itself data, of the folder.
        #[cfg(unix)]
        File::open(folder_of(&self.path))?.sync_all()?;
        Ok(())
    }
}

/// The folder that a file is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// The permissions of an ordinary new file: temporary files are private by default.
fn ordinary() -> Option<Permissions> {
    #[cfg(unix)]
    return Some(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    #[cfg(not(unix))]
    None
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_target_appears_only_when_committed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.rill");
        fs::write(&path, "old").unwrap();
        let mut target = Target::create(&path).unwrap();
        target.file().write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(target);
        assert_eq!(names(folder.path()), ["a.rill"]);
        let mut target = Target::create(&path).unwrap();
        target.file().write_all(b"new").unwrap();
        target.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a.rill"]);
    }

    #[test]
    fn remains_of_a_killed_attempt_go_and_live_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.rill");
        fs::write(folder.path().join(".a.rill.part-dead"), "half").unwrap();
        fs::write(folder.path().join(".b.rill.part-other"), "half").unwrap();
        let live = Target::create(&path).unwrap();
        assert_eq!(names(folder.path()).len(), 2);
        let second = Target::create(&path).unwrap();
        assert_eq!(names(folder.path()).len(), 3);
        drop((live, second));
        assert_eq!(names(folder.path()), [".b.rill.part-other"]);
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_an_image() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ordinary, path) = (folder.path().join("x"), folder.path().join("a.rill"));
        fs::write(&ordinary, "").unwrap();
        Target::create(&path).unwrap().commit().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&ordinary));
    }
}
