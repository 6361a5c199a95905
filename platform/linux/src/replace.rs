//! Files that are written whole or not at all: the one way in which this program writes files.
//!
//! A file grows under a random name in the folder of its own, which is opened once: whatever others
//! do to that folder meanwhile, nothing outside it is touched, no link is followed and no file of
//! others is opened. A file under way is locked; what a killed writer left behind is not, and goes
//! with the next file of that name.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rill::image::MAGIC;
use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Gid, Mode, OFlags, Stat, Uid, flock, fstat, openat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

/// Who may read a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whoever could read the one that was there, else whom the process allows (its umask).
    Ordinary,
    /// The user alone.
    Private,
}

/// A file in the making. It has its name after [`Self::finish`] and leaves nothing behind without.
#[derive(Debug)]
pub struct NewFile {
    out: BufWriter<File>,
    /// `None` for what is no file on a disk, and takes bytes as they come.
    place: Option<Place>,
}

/// Where a file in the making is.
#[derive(Debug)]
struct Place {
    folder: OwnedFd,
    name: OsString,
    /// Its name until then; `None` once it is done.
    temporary: Option<OsString>,
}

/// Writes a file under another name and, once it is on the device, gives it its own: whatever
/// happens meanwhile, `path` has its old content or the new one; after success, the new one.
pub fn replace(
    path: &Path,
    access: Access,
    write: impl FnOnce(&mut NewFile) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = NewFile::create(path, access)?;
    write(&mut file)?;
    file.finish()
}

/// The folder that a file is in, as far as its name says.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The file whose name adds an ending to that of another.
pub fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Who a file belongs to: a user's and a group's number.
type Owner = (u32, u32);

/// Attempts to find a name that nobody has.
const ATTEMPTS: usize = 64;
/// Bytes of the name that a temporary one shows: names have at most 255.
const SHOWN: usize = 200;
const RANDOM: usize = 12;

impl NewFile {
    /// Begins a file that will be at `path`, in the place of the regular file that may be there.
    /// Links, folders, pipes and devices are refused, and a model's image: it took long to make.
    pub fn create(path: &Path, access: Access) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
        let folder = folder_of(path);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())?;
        let before = replaceable(&folder, &name)?;
        let prefix = prefix(&name);
        remove_remains(&folder, &prefix);
        let mode = match (access, &before) {
            (Access::Ordinary, None) => 0o666,
            _ => 0o600,
        };
        for _ in 0..ATTEMPTS {
            let Some((file, temporary)) = start(&folder, &prefix, Mode::from_raw_mode(mode))?
            else {
                continue;
            };
            if let (Access::Ordinary, Some(before)) = (access, &before) {
                let us = (geteuid().as_raw(), getegid().as_raw());
                let folder = Mode::from_raw_mode(fstat(&folder)?.st_mode);
                if let Some((user, group)) = kept_owner((before.st_uid, before.st_gid), folder, us)
                {
                    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
                    let _ = rustix::fs::fchown(&file, Some(user), Some(group));
                }
                // Where modes are not kept, the new file is as private as it can be.
                let _ = rustix::fs::fchmod(&file, Mode::from_raw_mode(before.st_mode & 0o777));
            }
            let place = Place { folder, name, temporary: Some(temporary) };
            return Ok(Self { out: BufWriter::new(file), place: Some(place) });
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Begins a result that the user wants at `path`: as [`Self::create`], but a pipe and a device
    /// such as `/dev/null` or `/dev/stdout` are written to.
    pub fn output(path: &Path) -> io::Result<Self> {
        match rustix::fs::lstat(path).map(|found| FileType::from_raw_mode(found.st_mode)) {
            Ok(FileType::Fifo | FileType::CharacterDevice) => Self::stream(path, OFlags::NOFOLLOW),
            // The system's own links to what is open.
            Ok(FileType::Symlink) if is_systems(path) => Self::stream(path, OFlags::empty()),
            _ => Self::create(path, Access::Ordinary),
        }
    }

    fn stream(path: &Path, flags: OFlags) -> io::Result<Self> {
        let flags = flags | OFlags::WRONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::BlockDevice {
            return Err(refused("is a disk: name a file"));
        }
        Ok(Self { out: BufWriter::new(file), place: None })
    }

    /// Brings the bytes to the device, then gives the file its name.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()?;
        let Some(place) = &mut self.place else { return Ok(()) };
        match self.out.get_ref().sync_all() {
            Err(error) if !is_fault(&error) => {}
            synced => synced?,
        }
        replaceable(&place.folder, &place.name)?;
        if let Some(temporary) = &place.temporary {
            rustix::fs::renameat(&place.folder, temporary, &place.folder, &place.name)?;
            place.temporary = None;
        }
        sync_folder(&place.folder)
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // The next writer of this name tries again.
            let _ = rustix::fs::unlinkat(&self.folder, temporary, AtFlags::empty());
        }
    }
}

