//! What a kernel without an operating system has to know of its board.

use serde::Deserialize;

/// Addresses and kinds of a board's devices. Addresses are physical.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Bare {
    /// Where the kernel image is loaded.
    pub load: u64,
    /// What puts it there.
    pub boot: Boot,
    /// RAM that the kernel may use, the one with the kernel image first.
    pub ram: Vec<Region>,
    /// Registers of devices: mapped uncached.
    pub mmio: Vec<Region>,
    /// The serial port.
    pub console: Console,
    /// How the other cores start.
    pub secondaries: Secondaries,
    /// Who wakes a core.
    pub interrupts: Interrupts,
    /// Where the image of the model is read from.
    pub block: Block,
    /// Mailbox to the firmware (Raspberry Pi).
    pub mailbox: Option<u64>,
    /// Pins (Raspberry Pi).
    pub gpio: Option<u64>,
    /// Power management with a watchdog (Raspberry Pi).
    pub watchdog: Option<u64>,
    /// Auxiliary devices: a small serial port, which carries the log (Raspberry Pi).
    pub aux: Option<u64>,
}

/// What loads a kernel image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// The emulator's `-kernel`, or a boot loader that follows the same protocol: the device tree's
    /// address in `x0`.
    Kernel,
    /// The firmware of Raspberry Pi boards: `kernel8.img` on a FAT partition.
    RaspberryPi,
}

/// Addresses `start..start + len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Region {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// A PL011.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Console {
    /// Its registers.
    pub base: u64,
    /// Its clock.
    pub clock_hz: u32,
}

/// How cores other than the first start.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields, rename_all = "kebab-case")]
pub enum Secondaries {
    /// Calls to the firmware, by HVC at EL1 and SMC at EL2.
    Psci,
    /// Each waits for an address at its place.
    SpinTable {
        /// The places of cores 1, 2, ...
        release: Vec<u64>,
    },
}

/// An interrupt controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields, rename_all = "kebab-case")]
pub enum Interrupts {
    /// Arm's, version 2.
    #[serde(rename = "gic-v2")]
    GicV2 {
        /// Registers of the distributor.
        distributor: u64,
        /// Registers of the CPU interface.
        cpu: u64,
    },
    /// Per-core mailboxes of the BCM2836 and BCM2837.
    Bcm2836 {
        /// Registers.
        base: u64,
    },
}

/// A block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields, rename_all = "kebab-case")]
pub enum Block {
    /// The first virtio block device of these slots.
    VirtioMmio {
        /// Registers of the first slot.
        base: u64,
        /// Bytes from one slot to the next.
        stride: u64,
        /// Slots.
        count: u32,
        /// Number of the first slot's interrupt; those of the others follow.
        interrupt: u32,
    },
    /// The card of an SD host controller.
    Sdhci {
        /// Its registers.
        base: u64,
        /// Which.
        controller: Controller,
        /// The controller sees RAM at its address plus this, and may write there by itself where
        /// it can; none: the cores move the data.
        #[serde(rename = "dma-offset")]
        dma_offset: Option<u64>,
    },
}

/// SD host controllers differ in their clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Controller {
    /// Of the BCM2837.
    Arasan,
    /// Of the BCM2711.
    Emmc2,
}
