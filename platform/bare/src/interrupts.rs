//! Interrupts, which only ever end a core's rest: cores wake each other, devices and timers wake
//! the first core. No handler runs.

use crate::mmio;

pub use controller::{acknowledge, start, wake_others};

/// Arm's generic interrupt controller, version 2 (IHI 0048B).
#[cfg(interrupts = "gic")]
mod controller {
    use super::mmio;
    use crate::board::{CPU_INTERFACE, DISTRIBUTOR};

    const GICD_CTLR: usize = DISTRIBUTOR;
    const GICD_ISENABLER: usize = DISTRIBUTOR + 0x100;
    #[cfg(block = "virtio")]
    const GICD_IPRIORITYR: usize = DISTRIBUTOR + 0x400;
    #[cfg(block = "virtio")]
    const GICD_ITARGETSR: usize = DISTRIBUTOR + 0x800;
    const GICD_SGIR: usize = DISTRIBUTOR + 0xf00;
    const GICC_CTLR: usize = CPU_INTERFACE;
    const GICC_PMR: usize = CPU_INTERFACE + 0x4;
    const GICC_IAR: usize = CPU_INTERFACE + 0xc;
    const GICC_EOIR: usize = CPU_INTERFACE + 0x10;

    /// To all cores but this one.
    const OTHERS: u32 = 0b01 << 24;
    /// Interrupt of the timer at exception level 1.
    const TIMER: u32 = 30;
    /// Numbers from here on say that nothing is pending.
    const NOTHING: u32 = 1020;

    /// Makes interrupts reach this core.
    pub fn start() {
        mmio::write(GICD_CTLR, 1);
        // Numbers 0 to 15 come from other cores.
        mmio::write(GICD_ISENABLER, 1 << TIMER | 0xffff);
        mmio::write(GICC_PMR, 0xff);
        mmio::write(GICC_CTLR, 1);
    }

    /// Lets a device wake the first core.
    #[cfg(block = "virtio")]
    pub fn enable(number: u32) {
        let number = number as usize;
        // Byte registers: which cores, and how urgent.
        mmio::write_byte(GICD_ITARGETSR + number, 1);
        mmio::write_byte(GICD_IPRIORITYR + number, 0x80);
        mmio::write(GICD_ISENABLER + number / 32 * 4, 1 << (number % 32));
    }

    /// Ends what is pending for this core.
    pub fn acknowledge() {
        // A device that goes on asking must not hold us up.
        for _ in 0..32 {
            let number = mmio::read(GICC_IAR);
            if number & 0x3ff >= NOTHING {
                break;
            }
            mmio::write(GICC_EOIR, number);
        }
    }

    /// Wakes all cores but this one. What was written before is seen by them.
    pub fn wake_others() {
        mmio::barrier();
        mmio::write(GICD_SGIR, OTHERS);
    }
}

/// The per-core devices of the BCM2836 and BCM2837 ("BCM2836 ARM-local peripherals", QA7 3.4).
#[cfg(interrupts = "bcm2836")]
mod controller {
    use super::mmio;
    use crate::board::{CORE_LOCAL, CORES};
    use crate::cores;

    /// Which timers interrupt core n; one word a core.
    const TIMER_CONTROL: usize = CORE_LOCAL + 0x40;
    /// Which mailboxes interrupt core n.
    const MAILBOX_CONTROL: usize = CORE_LOCAL + 0x50;
    /// Sets bits of mailbox 0 of core n; 16 bytes a core.
    const MAILBOX_SET: usize = CORE_LOCAL + 0x80;
    /// Clears bits of mailbox 0 of core n.
    const MAILBOX_CLEAR: usize = CORE_LOCAL + 0xc0;

    /// Makes interrupts reach this core.
    pub fn start() {
        let core = cores::number();
        // The timer of exception level 1, not secure.
        mmio::write(TIMER_CONTROL + 4 * core, 1 << 1);
        mmio::write(MAILBOX_CONTROL + 4 * core, 1);
    }

    /// Ends what is pending for this core.
    pub fn acknowledge() {
        mmio::write(MAILBOX_CLEAR + 16 * cores::number(), u32::MAX);
        mmio::barrier();
    }

    /// Wakes all cores but this one. What was written before is seen by them.
    pub fn wake_others() {
        mmio::barrier();
        let this = cores::number();
        for core in (0..CORES).filter(|&core| core != this) {
            mmio::write(MAILBOX_SET + 16 * core, 1);
        }
    }
}

#[cfg(block = "virtio")]
pub use controller::enable;
