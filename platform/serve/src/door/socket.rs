//! Sockets in the file system.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, chmod, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

/// The name of a socket; it goes with this, unless it has become another's meanwhile.
#[derive(Debug)]
pub struct Name {
    path: PathBuf,
    /// Its device and its number there.
    place: (u64, u64),
}

impl Drop for Name {
    fn drop(&mut self) {
        if place(&self.path).is_ok_and(|place| place == self.place) {
            // Whoever may not take it away leaves it to the next server.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens at a path, in the place of a socket that nobody listens at any more. The user and the group may
/// ask, and nobody else.
pub fn listen_at(path: &Path) -> io::Result<(UnixListener, Name)> {
    let address = SocketAddrUnix::new(path)?;
    remove_stale(path, &address)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Nobody else may ask from its first moment on. The umask may take the group's part away: it comes after.
    let mode = Mode::from_raw_mode(0o660);
    fchmod(&socket, mode)?;
    bind(&socket, &address)?;
    let name = Name { path: path.to_owned(), place: place(path)? };
    chmod(path, mode)?;
    listen(&socket, BACKLOG)?;
    Ok((UnixListener::from(socket), name))
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Takes away the socket of a server that has gone: one that refuses connections. Whatever else is there
/// stays, and binding says so.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> io::Result<()> {
    if !path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket()) {
        return Ok(());
    }
    // A server that has too much to do is not waited for.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, address) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn place(path: &Path) -> io::Result<(u64, u64)> {
    path.symlink_metadata().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    #[test]
    fn only_what_a_server_left_behind_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let kind = |path: &Path| listen_at(path).map(drop).map_err(|error| error.kind());
        drop(UnixListener::bind(path("stale")).unwrap());
        assert_eq!(kind(&path("stale")), Ok(()));
        let _datagrams = UnixDatagram::bind(path("datagrams")).unwrap();
        let live = UnixListener::bind(path("live")).unwrap();
        // One that has all the connections it takes still lives.
        let full = listen_at(&path("full")).unwrap();
        listen(&full.0, 0).unwrap();
        let _waiting = UnixStream::connect(path("full")).unwrap();
        std::fs::write(path("file"), "kept").unwrap();
        for taken in ["datagrams", "live", "full", "file"] {
            assert_eq!(kind(&path(taken)), Err(io::ErrorKind::AddrInUse), "{taken}");
            assert!(path(taken).exists(), "{taken}");
        }
        drop(live);
    }

    #[test]
    fn a_name_is_for_its_user_and_group_and_goes_with_its_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (listener, name) = listen_at(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        UnixStream::connect(&path).unwrap();
        drop((listener, name));
        assert!(!path.exists());
        // Another's name stays.
        let (_listener, name) = listen_at(&path).unwrap();
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        std::fs::write(&path, "another's").unwrap();
        drop(name);
        assert!(path.exists());
    }
}
