//! The user that the program runs as: it reads the model, has a folder of its own, and writes nothing
//! else.

use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

/// A user that owns nothing else.
#[derive(Debug, Clone, Copy)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// That of its group.
    pub gid: u32,
}

/// The program's.
pub const RILL: User = User { uid: 1000, gid: 1000 };

impl User {
    /// Makes a folder that only this user enters, or takes the one that is there.
    pub fn own(self, folder: &Path) -> io::Result<()> {
        match rustix::fs::mkdir(folder, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            made => made?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())?;
        rustix::fs::fchown(&folder, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        Ok(rustix::fs::fchmod(&folder, Mode::RWXU)?)
    }

    /// Lets this user read a device, or a file, and not write to it.
    pub fn may_read(self, device: &Path) -> io::Result<()> {
        let found = rustix::fs::lstat(device)?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Symlink {
            return Err(io::Error::other("a link"));
        }
        let group = Some(Gid::from_raw(self.gid));
        rustix::fs::chownat(CWD, device, None, group, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(rustix::fs::chmod(device, Mode::RUSR | Mode::WUSR | Mode::RGRP)?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::process::{getegid, geteuid};

    use super::*;

    /// What this process may give files to.
    fn user() -> User {
        User { uid: geteuid().as_raw(), gid: getegid().as_raw() }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_folder_is_its_users_alone() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own");
        user().own(&own).unwrap();
        assert_eq!(mode(&own), 0o700);
        fs::set_permissions(&own, Permissions::from_mode(0o755)).unwrap();
        fs::write(own.join("talk"), "kept").unwrap();
        user().own(&own).unwrap();
        assert_eq!(mode(&own), 0o700);
        assert_eq!(fs::read(own.join("talk")).unwrap(), b"kept");
        for (name, target) in [("link", "own"), ("dangling", "none")] {
            let link = folder.path().join(name);
            symlink(target, &link).unwrap();
            assert!(user().own(&link).is_err(), "{name}");
        }
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(user().own(&folder.path().join("file")).is_err());
    }

    #[test]
    fn a_device_is_read_by_the_user_and_written_by_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let [device, link] = ["device", "link"].map(|name| folder.path().join(name));
        fs::write(&device, "").unwrap();
        fs::set_permissions(&device, Permissions::from_mode(0o666)).unwrap();
        symlink("device", &link).unwrap();
        assert!(user().may_read(&link).is_err());
        assert_eq!(mode(&device), 0o666);
        user().may_read(&device).unwrap();
        assert_eq!(mode(&device), 0o640);
        assert!(user().may_read(&folder.path().join("none")).is_err());
    }
}
