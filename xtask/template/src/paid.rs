//! Fuel for what the program itself makes for a template: it is paid before it is made, and a
//! rendering that was given up has none left.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minijinja::{Error, ErrorKind, State};

/// Bytes that one fuel pays for.
const BYTES_PER_FUEL: usize = 16;
/// Bytes that may be made before they are paid, so that small ones cost what they are worth.
const CREDIT: usize = 256;

thread_local! {
    /// Whether somebody still waits for what this thread renders.
    static GIVEN_UP: RefCell<Arc<AtomicBool>> = RefCell::default();
}

/// From now on this thread has no fuel once `given_up` is set.
pub fn heed(given_up: Arc<AtomicBool>) {
    GIVEN_UP.set(given_up);
}

/// Pays for so many bytes.
pub fn pay(state: &State, bytes: usize) -> Result<(), Error> {
    if GIVEN_UP.with_borrow(|given_up| given_up.load(Ordering::Relaxed)) {
        return Err(ErrorKind::OutOfFuel.into());
    }
    state.consume_fuel((bytes / BYTES_PER_FUEL) as u64)
}

/// A text that grows as it is paid for.
#[derive(Default)]
pub struct PaidText {
    text: String,
    /// Bytes of it that are not paid yet; fewer than [`CREDIT`].
    unpaid: usize,
}

impl PaidText {
    /// Adds to its end.
    pub fn push_str(&mut self, state: &State, text: &str) -> Result<(), Error> {
        self.unpaid = self.unpaid.saturating_add(text.len());
        if self.unpaid >= CREDIT {
            pay(state, self.unpaid)?;
            self.unpaid = 0;
        }
        self.text.push_str(text);
        Ok(())
    }

    /// Adds a character to its end.
    pub fn push(&mut self, state: &State, char: char) -> Result<(), Error> {
        self.push_str(state, char.encode_utf8(&mut [0; 4]))
    }

    /// All of it.
    pub fn finish(self, state: &State) -> Result<String, Error> {
        pay(state, self.unpaid)?;
        Ok(self.text)
    }
}

/// Collects parts of a text into a list, paying for each place in it.
pub fn collect<'t>(
    state: &State,
    parts: impl Iterator<Item = &'t str>,
) -> Result<Vec<&'t str>, Error> {
    let mut all = Vec::new();
    for part in parts {
        // A place in this list, and one in the list that the template gets.
        pay(state, 2 * BYTES_PER_FUEL)?;
        all.push(part);
    }
    Ok(all)
}
