//! Ctrl-C: once asks, twice ends.

use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::Failure;

static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C (or a request to terminate) is noted; a second one ends the process.
pub fn watch() -> Result<(), Failure> {
    ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::Relaxed) {
            exit(130);
        }
    })
    .map_err(|error| Failure::System {
        what: "cannot watch for Ctrl-C",
        error: std::io::Error::other(error),
    })
}

/// Whether the user asked to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// An error when the user asked to stop.
pub fn check() -> Result<(), Failure> {
    if asked() { Err(Failure::Interrupted) } else { Ok(()) }
}

/// The wish has been fulfilled. Says whether there was one.
pub fn take() -> bool {
    ASKED.swap(false, Ordering::Relaxed)
}
