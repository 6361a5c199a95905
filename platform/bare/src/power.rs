//! Off, restart, and a watchdog that restarts a board on which nothing goes on.

use core::sync::atomic::{AtomicU64, Ordering};

use rill::seams::{Clock, Micros};

use crate::cpu::{self, CLOCK};

#[cfg(secondaries = "psci")]
pub use psci::{call, entered_at};

/// A panic is shown for so long before the board restarts.
pub const SHOW: Micros = 2_000_000;
/// How often the watchdog is told of progress at most.
const KICK: Micros = 1_000_000;

/// Restarts the board unless it hears of progress every 15 seconds.
///
/// The Raspberry Pi's lies in its power management. QEMU's `virt` has none unless one is added to
/// it; there, the storage's own time limit is what ends a wait. QEMU's Raspberry Pis restart as soon
/// as the watchdog is set, so it is left alone there: only hardware can show that it works.
pub struct Watchdog {
    /// When it was last kicked; 0 when it is not armed.
    last: AtomicU64,
}

/// The watchdog.
pub static WATCHDOG: Watchdog = Watchdog { last: AtomicU64::new(0) };

impl Watchdog {
    /// Something went on.
    pub fn kick(&self) {
        let last = self.last.load(Ordering::Relaxed);
        if last != 0 && CLOCK.now() - last >= KICK {
            self.last.store(CLOCK.now(), Ordering::Relaxed);
            #[cfg(firmware = "raspberry_pi")]
            raspberry_pi::count_down(raspberry_pi::LONGEST);
        }
    }

    /// From now on progress is expected.
    #[cfg(firmware = "raspberry_pi")]
    pub fn arm(&self) {
        self.last.store(CLOCK.now().max(1), Ordering::Relaxed);
        raspberry_pi::count_down(raspberry_pi::LONGEST);
    }
}

/// Switches the board off, or stops it where it cannot be switched off.
pub fn off() -> ! {
    #[cfg(secondaries = "psci")]
    psci::off();
    #[cfg(firmware = "raspberry_pi")]
    raspberry_pi::off();
    cpu::halt()
}

/// Restarts the board.
pub fn restart() -> ! {
    #[cfg(secondaries = "psci")]
    psci::restart();
    #[cfg(firmware = "raspberry_pi")]
    raspberry_pi::count_down(raspberry_pi::SHORTEST);
    cpu::halt()
}

/// Arm's power state coordination interface (DEN 0022).
#[cfg(secondaries = "psci")]
mod psci {
    use core::sync::atomic::{AtomicBool, Ordering};

    use smccc::psci::error::Error;
    use smccc::{Hvc, Smc, psci};

    static HYPERVISOR: AtomicBool = AtomicBool::new(true);

    /// The exception level at which the program was entered: whoever is above it answers calls.
    pub fn entered_at(level: u64) {
        HYPERVISOR.store(level < 2, Ordering::Relaxed);
    }

    /// Makes a call with `hvc` (true) or `smc`.
    pub fn call(make: impl FnOnce(bool) -> Result<(), Error>) -> Result<(), Error> {
        make(HYPERVISOR.load(Ordering::Relaxed))
    }

    // What cannot be done is followed by a halt.
    pub fn off() {
        let _ = call(|hvc| if hvc { psci::system_off::<Hvc>() } else { psci::system_off::<Smc>() });
    }

    pub fn restart() {
        let _ =
            call(|hvc| if hvc { psci::system_reset::<Hvc>() } else { psci::system_reset::<Smc>() });
    }
}

/// Power management of the BCM2835 and its successors. Names and bits as in Linux'
/// `drivers/watchdog/bcm2835_wdt.c`; Broadcom's manuals do not describe it.
#[cfg(firmware = "raspberry_pi")]
mod raspberry_pi {
    use crate::board::POWER;
    use crate::mmio;

    const RSTC: usize = POWER + 0x1c;
    const RSTS: usize = POWER + 0x20;
    const WDOG: usize = POWER + 0x24;
    const PASSWORD: u32 = 0x5a00_0000;
    const CONFIGURATION: u32 = 0x30;
    const FULL_RESET: u32 = 0x20;
    /// Partition 63: the firmware stops instead of booting.
    const STOP: u32 = 0x555;

    /// Ticks of 1/65536 s: nearly 16 s.
    pub const LONGEST: u32 = 0xf_ffff;
    /// As short as is safe.
    pub const SHORTEST: u32 = 10;

    /// Restarts the board after so many ticks.
    pub fn count_down(ticks: u32) {
        mmio::write(WDOG, PASSWORD | ticks);
        let control = mmio::read(RSTC) & !CONFIGURATION & 0x00ff_ffff;
        mmio::write(RSTC, PASSWORD | control | FULL_RESET);
    }

    /// Restarts into a stop.
    pub fn off() {
        mmio::write(RSTS, PASSWORD | mmio::read(RSTS) & 0x00ff_ffff | STOP);
        count_down(SHORTEST);
    }
}
