//! A file that appears whole or not at all.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::{Builder, NamedTempFile};

use crate::output;

/// A file under way to its name.
#[derive(Debug)]
pub(crate) struct Target {
    temporary: NamedTempFile,
    path: PathBuf,
    /// Only of a file that no later attempt can go on with.
    under_way: Option<UnderWay>,
}

/// An entry of [`UNDER_WAY`].
#[derive(Debug)]
struct UnderWay(PathBuf);

/// Files that are of no use to a later attempt and are removed by whoever ends the process early.
static UNDER_WAY: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes the files that are under way: the process is about to end.
#[cfg(feature = "cli")]
pub(crate) fn abandon() {
    for path in &*under_way() {
        // It may be complete by now, and have another name.
        let _ = fs::remove_file(path);
    }
}

fn under_way() -> MutexGuard<'static, Vec<PathBuf>> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

impl UnderWay {
    fn new(path: &Path) -> Self {
        under_way().push(path.into());
        Self(path.into())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        under_way().retain(|path| *path != self.0);
    }
}

impl Target {
    /// Starts a file beside `path`, and removes what earlier attempts at `path` left behind when
    /// they were killed. A `path` that is a link of this user's, or root's, stands for the file that it
    /// leads to.
    ///
    /// A file under way is locked by its writer, so one that can be locked has none. Where a file
    /// system has no locks, nothing is removed.
    pub fn create(path: &Path) -> io::Result<Self> {
        let path = &output::resolved(path)?;
        let name = path.file_name().ok_or(ErrorKind::InvalidFilename)?;
        let prefix = prefix(name, "part");
        remove_remains(folder_of(path), &prefix);
        loop {
            let temporary = Self::temporary(path, &prefix)?;
            // An error says that there are no locks.
            let _ = temporary.as_file().lock();
            // Before it was locked, another attempt may have taken it for remains.
            if temporary.path().try_exists()? {
                if let Ok(old) = fs::metadata(path) {
                    // A file system without permissions keeps its own.
                    let _ = temporary.as_file().set_permissions(old.permissions());
                }
                let under_way = Some(UnderWay::new(temporary.path()));
                return Ok(Self { under_way, ..Self::of(temporary, path) });
            }
        }
    }

    /// A new file beside `path`, with a name that begins with `prefix`.
    pub fn temporary(path: &Path, prefix: &str) -> io::Result<NamedTempFile> {
        let mut builder = Builder::new();
        builder.prefix(prefix).rand_bytes(RANDOM);
        if let Some(permissions) = ordinary() {
            builder.permissions(permissions);
        }
        builder.tempfile_in(folder_of(path))
    }

    /// The file that `temporary` is, on its way to `path`.
    pub fn of(temporary: NamedTempFile, path: &Path) -> Self {
        Self { temporary, path: path.into(), under_way: None }
    }

    /// The file to write.
    pub fn file(&mut self) -> &mut File {
        self.temporary.as_file_mut()
    }

    /// Bytes of the disk that the file has already.
    pub fn kept(&self) -> u64 {
        #[cfg(unix)]
        let bytes = |found: fs::Metadata| std::os::unix::fs::MetadataExt::blocks(&found) * 512;
        #[cfg(not(unix))]
        let bytes = |found: fs::Metadata| found.len();
        self.temporary.as_file().metadata().map_or(0, bytes)
    }

    /// Removes the file, even one that would be left for a later attempt.
    pub fn discard(self) {
        // Nothing is lost when it stays.
        let _ = self.temporary.close();
    }

    /// Brings the bytes to the device, then gives the file its name, in place of an older one.
    pub fn commit(self) -> io::Result<()> {
        // The entry of `UNDER_WAY` goes last.
        let Self { temporary, path, under_way: _under_way } = self;
        allow(temporary.as_file().sync_all(), &NOT_SYNCED)?;
        temporary.persist(&path)?;
        // The new name is itself data, of the folder.
        #[cfg(unix)]
        {
            let synced = File::open(folder_of(&path)).and_then(|folder| folder.sync_all());
            allow(synced, &[&NOT_SYNCED[..], &NOT_OPENED].concat())?;
        }
        Ok(())
    }
}

/// What network and user-space file systems say that cannot bring a file or folder to its device by
/// itself: EINVAL, EBADF, ENOSYS and ENOTSUP on Linux.
const NOT_SYNCED: [i32; 4] = [22, 9, 38, 95];
/// What is said of a folder in which one may write but not look: EPERM and EACCES.
#[cfg(unix)]
const NOT_OPENED: [i32; 2] = [1, 13];

