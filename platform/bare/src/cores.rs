//! The other cores: how they start, work and rest.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use rill::seams::{Clock, Crew, Micros, Parallel, Park};

use crate::cpu::{self, CLOCK};
use crate::power::Watchdog;
use crate::{board, boot, interrupts};

/// How long an idle core watches for work before it sleeps.
const WATCH: Micros = 30;
/// A core that has not begun by then does not exist; under an emulator it may have to wait for a core.
const START: Micros = 10_000_000;

/// Sleeping on a word: any core's interrupt ends it.
pub struct Rest;

impl Park for Rest {
    fn watch(&self, condition: &dyn Fn() -> bool) -> bool {
        let start = CLOCK.now();
        loop {
            for _ in 0..32 {
                if condition() {
                    return true;
                }
                core::hint::spin_loop();
            }
            if CLOCK.now() - start >= WATCH {
                return condition();
            }
        }
    }

    fn sleep(&self, word: &AtomicU32, value: u32) {
        // A wake between this look and the `wfi` leaves an interrupt pending, which ends the `wfi`
        // at once.
        if word.load(Ordering::SeqCst) == value {
            cpu::sleep();
        }
    }

    fn wake(&self, _: &AtomicU32) {
        interrupts::wake_others();
    }
}

/// All cores, for loops. Every loop is progress: the watchdog hears of it.
pub struct Cores {
    watchdog: &'static Watchdog,
}

impl Parallel for Cores {
    fn width(&self) -> usize {
        CREW.width()
    }

    fn run(&self, parts: usize, body: &(dyn Fn(usize) + Sync)) {
        CREW.run(parts, body);
        self.watchdog.kick();
    }
}

/// Number of this core, 0 for the first.
pub fn number() -> usize {
    let value: u64;
    // SAFETY: reading this register changes nothing.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) value, options(nomem, nostack)) };
    (value & 0xff) as usize
}

/// All cores.
static CREW: Crew<Rest> = Crew::new(Rest);

/// Starts other cores, so that `width` work together if the board has as many.
pub fn start(width: usize, watchdog: &'static Watchdog) -> Cores {
    for number in 1..width.min(board::CORES) {
        if !launch(number) {
            break;
        }
        let begin = CLOCK.now();
        while CREW.width() <= number && CLOCK.now() - begin < START {
            core::hint::spin_loop();
        }
        if CREW.width() <= number {
            break;
        }
    }
    Cores { watchdog }
}

/// The life of a core that is not the first.
pub extern "C" fn secondary_main(_number: usize) -> ! {
    interrupts::start();
    CREW.serve();
    cpu::halt()
}

#[cfg(secondaries = "psci")]
fn launch(number: usize) -> bool {
    use smccc::psci::cpu_on;
    let entry = boot::start_secondary as *const () as u64;
    crate::power::call(|hvc| match hvc {
        true => cpu_on::<smccc::Hvc>(number as u64, entry, 0),
        false => cpu_on::<smccc::Smc>(number as u64, entry, 0),
    })
    .is_ok()
}

#[cfg(secondaries = "spin_table")]
fn launch(number: usize) -> bool {
    let Some(&release) = board::RELEASE.get(number - 1) else { return false };
    let entry = boot::start_secondary as *const () as usize;
    // SAFETY: the board's file says that the core waits for an address there; the place is RAM that
    // belongs to nobody, and the core reads it past the caches.
    unsafe { (release as *mut usize).write_volatile(entry) };
    cpu::flush_cache(release, size_of::<usize>());
    // SAFETY: an event for cores that wait for one.
    unsafe { asm!("sev", options(nostack)) };
    true
}
