//! The board's watchdog: it restarts the board when nobody has written to it for some seconds.

use std::fs::File;
use std::io::Write;

/// An open watchdog, or none where the board has none.
pub struct Watchdog(Option<File>);

impl Watchdog {
    /// Opens the first watchdog; from now on it wants to be kicked.
    pub fn open() -> Self {
        Self(File::options().write(true).open("/dev/watchdog").ok())
    }

    /// Says that all is well.
    pub fn kick(&mut self) {
        if let Some(file) = &mut self.0
            && let Err(error) = file.write_all(b"\0")
        {
            eprintln!("note: the watchdog: {error}");
            self.0 = None;
        }
    }

    /// Stops it, where it can be stopped: `V` is the kernel's sign for an end that is meant.
    /// <https://docs.kernel.org/watchdog/watchdog-api.html>
    pub fn close(mut self) {
        if let Some(file) = &mut self.0 {
            // One that cannot be stopped is reset by the power-off that follows.
            let _ = file.write_all(b"V");
        }
    }
}