/// Takes some errors, by the system's numbers, for success.
fn allow(result: io::Result<()>, errors: &[i32]) -> io::Result<()> {
    result.or_else(|error| match error.raw_os_error() {
        Some(number) if errors.contains(&number) => Ok(()),
        _ => Err(error),
    })
}

/// Bytes that this user can still write to the disk of a folder; `None` where that is not known.
pub(crate) fn free(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        // Some file systems of programs know nothing of room and say so with zeros.
        let found = rustix::fs::statvfs(folder).ok().filter(|found| found.f_blocks > 0)?;
        let is_root = rustix::process::geteuid().is_root();
        let blocks = if is_root { found.f_bfree } else { found.f_bavail };
        Some(blocks.saturating_mul(found.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

/// Removes files of a folder whose names begin with `prefix` and that nobody writes any more.
fn remove_remains(folder: &Path, prefix: &str) {
    // In a folder in which one may write but not look they stay.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        // What only looks like a file under way is the user's own.
        let is_ours =
            name.to_str().and_then(|name| name.strip_prefix(prefix)).is_some_and(|random| {
                random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
            });
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let Ok(file) = File::open(entry.path()) else { continue };
        if file.try_lock().is_ok() {
            // Still locked, so that its writer, if there is one, sees that it is gone. Somebody else
            // may have been faster.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Bytes of a name that the names of its files under way show: names have at most 255.
const SHOWN: usize = 200;
/// Random letters and digits at the end of those.
const RANDOM: usize = 12;

/// What names of files under way to `name` begin with.
pub(crate) fn prefix(name: &OsStr, kind: &str) -> String {
    let name = name.to_string_lossy();
    format!(".{}.{kind}-", &name[..name.floor_char_boundary(SHOWN)])
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
        let others = [".a.rill.part-mine", ".b.rill.part-0123456789Ab"];
        for name in [".a.rill.part-0123456789Ab", others[0], others[1]] {
            fs::write(folder.path().join(name), "half").unwrap();
        }
        let live = Target::create(&path).unwrap();
        assert_eq!(names(folder.path()).len(), 3);
        let second = Target::create(&path).unwrap();
        assert_eq!(names(folder.path()).len(), 4);
        drop((live, second));
        assert_eq!(names(folder.path()), others);
    }

    #[test]
    fn the_longest_name_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("é".repeat(127));
        let mut target = Target::create(&path).unwrap();
        target.file().write_all(b"new").unwrap();
        target.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let attempt = crate::attempt::Attempt::at(&path, "a").unwrap();
        assert_eq!(names(folder.path()).len(), 3);
        attempt.finish(0).unwrap();
        assert_eq!(names(folder.path()).len(), 1);
    }

    #[test]
    fn many_attempts_at_once_do_not_harm_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.rill");
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..50 {
                        let mut target = Target::create(path).unwrap();
                        target.file().write_all(&[thread; 999]).unwrap();
                        target.commit().unwrap();
                        let found = fs::read(path).unwrap();
                        assert!(found.len() == 999 && found.iter().all(|byte| *byte == found[0]));
                    }
                });
            }
        });
        assert_eq!(names(folder.path()), ["a.rill"]);
    }

    #[test]
    fn an_abandoned_file_is_gone_and_a_finished_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.rill");
        Target::create(&path).unwrap().commit().unwrap();
        let target = Target::create(&path).unwrap();
        // Not `abandon`, which would end other tests' files.
        let entry = target.under_way.as_ref().unwrap().0.clone();
        assert!(under_way().contains(&entry) && entry.exists());
        target.commit().unwrap();
        assert!(!under_way().contains(&entry) && !entry.exists());
        assert_eq!(names(folder.path()), ["a.rill"]);
    }

    #[test]
    fn what_a_file_system_does_not_have_is_no_failure() {
        let error = |number| Err(io::Error::from_raw_os_error(number));
        for number in NOT_SYNCED {
            assert!(allow(error(number), &NOT_SYNCED).is_ok());
        }
        // EIO and ENOSPC: the bytes are not on the device.
        for number in [5, 28] {
            assert!(allow(error(number), &NOT_SYNCED).is_err());
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_and_the_file_that_it_leads_to_is_replaced_with_its_permissions() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (link, path) = (folder.path().join("link.rill"), folder.path().join("real.rill"));
        symlink("real.rill", &link).unwrap();
        Target::create(&link).unwrap().commit().unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let mut target = Target::create(&link).unwrap();
        target.file().write_all(b"new").unwrap();
        target.commit().unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("real.rill"));
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
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
