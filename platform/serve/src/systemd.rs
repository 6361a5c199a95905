//! What systemd gives a service that it starts, and what it wants to hear.
//!
//! Protocols: <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html> (`Type=notify`,
//! `WatchdogSec=`) and `sd_listen_fds.html` (sockets that listened before the service was there).

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::FdFlags;

/// What started this server and watches over it, if anything does.
#[derive(Debug, Default)]
pub struct Supervisor {
    /// Sockets that listen already.
    pub sockets: Vec<OwnedFd>,
    /// Who wants to hear how the server is.
    pub notify: Option<Notify>,
    /// Who is not heard for so long is ended, and started again.
    pub watchdog: Option<Duration>,
}

/// Where a server tells how it is.
#[derive(Debug)]
pub struct Notify(UnixDatagram);

/// The first descriptor that is passed.
const FIRST: RawFd = 3;
/// More sockets than any unit has.
const MOST: RawFd = 64;

impl Supervisor {
    /// As the environment of this process says. To be called before anything opens a file: what is
    /// passed has the lowest numbers. Sockets are passed once: a second call has none.
    pub fn from_env() -> io::Result<Self> {
        let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
        let own = u64::from(std::process::id());
        // They have one owner.
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let sockets = match (number("LISTEN_PID"), number("LISTEN_FDS")) {
            (Some(pid), Some(count)) if pid == own && !TAKEN.swap(true, Ordering::SeqCst) => {
                passed(count)?
            }
            _ => Vec::new(),
        };
        let notify = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty());
        let notify = notify.map(|path| Notify::connect(path.as_encoded_bytes())).transpose()?;
        let is_watched = number("WATCHDOG_PID").is_none_or(|pid| pid == own);
        let watchdog = number("WATCHDOG_USEC").filter(|&micros| is_watched && micros > 0);
        Ok(Self { sockets, notify, watchdog: watchdog.map(Duration::from_micros) })
    }
}

/// The sockets that were passed.
fn passed(count: u64) -> io::Result<Vec<OwnedFd>> {
    let count = RawFd::try_from(count).ok().filter(|count| (0..=MOST).contains(count));
    let count = count.ok_or_else(|| io::Error::other("LISTEN_FDS is no number of sockets"))?;
    (FIRST..FIRST + count)
        .map(|number| {
            // SAFETY: only marks it, where it is open; nothing is read, written or closed.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
            // SAFETY: it is open, and the environment says that it was opened for this process to own.
            Ok(unsafe { OwnedFd::from_raw_fd(number) })
        })
        .collect()
}

impl Notify {
    /// To a socket in the file system, or with `@` first to one that has a name alone.
    pub fn connect(path: &[u8]) -> io::Result<Self> {
        let address = match path {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // A supervisor that does not listen must not stop the server.
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Tells it, a line for each. Who does not hear it cannot be helped.
    pub fn tell(&self, lines: &str) {
        let _ = self.0.send(lines.as_bytes());
    }
}
