//! Signals that ask the program to end: Ctrl-C (SIGINT), SIGTERM, and SIGHUP when its terminal is
//! gone.
//!
//! The first one is heeded where something can be lost by ending, and a command that does not heed
//! it soon is ended; a second one ends the program at once. In a conversation Ctrl-C ends an answer
//! only, and at its prompt nothing.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::thread::{Builder, sleep};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::failure::{Failure, INTERRUPTED};
use crate::terminal;

/// What the program is doing, for the meaning of Ctrl-C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Doing {
    /// What it was started for.
    Command,
    /// It answers in a conversation.
    Answer,
    /// It waits for a line in a conversation.
    Prompt,
    /// It keeps what it learned: see [`unhurried`].
    Keeping,
}

const KEEPING: u8 = Doing::Keeping as u8;

/// Time to heed a signal. Nothing takes longer than twice this to end, but what is [`unhurried`].
const GRACE: Duration = Duration::from_secs(1);

static DOING: AtomicU8 = AtomicU8::new(Doing::Command as u8);
/// A signal asked that what is being done ends.
static ASKED: AtomicBool = AtomicBool::new(false);
/// It was one that ends the program.
static LEAVING: AtomicBool = AtomicBool::new(false);
/// The program knows, and is about to end.
static HEEDED: AtomicBool = AtomicBool::new(false);
/// Ctrl-C came, and no thread has heard of it yet.
static CAME: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
/// Ctrl-C came at this prompt.
static IDLY: AtomicBool = AtomicBool::new(false);
/// Wakes whoever waits at a prompt.
static WAKE: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();

/// From now on a file that grows beyond the system's limit is an error of the write, which cleans up
/// after itself, and not the end of the program.
pub fn survive_size_limits() -> Result<(), Failure> {
    let failed = |error| Failure::System { what: "cannot watch for SIGXFSZ", error };
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map_err(failed)?;
    Ok(())
}

/// From now on signals are watched.
pub fn watch() -> Result<(), Failure> {
    terminal::remember();
    // The first to know: a thread hears of it when it gets a core.
    signal_hook::flag::register(SIGINT, Arc::clone(&CAME)).map_err(unwatched)?;
    listen(hear)
}

/// From now on `hear` is told of each signal, in a thread of its own, and none of them ends the program.
pub fn listen(hear: impl FnMut(i32) + Send + 'static) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(unwatched)?;
    let watch = move || signals.forever().for_each(hear);
    Builder::new().name("rill-signals".into()).spawn(watch).map_err(unwatched)?;
    Ok(())
}

fn unwatched(error: io::Error) -> Failure {
    Failure::System { what: "cannot watch for signals", error }
}

/// Says what is done from now on.
pub fn now(doing: Doing) {
    IDLY.store(false, Ordering::SeqCst);
    // In a conversation Ctrl-C is for what was done when it came, however late a thread hears of it.
    if DOING.load(Ordering::SeqCst) != Doing::Command as u8 {
        CAME.store(false, Ordering::SeqCst);
    }
    DOING.store(doing as u8, Ordering::SeqCst);
    // What came too late for one answer does not end the next.
    if !leaving() {
        ASKED.store(false, Ordering::SeqCst);
        // A signal to leave may have come between the two.
        if leaving() {
            ASKED.store(true, Ordering::SeqCst);
        }
    }
}

/// Does what would be lost when the program ended within it: a signal waits until it is done.
pub fn unhurried<T>(work: impl FnOnce() -> T) -> T {
    now(Doing::Keeping);
    let done = work();
    now(Doing::Command);
    done
}

/// What to call when the program is asked to end while it waits. Only the first one counts.
pub fn wake(call: impl Fn() + Send + Sync + 'static) {
    let _ = WAKE.set(Box::new(call));
}

/// Whether a signal asked that what is being done ends.
pub fn asked() -> bool {
    let asked = ASKED.load(Ordering::SeqCst);
    if asked {
        HEEDED.store(true, Ordering::SeqCst);
    }
    asked
}

/// Whether a signal asked that the program ends.
pub fn leaving() -> bool {
    LEAVING.load(Ordering::SeqCst)
}

/// An error when a signal asked that what is being done ends.
pub fn check() -> Result<(), Failure> {
    if asked() { Err(Failure::Interrupted) } else { Ok(()) }
}

/// Like [`asked`], for an answer. The wish has then been fulfilled, unless the program is to end.
pub fn take() -> bool {
    asked() && (leaving() || ASKED.swap(false, Ordering::SeqCst))
}

fn hear(signal: i32) {
    // In this order: what is gone when something else is done was for what was done before.
    let doing = DOING.load(Ordering::SeqCst);
    if signal == SIGINT && !CAME.swap(false, Ordering::SeqCst) {
        return;
    }
    if signal == SIGINT && doing == Doing::Prompt as u8 && !IDLY.swap(true, Ordering::SeqCst) {
        return;
    }
    let leaves = signal != SIGINT || doing != Doing::Answer as u8;
    if leaves && !LEAVING.swap(true, Ordering::SeqCst) {
        HEEDED.store(false, Ordering::SeqCst);
    }
    if ASKED.swap(true, Ordering::SeqCst) {
        end();
    }
    if !leaves {
        return;
    }
    if let Some(call) = WAKE.get() {
        call();
    }
    // Who waits is woken, and then has files to write.
    if doing != Doing::Prompt as u8 {
        let patience = || {
            sleep(GRACE);
            while DOING.load(Ordering::SeqCst) == KEEPING {
                sleep(GRACE);
            }
            if !HEEDED.load(Ordering::SeqCst) {
                end();
            }
        };
        if Builder::new().name("rill-grace".into()).spawn(patience).is_err() {
            end();
        }
    }
}

fn end() -> ! {
    terminal::restore();
    std::process::exit(i32::from(INTERRUPTED))
}

/// Whether an error says that the terminal is gone.
pub fn is_hangup(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_c_at_a_prompt_that_is_heard_late_does_not_end_the_next_answer() {
        now(Doing::Prompt);
        CAME.store(true, Ordering::SeqCst);
        now(Doing::Answer);
        hear(SIGINT);
        assert!(!asked());
        CAME.store(true, Ordering::SeqCst);
        hear(SIGINT);
        assert!(take() && !leaving() && !asked());
        now(Doing::Command);
    }
}