/// The regular file of this name, if there is one; an error for what must stay.
fn replaceable(folder: &OwnedFd, name: &OsStr) -> io::Result<Option<Stat>> {
    let found = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        found => found?,
    };
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile if is_image(folder, name)? => {
            Err(refused("is a model's image, which only `rill pack` replaces: choose another name"))
        }
        FileType::RegularFile => Ok(Some(found)),
        FileType::Directory => Err(io::ErrorKind::IsADirectory.into()),
        FileType::Symlink => Err(refused("is a link: name the file that it leads to")),
        _ => Err(refused("is a device, a pipe or a socket: name a file")),
    }
}

/// Whether the file of this name begins as an image. One that may not be read is none of this user's.
fn is_image(folder: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(folder, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => return Ok(false),
        file => File::from(file?),
    };
    let mut begin = Vec::new();
    file.take(MAGIC.len() as u64).read_to_end(&mut begin)?;
    Ok(begin == MAGIC)
}

/// Who a file in the place of another's is given to: the owner of that one, so that a service still has
/// its files after an administrator ran the program. `None` for what is the user's already, and in a
/// folder where anybody may have put it.
fn kept_owner(before: Owner, folder: Mode, us: Owner) -> Option<Owner> {
    (before != us && !folder.contains(Mode::WOTH)).then_some(before)
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// Whether this name is in a folder where only the system makes links.
fn is_systems(path: &Path) -> bool {
    let folder = path.parent().unwrap_or(path);
    folder == Path::new("/dev") || folder == Path::new("/dev/fd") || folder.starts_with("/proc")
}

/// What temporary names of a file begin with.
fn prefix(name: &OsStr) -> Vec<u8> {
    let shown = &name.as_bytes()[..name.len().min(SHOWN)];
    [b".", shown, b".part-"].concat()
}

/// Makes a new file with a random name and locks it; `None` when others were faster.
fn start(folder: &OwnedFd, prefix: &[u8], mode: Mode) -> io::Result<Option<(File, OsString)>> {
    let mut random = fastrand::Rng::new();
    let mut name = prefix.to_vec();
    name.extend((0..RANDOM).map(|_| random.alphanumeric() as u8));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let name = OsString::from_vec(name);
    let file = match openat(folder, &name, flags, mode) {
        Err(Errno::EXIST) => return Ok(None),
        file => file?,
    };
    // A file system without locks leaves remains to the user. Somebody who looked for remains at
    // this very moment may have taken it for one.
    let taken = flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK);
    Ok((!taken && fstat(&file)?.st_nlink > 0).then(|| (file.into(), name)))
}

/// Removes files under way whose writer is gone. What cannot be looked at stays.
fn remove_remains(folder: &OwnedFd, prefix: &[u8]) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(entries) = openat(folder, ".", flags, Mode::empty()).and_then(Dir::new) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let random = name.to_bytes().strip_prefix(prefix);
        let is_temporary =
            random.is_some_and(|r| r.len() == RANDOM && r.iter().all(u8::is_ascii_alphanumeric));
        if is_temporary && is_remains(folder, name) {
            // Somebody else may have been faster.
            let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
        }
    }
}

/// Whether a name is that of a file of this user that nobody writes any more.
fn is_remains(folder: &OwnedFd, name: &std::ffi::CStr) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let is_ours = |found: Stat| {
        FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
            && found.st_uid == geteuid().as_raw()
    };
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(is_ours)
        && openat(folder, name, flags, Mode::empty()).is_ok_and(|file| {
            fstat(&file).is_ok_and(is_ours)
                && flock(&file, FlockOperation::NonBlockingLockShared).is_ok()
        })
}

/// Makes the name of a file last: a power cut could undo it although the content is on the device.
fn sync_folder(folder: &OwnedFd) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let synced = openat(folder.as_fd(), ".", flags, Mode::empty())
        .and_then(|folder| rustix::fs::fsync(&folder))
        .map_err(io::Error::from);
    match synced {
        Err(error) if !is_fault(&error) => Ok(()),
        synced => synced,
    }
}

