//! Makes constants, page tables and linker arguments of a board file.

use std::env;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use rill_board::{Bare, Block, Board, Controller, Interrupts, Region, Secondaries};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=link.ld");
    println!("cargo::rerun-if-env-changed=RILL_BOARD_FILE");
    println!("cargo::rustc-check-cfg=cfg(block, values(\"virtio\", \"sdhci\"))");
    println!("cargo::rustc-check-cfg=cfg(interrupts, values(\"gic\", \"bcm2836\"))");
    println!("cargo::rustc-check-cfg=cfg(secondaries, values(\"psci\", \"spin_table\"))");
    println!("cargo::rustc-check-cfg=cfg(firmware, values(\"raspberry_pi\"))");
    if env::var_os("CARGO_FEATURE_BOARD").is_none() {
        return Ok(());
    }
    let file = env::var_os("RILL_BOARD_FILE")
        .ok_or("RILL_BOARD_FILE must name a file of boards/, by its absolute path")?;
    let file = PathBuf::from(file);
    println!("cargo::rerun-if-changed={}", file.display());
    let board = Board::read(&file)?;
    let bare = board.bare.as_ref().ok_or_else(|| {
        format!("{}: this board has an operating system: no table `bare`", file.display())
    })?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("board.rs"), constants(&board, bare)?)?;
    fs::write(out.join("tables.s"), page_tables(bare)?)?;
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets it")?);
    link(&root, bare);
    Ok(())
}

/// Linker arguments of the program.
fn link(root: &Path, bare: &Bare) {
    let script = root.join("link.ld");
    for argument in [
        format!("-T{}", script.display()),
        "-Tdefmt.x".to_owned(),
        format!("--defsym=LOAD_ADDRESS={:#x}", bare.load),
        "--no-dynamic-linker".to_owned(),
        "--build-id=none".to_owned(),
        // One image: no page of it needs a permission of its own.
        "--omagic".to_owned(),
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}

/// Facts of the board, as Rust.
fn constants(board: &Board, bare: &Bare) -> Result<String, Box<dyn Error>> {
    let mut code = String::new();
    let ram = bare.ram.first().ok_or("bare.ram is empty")?;
    let mut constant = |doc: &str, name: &str, kind: &str, value: String| {
        writeln!(code, "/// {doc}\npub const {name}: {kind} = {value};")
    };
    let address = |value: u64| format!("{value:#x}");
    constant("What people call it.", "TITLE", "&str", format!("{:?}", board.title))?;
    let cores = board.cpu.cores.ok_or("cpu.cores is missing")?;
    constant("Cores.", "CORES", "usize", cores.to_string())?;
    constant(
        "RAM that the program uses by default.",
        "BUDGET",
        "u64",
        board.budget.as_u64().to_string(),
    )?;
    constant(
        "End of the RAM that the program lies in.",
        "RAM_END",
        "usize",
        address(ram.start + ram.len),
    )?;
    let devices = bare
        .mmio
        .iter()
        .map(|region| format!("{:#x}..{:#x}", region.start, region.start + region.len));
    let devices = format!("&[{}]", devices.collect::<Vec<_>>().join(", "));
    constant("Addresses of devices.", "DEVICES", "&[core::ops::Range<usize>]", devices)?;
    constant("Registers of the console.", "CONSOLE", "usize", address(bare.console.base))?;
    constant("Clock of the console.", "CONSOLE_HZ", "u32", bare.console.clock_hz.to_string())?;
    match &bare.secondaries {
        Secondaries::Psci => set("secondaries", "psci"),
        Secondaries::SpinTable { release } => {
            constant(
                "Where the other cores look for an address.",
                "RELEASE",
                "&[usize]",
                format!("&{release:#x?}"),
            )?;
            set("secondaries", "spin_table");
        }
    }
    match bare.interrupts {
        Interrupts::GicV2 { distributor, cpu } => {
            constant(
                "Distributor of the interrupt controller.",
                "DISTRIBUTOR",
                "usize",
                address(distributor),
            )?;
            constant(
                "CPU interface of the interrupt controller.",
                "CPU_INTERFACE",
                "usize",
                address(cpu),
            )?;
            set("interrupts", "gic");
        }
        Interrupts::Bcm2836 { base } => {
            constant(
                "Registers of each core's own devices.",
                "CORE_LOCAL",
                "usize",
                address(base),
            )?;
            set("interrupts", "bcm2836");
        }
    }
    match bare.block {
        Block::VirtioMmio { base, stride, count, interrupt } => {
            constant("Registers of the first virtio slot.", "VIRTIO", "usize", address(base))?;
            constant("From one slot to the next.", "VIRTIO_STRIDE", "usize", address(stride))?;
            constant("Slots.", "VIRTIO_SLOTS", "usize", count.to_string())?;
            constant(
                "Interrupt of the first slot.",
                "VIRTIO_INTERRUPT",
                "u32",
                interrupt.to_string(),
            )?;
            set("block", "virtio");
        }
        Block::Sdhci { base, controller, dma_offset } => {
            constant("Registers of the SD host controller.", "SDHCI", "usize", address(base))?;
            let (clock, pins) = match controller {
                Controller::Arasan => (1, true),
                Controller::Emmc2 => (12, false),
            };
            constant(
                "From an address of RAM to the controller's, if it may write there.",
                "SDHCI_DMA_OFFSET",
                "Option<u64>",
                format!("{dma_offset:?}"),
            )?;
            if bare.mailbox.is_some() {
                constant(
                    "The firmware's number of its clock.",
                    "SDHCI_CLOCK",
                    "u32",
                    clock.to_string(),
                )?;
                constant(
                    "Whether pins lead from it to the card.",
                    "SDHCI_PINS",
                    "bool",
                    pins.to_string(),
                )?;
            }
            set("block", "sdhci");
        }
    }
    if let (Some(mailbox), Some(gpio), Some(watchdog), Some(aux)) =
        (bare.mailbox, bare.gpio, bare.watchdog, bare.aux)
    {
        constant("Mailbox of the firmware.", "MAILBOX", "usize", address(mailbox))?;
        constant("Pins.", "GPIO", "usize", address(gpio))?;
        constant("Power management.", "POWER", "usize", address(watchdog))?;
        constant("Auxiliary devices.", "AUX", "usize", address(aux))?;
        set("firmware", "raspberry_pi");
    } else if !matches!(bare.secondaries, Secondaries::Psci) {
        return Err("a board without PSCI needs bare.mailbox, gpio, watchdog and aux".into());
    }
    Ok(code)
}

fn set(key: &str, value: &str) {
    println!("cargo::rustc-cfg={key}=\"{value}\"");
}

const GIB: u64 = 1 << 30;
const BLOCK_2M: u64 = 2 << 20;
/// 39 bits of virtual addresses: one table of 512 entries of 1 GiB.
const LIMIT: u64 = 512 * GIB;
/// Accessed, a block; what follows is an index into MAIR, set by `boot.s`.
const ATTRIBUTES: u64 = 1 << 10 | 0b01;
/// Write-back memory, inner shareable.
const NORMAL: u64 = ATTRIBUTES | 0b11 << 8;
/// Device memory, never executed.
const DEVICE: u64 = ATTRIBUTES | 1 << 2 | 0b11 << 53;

/// What lies at an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nothing,
    Ram,
    Device,
}

