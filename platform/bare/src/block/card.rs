//! The card in the slot.

use core::sync::atomic::{AtomicBool, Ordering};

use rill_bare::storage::sdhci::{Registers, Sdhci, Table};

use super::NoDevice;
use crate::board::{SDHCI, SDHCI_DMA_OFFSET};
use crate::cpu::CLOCK;
use crate::{cpu, mmio};

/// The controller's registers.
pub struct Controller;

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
/// Somebody has the table.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// When the firmware does not know the controller's clock: the fastest that any board has, so that
/// the card's is never too fast.
const FASTEST_HZ: u32 = 250_000_000;

/// Identifies the card. Only the first caller has it.
pub fn open() -> Result<Sdhci<Controller>, NoDevice> {
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(NoDevice);
    }
    #[cfg(firmware = "raspberry_pi")]
    let hz = crate::firmware::clock_rate(crate::board::SDHCI_CLOCK).filter(|&hz| hz > 0);
    #[cfg(not(firmware = "raspberry_pi"))]
    let hz = None;
    // SAFETY: only one caller passed the flag above: this is the only reference.
    let table = unsafe { &mut *(&raw mut TABLE) };
    let hz = hz.unwrap_or(FASTEST_HZ);
    Sdhci::new(Controller, hz, &CLOCK, table).map_err(|_| NoDevice)
}