/// Whether the device failed. Else the file system knows no such thing, or only for others: network
/// file systems and those of programs (FUSE) say so in many ways.
fn is_fault(error: &io::Error) -> bool {
    let faults = [Errno::IO, Errno::NOSPC, Errno::DQUOT, Errno::FBIG, Errno::ROFS];
    faults.iter().any(|fault| error.raw_os_error() == Some(fault.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn write(path: &Path, text: &str) -> io::Result<()> {
        replace(path, Access::Ordinary, |out| out.write_all(text.as_bytes()))
    }

    #[test]
    fn a_failure_leaves_the_old_content_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, "old").unwrap();
        let error = replace(&path, Access::Ordinary, |out| {
            out.write_all(b"new")?;
            Err(io::ErrorKind::Other.into())
        });
        assert!(error.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&path, "new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["file"]);
        assert!(write(&folder.path().join("none/file"), "new").is_err());
        assert!(write(&folder.path().join(".."), "new").is_err());
    }

    #[test]
    fn links_folders_and_pipes_are_neither_followed_nor_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("private"), "kept").unwrap();
        symlink("private", path("link")).unwrap();
        symlink("nowhere", path("dangling")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path("pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let before = names(folder.path());
        for name in ["link", "dangling", "folder", "pipe"] {
            assert!(write(&path(name), "new").is_err(), "{name}");
        }
        assert_eq!(names(folder.path()), before);
        assert_eq!(fs::read(path("private")).unwrap(), b"kept");
        assert!(fs::symlink_metadata(path("link")).unwrap().is_symlink());
        // One that is put there while a file is written stays too.
        let mut file = NewFile::create(&path("late"), Access::Ordinary).unwrap();
        symlink("private", path("late")).unwrap();
        file.write_all(b"new").unwrap();
        assert!(file.finish().is_err());
        assert_eq!(fs::read(path("private")).unwrap(), b"kept");
    }

    #[test]
    fn a_file_keeps_its_mode_and_a_private_one_is_its_owners() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(folder.path().join("ordinary"), "").unwrap();
        write(&path, "new").unwrap();
        assert_eq!(mode(&path), mode(&folder.path().join("ordinary")));
        for kept in [0o600, 0o640, 0o400] {
            fs::set_permissions(&path, Permissions::from_mode(kept)).unwrap();
            write(&path, "newer").unwrap();
            assert_eq!(mode(&path), kept);
        }
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        replace(&path, Access::Private, |out| out.write_all(b"secret")).unwrap();
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn remains_of_a_killed_writer_go_and_live_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let [dead, link] = [".file.part-0123456789Ab", ".file.part-linkLinkLink"];
        // What only looks like it is the user's own.
        let others = [
            ".file.part-mine",
            ".file.part-0123456789A.",
            ".other.part-0123456789Ab",
            "file.part-x",
        ];
        for name in [&[dead][..], &others].concat() {
            fs::write(folder.path().join(name), "half").unwrap();
        }
        symlink("file.part-x", folder.path().join(link)).unwrap();
        let live = NewFile::create(&path, Access::Ordinary).unwrap();
        let second = NewFile::create(&path, Access::Ordinary).unwrap();
        assert_eq!(names(folder.path()).len(), others.len() + 3);
        second.finish().unwrap();
        live.finish().unwrap();
        let mut left = [&others[..], &[link, "file"]].concat();
        left.sort_unstable();
        assert_eq!(names(folder.path()), left);
    }

    #[test]
    fn an_image_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let image = [&MAGIC[..], b"and more"].concat();
        fs::write(&path, &image).unwrap();
        for begin in [NewFile::output, |path: &Path| NewFile::create(path, Access::Private)] {
            let error = begin(&path).unwrap_err();
            assert!(error.to_string().contains("image"), "{error}");
        }
        // Nor is one that is put there meanwhile.
        fs::remove_file(&path).unwrap();
        let file = NewFile::output(&path).unwrap();
        fs::write(&path, &image).unwrap();
        assert!(file.finish().is_err());
        assert_eq!(fs::read(&path).unwrap(), image);
        assert_eq!(names(folder.path()), ["file"]);
        fs::write(&path, &image[..MAGIC.len() - 1]).unwrap();
        write(&path, "new").unwrap();
    }

    #[test]
    fn files_of_others_stay_theirs_but_not_where_anybody_may_put_them() {
        let (root, service) = ((0, 0), (65534, 65534));
        let folder = |mode| Mode::from_raw_mode(mode);
        assert_eq!(kept_owner(service, folder(0o755), root), Some(service));
        assert_eq!(kept_owner((1000, 7), folder(0o775), (1000, 1000)), Some((1000, 7)));
        assert_eq!(kept_owner(service, folder(0o1777), root), None);
        assert_eq!(kept_owner(root, folder(0o755), root), None);
    }

    #[test]
    fn the_longest_name_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("é".repeat(127));
        write(&path, "new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()).len(), 1);
    }

    #[test]
    fn results_may_go_to_pipes_and_devices() {
        NewFile::output(Path::new("/dev/null")).unwrap().finish().unwrap();
        let mut full = NewFile::output(Path::new("/dev/full")).unwrap();
        full.write_all(b"text").unwrap();
        assert_eq!(full.finish().unwrap_err().kind(), io::ErrorKind::StorageFull);
        let (mut reader, writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer));
        let mut file = NewFile::output(Path::new(&path)).unwrap();
        file.write_all(b"text").unwrap();
        file.finish().unwrap();
        drop(writer);
        let mut text = String::new();
        Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(text, "text");
        // Not through a link that anybody may have put there.
        let folder = tempfile::tempdir().unwrap();
        symlink("/dev/null", folder.path().join("link")).unwrap();
        assert!(NewFile::output(&folder.path().join("link")).is_err());
    }
}
