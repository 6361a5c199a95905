//! Registers of devices.

use core::arch::asm;

use crate::board::DEVICES;

/// Reads a 32-bit register of the board.
///
/// # Panics
/// On an address that is no device's.
pub fn read(address: usize) -> u32 {
    check(address, size_of::<u32>());
    // SAFETY: as `check` says.
    unsafe { (address as *const u32).read_volatile() }
}

/// Writes a 32-bit register of the board.
///
/// # Panics
/// On an address that is no device's.
pub fn write(address: usize, value: u32) {
    check(address, size_of::<u32>());
    // SAFETY: as `check` says.
    unsafe { (address as *mut u32).write_volatile(value) }
}

/// Writes an 8-bit register of the board.
///
/// # Panics
/// On an address that is no device's.
#[cfg(all(interrupts = "gic", block = "virtio"))]
pub fn write_byte(address: usize, value: u8) {
    check(address, size_of::<u8>());
    // SAFETY: as `check` says.
    unsafe { (address as *mut u8).write_volatile(value) }
}

/// Whatever passes is aligned and lies whole in what the board's file says is devices': mapped as
/// device memory, of which the build shares no block with RAM, so that no Rust object lies there.
fn check(address: usize, bytes: usize) {
    let is_there = |device: &core::ops::Range<usize>| {
        device.contains(&address) && bytes <= device.end - address
    };
    assert!(
        address.is_multiple_of(bytes) && DEVICES.iter().any(is_there),
        "{address:#x} is no register"
    );
}

/// Orders everything before against everything after, for devices and other cores.
pub fn barrier() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack)) };
}