/// Translation tables that map RAM and devices to themselves (Arm ARM, D8.3), as assembly: an
/// entry that points to another table can only be made by the linker.
fn page_tables(bare: &Bare) -> Result<String, Box<dyn Error>> {
    for region in bare.ram.iter().chain(&bare.mmio) {
        if region.start + region.len > LIMIT {
            return Err(format!("a region at {:#x} lies above 512 GiB", region.start).into());
        }
    }
    for region in &bare.ram {
        if !region.start.is_multiple_of(BLOCK_2M) || !region.len.is_multiple_of(BLOCK_2M) {
            return Err(format!("RAM at {:#x} is not made of 2 MiB blocks", region.start).into());
        }
    }
    let touches = |regions: &[Region], from: u64| {
        regions.iter().any(|r| r.start < from + BLOCK_2M && from < r.start + r.len)
    };
    let kind = |from: u64| match (touches(&bare.ram, from), touches(&bare.mmio, from)) {
        (true, true) => Err(format!("RAM and devices share the 2 MiB at {from:#x}")),
        (true, false) => Ok(Kind::Ram),
        (false, true) => Ok(Kind::Device),
        (false, false) => Ok(Kind::Nothing),
    };
    let entry = |kind: Kind, address: u64| match kind {
        Kind::Nothing => 0,
        Kind::Ram => address | NORMAL,
        Kind::Device => address | DEVICE,
    };
    let mut first = String::from(".balign 4096\npage_tables:\n");
    let mut second = String::new();
    for gib in (0..LIMIT).step_by(GIB as usize) {
        let blocks = (gib..gib + GIB).step_by(BLOCK_2M as usize);
        let kinds = blocks.clone().map(kind).collect::<Result<Vec<_>, _>>()?;
        if kinds.iter().all(|kind| *kind == kinds[0]) {
            writeln!(first, "    .quad {:#x}", entry(kinds[0], gib))?;
        } else {
            writeln!(first, "    .quad page_table_{gib:x} + 0b11")?;
            writeln!(second, ".balign 4096\npage_table_{gib:x}:")?;
            for (kind, address) in kinds.into_iter().zip(blocks) {
                writeln!(second, "    .quad {:#x}", entry(kind, address))?;
            }
        }
    }
    Ok(first + &second)
}
