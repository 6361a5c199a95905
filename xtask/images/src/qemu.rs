//! Whole machines under QEMU.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rill_board::{Board, Disk, Emulator};
use xtask::need::{self, Need};
use xtask::{needs, workspace};

use crate::debian::Debian;
use crate::image::appliance::Made;

/// Debian's QEMU for machines that the installed one lacks.
const NEWER: [&str; 3] = ["qemu-system-arm", "qemu-system-common", "qemu-system-data"];
const NEWER_SUITE: &str = "bookworm-backports";

/// What QEMU calls the disk or card of a machine.
pub const CARD: &str = "card";
/// The device that a disk is in QEMU's virtual machine.
const VIRTIO: &str = "virtio-blk-device";

/// What an emulated machine boots and has.
pub struct Boot<'a> {
    /// The kernel.
    pub kernel: &'a Path,
    /// The disk or card, if there is one in it.
    pub disk: Option<&'a Path>,
    /// Where the log of the kernel goes, which is not the console.
    pub log: &'a Path,
    /// Cores, where the machine lets one choose.
    pub cores: Option<u32>,
}

/// The command that boots a board's machine with its console on standard input and output. It
/// ends when the board switches itself off or restarts.
pub fn machine(board: &Board, boot: &Boot) -> Result<Command> {
    let Some(Emulator::System { machine, ram, disk, least_version }) = &board.emulator else {
        bail!("{}: boards/ names no machine for QEMU", board.name);
    };
    let mut command = system(*least_version)?;
    command.args(["-M", machine, "-m"]).arg(format!("{}M", ram.as_u64() >> 20));
    command.args(["-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot"]);
    command.args(["-serial", "stdio"]).arg("-kernel").arg(boot.kernel);
    if let Some(file) = boot.disk {
        let file = file.display().to_string().replace(',', ",,");
        let (how, device) = match disk {
            Disk::Virtio => ("if=none,readonly=on", Some(VIRTIO)),
            Disk::Sd => ("if=sd", None),
            Disk::GenericSdhci => ("if=none", Some("sd-card,bus=/generic-sdhci/sd-bus")),
        };
        command.arg("-drive").arg(format!("file={file},format=raw,id={CARD},{how}"));
        if let Some(device) = device {
            command.arg("-device").arg(format!("{device},drive={CARD}"));
        }
    }
    let log = boot.log.display().to_string().replace(',', ",,");
    match disk {
        Disk::Virtio => {
            let cores = boot.cores.or(board.cpu.cores).unwrap_or(1);
            command.args(["-cpu", &board.cpu.model, "-smp", &cores.to_string()]);
            command.args(["-device", "virtio-serial-device"]);
            command.arg("-chardev").arg(format!("file,id=log,path={log}"));
            command.args(["-device", "virtconsole,chardev=log"]);
        }
        Disk::Sd | Disk::GenericSdhci => {
            command.arg("-serial").arg(format!("file:{log}"));
        }
    }
    Ok(command)
}

/// The command that boots an appliance in QEMU's virtual machine, with the board's CPU.
pub fn appliance(board: &Board, made: &Made) -> Result<Command> {
    let mut command = system(0)?;
    let cores = board.cpu.cores.unwrap_or(1).to_string();
    let ram = format!("{}M", board.ram.size.as_u64() >> 20);
    command.args(["-M", "virt", "-cpu", &board.cpu.model, "-smp", &cores, "-m", &ram]);
    command.args(["-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot"]);
    command.args(["-serial", "stdio"]).arg("-kernel").arg(&made.kernel);
    command.arg("-initrd").arg(&made.initramfs);
    // A terminal that takes lines as they are typed, for scripts.
    command.args(["-append", "console=ttyAMA0 quiet panic=-1 TERM=dumb"]);
    let file = made.disk.display().to_string().replace(',', ",,");
    command.arg("-drive").arg(format!("file={file},if=none,format=raw,id={CARD}"));
    command.arg("-device").arg(format!("{VIRTIO},drive={CARD}"));
    Ok(command)
}

/// What runs programs for Linux on a board's CPU; their name and arguments follow.
pub fn user(board: &Board) -> Result<Command> {
    let emulator = needs::user_emulator(board)?;
    need::require(std::slice::from_ref(&emulator))?;
    let mut command = Command::new(emulator.what());
    command.args(["-cpu", &board.cpu.model]);
    Ok(command)
}

/// `qemu-system-aarch64` of at least this version: the installed one, or one that is fetched from
/// Debian and unpacked aside.
pub fn system(least: u32) -> Result<Command> {
    need::require(&[Need::QEMU_SYSTEM])?;
    if version()? >= least {
        return Ok(Command::new("qemu-system-aarch64"));
    }
    let aside = aside().with_context(|| format!("this machine needs QEMU {least}"))?;
    let mut command = Command::new(aside.join("usr/bin/qemu-system-aarch64"));
    let arch = std::env::consts::ARCH;
    let modules = aside.join(format!("usr/lib/{arch}-linux-gnu/qemu"));
    command.env("QEMU_MODULE_DIR", modules).arg("-L").arg(aside.join("usr/share/qemu"));
    Ok(command)
}

/// The installed QEMU's version.
fn version() -> Result<u32> {
    let text = workspace::output(Command::new("qemu-system-aarch64").arg("--version"))?;
    let number = text.split("version ").nth(1).and_then(|rest| rest.split('.').next());
    number.and_then(|n| n.parse().ok()).with_context(|| format!("QEMU calls itself {text:?}"))
}

fn aside() -> Result<PathBuf> {
    let text = workspace::output(Command::new("dpkg").arg("--print-architecture"))?;
    Debian::new(text.trim(), NEWER_SUITE, "main")?.unpacked(&NEWER)
}
