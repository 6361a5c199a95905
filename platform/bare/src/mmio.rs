//! Registers of devices.

use core::arch::asm;

/// Reads a 32-bit register of the board.
pub fn read(address: usize) -> u32 {
    // SAFETY: callers pass addresses of registers that the board's file names: mapped device
    // memory, aligned, and no Rust object lies there.
    unsafe { (address as *const u32).read_volatile() }
}

/// Writes a 32-bit register of the board.
pub fn write(address: usize, value: u32) {
    // SAFETY: as in `read`.
    unsafe { (address as *mut u32).write_volatile(value) }
}

/// Writes an 8-bit register of the board.
#[cfg(all(interrupts = "gic", block = "virtio"))]
pub fn write_byte(address: usize, value: u8) {
    // SAFETY: as in `read`.
    unsafe { (address as *mut u8).write_volatile(value) }
}

/// Orders everything before against everything after, for devices and other cores.
pub fn barrier() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack)) };
}
