//! Reading regular files, and nothing else: opening a pipe would wait for its writer, and reading a
//! device might never end.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

/// Opens a regular file for reading.
pub fn open(path: &Path) -> io::Result<File> {
    open_with(path, OFlags::empty())
}

/// Opens a regular file that nobody but this user and root can have written; no link is followed to it.
pub fn open_own(path: &Path) -> io::Result<File> {
    let file = open_with(path, OFlags::NOFOLLOW)?;
    let found = rustix::fs::fstat(&file)?;
    let by_others = found.st_mode & 0o022 != 0;
    if by_others || ![0, rustix::process::geteuid().as_raw()].contains(&found.st_uid) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "others may have written it"));
    }
    Ok(file)
}

/// Reads a regular file of at most `most` bytes; no link is followed to it.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = open_with(path, OFlags::NOFOLLOW)?;
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

fn open_with(path: &Path, flags: OFlags) -> io::Result<File> {
    let check = |found: rustix::fs::Stat| match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(io::Error::from(io::ErrorKind::IsADirectory)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    };
    // Opening some devices does something already.
    check(rustix::fs::stat(path)?)?;
    let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    check(rustix::fs::fstat(&file)?)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_others_may_have_written_is_not_opened_as_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "").unwrap();
        for (mode, own) in [(0o600, true), (0o644, true), (0o620, false), (0o602, false)] {
            fs::set_permissions(path("file"), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(open_own(&path("file")).is_ok(), own, "{mode:o}");
        }
        fs::set_permissions(path("file"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink("file", path("link")).unwrap();
        assert!(open_own(&path("link")).is_err());
    }

    #[test]
    fn only_regular_files_of_some_length_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "12345").unwrap();
        assert_eq!(read(&path("file"), 5).unwrap(), b"12345");
        assert_eq!(read(&path("file"), 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        symlink("file", path("link")).unwrap();
        assert!(read(&path("link"), 5).is_err());
        assert!(open(&path("link")).is_ok());
        let (pipe, mode) = (path("pipe"), Mode::from_raw_mode(0o600));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, mode, 0).unwrap();
        for wrong in [&pipe, folder.path(), Path::new("/dev/zero"), &path("none")] {
            assert!(open(wrong).is_err(), "{}", wrong.display());
            assert!(read(wrong, 5).is_err(), "{}", wrong.display());
        }
    }
}
