//! The core itself: what it can do, time, rest, caches, exceptions.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use rill::kernels::CpuFeatures;
use rill::seams::{Clock, Micros};

use crate::interrupts;

macro_rules! read_register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading this register changes nothing.
        unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

/// What the cores can do. Boards here have cores of one kind.
pub fn features() -> CpuFeatures {
    let field = |register: u64, at: u32| register >> at & 0xf;
    let (zero, one) = (read_register!("id_aa64isar0_el1"), read_register!("id_aa64isar1_el1"));
    let mut bits = CpuFeatures::NEON;
    if field(zero, 44) != 0 {
        bits |= CpuFeatures::DOTPROD;
    }
    if field(one, 52) != 0 {
        bits |= CpuFeatures::I8MM;
    }
    // SAFETY: every 64-bit Arm core of a board here has Advanced SIMD, and the other two are what
    // the identification registers say (Arm ARM, D23.2); the board's cores are equal.
    unsafe { CpuFeatures::new(bits) }
}

/// The generic timer's counter as a clock.
#[derive(Debug, Clone, Copy)]
pub struct Counter;

/// The clock.
pub static CLOCK: Counter = Counter;

impl Clock for Counter {
    fn now(&self) -> Micros {
        let frequency = read_register!("cntfrq_el0").max(1);
        // SAFETY: a barrier, so that the counter is not read ahead of what comes before.
        unsafe { asm!("isb", options(nomem, nostack)) };
        let count = read_register!("cntpct_el0");
        count / frequency * 1_000_000 + count % frequency * 1_000_000 / frequency
    }
}

/// Lets time pass.
pub fn delay(time: Micros) {
    let start = CLOCK.now();
    while CLOCK.now() - start < time {
        core::hint::spin_loop();
    }
}

/// Lets this core rest until an interrupt is pending for it, but at most `time`.
///
/// Interrupts are masked all the time: a pending one ends the rest, is acknowledged, and nothing
/// else happens.
pub fn rest(time: Micros) {
    let ticks = time * read_register!("cntfrq_el0") / 1_000_000;
    // SAFETY: only the timer of this core is set; its interrupt ends the `wfi`.
    unsafe {
        asm!(
            "msr cntp_tval_el0, {ticks}",
            "msr cntp_ctl_el0, {on}",
            "isb",
            "dsb sy",
            "wfi",
            "msr cntp_ctl_el0, xzr",
            "isb",
            ticks = in(reg) ticks.min(i32::MAX as u64),
            on = in(reg) 1_u64,
            options(nostack)
        );
    }
    interrupts::acknowledge();
}

/// Lets this core rest until another core wakes it.
pub fn sleep() {
    // SAFETY: an interrupt from another core is pending or will come; see `interrupts::wake`.
    unsafe { asm!("dsb sy", "wfi", options(nostack)) };
    interrupts::acknowledge();
}

/// Stops this core.
pub fn halt() -> ! {
    loop {
        // SAFETY: interrupts are masked; waking up and waiting again is all that happens.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}

/// Writes what the caches hold of `bytes` from `start` to memory and forgets it, so that this core
/// and a device that knows no caches see the same.
#[cfg(any(firmware = "raspberry_pi", block = "sdhci"))]
pub fn flush_cache(start: usize, bytes: usize) {
    // The smallest line of all data caches, in words, as a power of two.
    let line = 4_usize << (read_register!("ctr_el0") >> 16 & 0xf);
    let mut at = start & !(line - 1);
    while at < start + bytes {
        // SAFETY: cleaning and invalidating a line of mapped memory loses nothing.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack)) };
        at += line;
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack)) };
}

/// Class of exceptions: a watchpoint of this exception level. `boot.s` sets one, at the end of the
/// stack.
const STACK_END: u64 = 0x35;

/// An exception that nothing expects: reports it.
pub extern "C" fn exception(vector: u64, syndrome: u64, address: u64, fault: u64) -> ! {
    static AGAIN: AtomicBool = AtomicBool::new(false);
    if AGAIN.swap(true, Ordering::Relaxed) {
        halt();
    }
    if syndrome >> 26 == STACK_END {
        panic!("the stack is full, at {address:#x}");
    }
    panic!("exception {vector}, syndrome {syndrome:#x}, at {address:#x}, fault address {fault:#x}");
}
