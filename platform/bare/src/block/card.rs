//! The card in the slot. Every piece that arrives is progress: the watchdog hears of it.

use core::ptr::NonNull;

use rill::seams::StorageError;
use rill_bare::storage::sdhci::{Registers, Sdhci};
use rill_bare::storage::{Driver, Finished};

use crate::board::{SDHCI, SDHCI_CLOCK};
use crate::cpu::CLOCK;
use crate::power::WATCHDOG;
use crate::program::Failure;
use crate::{firmware, mmio};

/// The controller's registers.
struct Controller;

impl Registers for Controller {
    fn read(&self, at: usize) -> u32 {
        mmio::read(SDHCI + at)
    }

    fn write(&mut self, at: usize, value: u32) {
        mmio::write(SDHCI + at, value);
    }
}

/// The card.
pub struct Card(Sdhci<Controller>);

/// When the firmware does not know the controller's clock: the fastest that any board has, so that
/// the card's is never too fast.
const FASTEST_HZ: u32 = 250_000_000;

/// Identifies the card.
pub fn open() -> Result<Card, Failure> {
    let hz = firmware::clock_rate(SDHCI_CLOCK).filter(|&hz| hz > 0).unwrap_or(FASTEST_HZ);
    Sdhci::new(Controller, hz, &CLOCK).map(Card).map_err(|_| Failure::NoDisk)
}

impl Driver for Card {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn blocks(&self) -> u64 {
        self.0.blocks()
    }

    fn depth(&self) -> usize {
        self.0.depth()
    }

    unsafe fn start(
        &mut self,
        slot: usize,
        block: u64,
        into: NonNull<[u8]>,
    ) -> Result<(), StorageError> {
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { self.0.start(slot, block, into) }
    }

    fn poll(&mut self) -> Option<Finished> {
        let finished = self.0.poll()?;
        WATCHDOG.kick();
        Some(finished)
    }

    fn rest(&mut self) {
        self.0.rest();
    }

    fn reset(&mut self) {
        // A stalled card is not a hung program: the engine gives up after a few times.
        WATCHDOG.kick();
        self.0.reset();
    }
}
