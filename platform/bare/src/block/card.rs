//! The card in the slot. Every piece that arrives is progress: the watchdog hears of it.

use core::ptr::NonNull;

use rill::seams::StorageError;
use rill_bare::storage::sdhci::{Registers, Sdhci, Table};
use rill_bare::storage::{Driver, Finished};

use crate::board::{SDHCI, SDHCI_DMA_OFFSET};
use crate::cpu::CLOCK;
use crate::power::WATCHDOG;
use crate::program::Failure;
use crate::{cpu, mmio};

/// The controller's registers.
struct Controller;

impl Registers for Controller {
    fn read(&self, at: usize) -> u32 {
        mmio::read(SDHCI + at)
    }

    fn write(&mut self, at: usize, value: u32) {
        mmio::write(SDHCI + at, value);
    }

    fn bus_address(&self, start: usize, bytes: usize) -> Option<u32> {
        let start = (start as u64).checked_add(SDHCI_DMA_OFFSET?)?;
        start.checked_add(bytes as u64).filter(|&end| end <= 1 << 32)?;
        u32::try_from(start).ok()
    }

    fn flush(&self, start: usize, bytes: usize) {
        cpu::flush_cache(start, bytes);
    }
}

/// The controller reads it, so it never moves.
static mut TABLE: Table = Table::new();

/// The card.
pub struct Card(Sdhci<Controller>);

/// When the firmware does not know the controller's clock: the fastest that any board has, so that
/// the card's is never too fast.
const FASTEST_HZ: u32 = 250_000_000;

/// Identifies the card.
pub fn open() -> Result<Card, Failure> {
    #[cfg(firmware = "raspberry_pi")]
    let hz = crate::firmware::clock_rate(crate::board::SDHCI_CLOCK).filter(|&hz| hz > 0);
    #[cfg(not(firmware = "raspberry_pi"))]
    let hz = None;
    // SAFETY: the program opens its card once: this is the only reference.
    let table = unsafe { &mut *(&raw mut TABLE) };
    let hz = hz.unwrap_or(FASTEST_HZ);
    Sdhci::new(Controller, hz, &CLOCK, table).map(Card).map_err(|_| Failure::NoDisk)
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
