//! The `rill` program for boards without an operating system.
//!
//! QEMU-tested, hardware-unverified. In reading order: [`boot`] brings the first core to [`main`];
//! [`cpu`], [`interrupts`] and [`cores`] are what the engine computes with; [`console`], [`mod@log`]
//! and [`block`] are its devices, [`pmu`] counts; [`program`] loads the model, [`chat`] holds
//! conversations; [`power`] ends them.

#![no_std]
#![no_main]

#[cfg(block = "virtio")]
extern crate alloc;

mod block;
mod board;
mod boot;
mod chat;
mod console;
mod cores;
mod cpu;
mod critical;
#[cfg(firmware = "raspberry_pi")]
mod firmware;
mod heap;
mod interrupts;
mod log;
mod mmio;
mod pmu;
mod power;
mod program;

use core::fmt::Write;
use core::panic::PanicInfo;

use console::Console;

/// Entered once, on the first core, with translation and caches on. `level` is the exception level
/// at which the loader entered the program.
extern "C" fn main(level: u64) -> ! {
    #[cfg(secondaries = "psci")]
    power::entered_at(level);
    #[cfg(not(secondaries = "psci"))]
    let _ = level;
    #[cfg(firmware = "raspberry_pi")]
    firmware::start();
    interrupts::start();
    #[cfg(block = "virtio")]
    heap::start();
    let mut console = Console::start();
    log::start();
    defmt::info!("{=str}, entered at level {}", board::TITLE, level);
    #[cfg(firmware = "raspberry_pi")]
    if !firmware::is_emulated() {
        power::WATCHDOG.arm();
    }
    program::run(&mut console)
}

/// The address after the last of the RAM that the program may use.
fn ram_end() -> usize {
    #[cfg(firmware = "raspberry_pi")]
    return firmware::ram_end().min(board::RAM_END);
    #[cfg(not(firmware = "raspberry_pi"))]
    board::RAM_END
}

/// Says what happened, lets people read it, and restarts the board.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut console = Console::start();
    // It never fails.
    let _ = writeln!(console, "\n\npanic on core {}: {info}", cores::number());
    console.drain();
    cpu::delay(power::SHOW);
    power::restart()
}

/// Named by the tables of the prebuilt `core`, which can unwind; this program never does.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Asked by the prebuilt compiler runtime, in constructors that are never called, for what the CPU
/// can do: nothing that it would use.
#[unsafe(no_mangle)]
extern "C" fn getauxval(_: u64) -> u64 {
    0
}
