//! `cargo xtask emulate-x86`: one program on an emulated x86-64 CPU, which this machine need not
//! have.

mod boot;
mod build;

use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use object::Endianness;
use object::elf::PT_INTERP;
use object::read::elf::{ElfFile64, ProgramHeader};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use xtask::workspace;

use self::boot::Boot;
use crate::debian::{self, Debian, SUITE};
use crate::initramfs::Archive;

/// Run a static program for x86-64 Linux on an emulated CPU, also one that this machine does not have.
///
/// The CPU is that of a PC in Bochs, with Debian's Linux and a file system in memory that has
/// nothing but the program in it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// CPU, as Bochs calls it: `corei7_icelake_u`, for example
    cpu: String,
    /// The program's environment
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// The program
    program: PathBuf,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Debian's kernel for virtual machines, which has all drivers built in that are needed here, and
/// what starts the program.
const PACKAGES: [&str; 2] = ["linux-image-cloud-amd64", "busybox-static"];
/// The first process. Linux goes down with it, and with what the serial port has not sent by then:
/// `stty` waits until all is sent.
const INIT: &str = r#"#!/busybox sh
/busybox mount -t devtmpfs dev /dev
/program "$@"
code=$?
/busybox stty -echo
exit $code
"#;
/// Settings of Linux: a serial port is all there is, and no message below an alert mixes there with
/// the program's output; a panic, with which the end of the first process ends it, ends the emulator
/// by a triple fault; the clock's speed is known, as Bochs counts it in instructions; and what a
/// program under test does not need does not take time.
const LINUX_SETTINGS: &str = "console=ttyS0,115200 loglevel=2 acpi=off pci=off reboot=t panic=-1 \
    tsc_early_khz=50000 nokaslr mitigations=off lsm=lockdown clearcpuid=fsrm";
/// Instructions that make a second of the machine's time.
const SPEED: u32 = 50_000_000;
/// Most CPU time of the emulator until the program ends, in seconds, whatever else this machine does
/// meanwhile. An idle machine in Bochs takes CPU time as well: no hang is without an end.
const PATIENCE: u64 = 600;
/// How Linux says that the first process ended.
const ENDED: &str = "Attempted to kill init! exitcode=0x";
/// As many files as Bochs loads into memory.
const IMAGES: usize = 4;

/// Runs a program to its end and shows what it prints; fails when it fails.
pub fn run(args: &Args) -> Result<()> {
    let bochs = build::program()?;
    let packages = Debian::new("amd64", SUITE, "main")?.unpacked(&PACKAGES)?;
    let (kernel, _) = debian::kernel(&packages)?;
    let initramfs = initramfs(&args.program, &packages.join("bin/busybox"))?;
    let boot = boot::lay_out(&fs::read(kernel)?, &command_line(args)?, &initramfs)?;
    let files = tempfile::tempdir_in(workspace::cache("run")?)?;
    write(&boot, &args.cpu, files.path())?;
    let ended = emulate(&bochs, files.path());
    let serial = fs::read(files.path().join(SERIAL)).unwrap_or_default();
    let serial = String::from_utf8_lossy(&serial).replace('\r', "");
    let Some((printed, status)) = outcome(&serial) else {
        let said = fs::read_to_string(files.path().join(SAID)).unwrap_or_default();
        println!("{serial}\n{said}");
        ended?;
        bail!("the emulated machine went down before the program ended");
    };
    print!("{printed}");
    // As a shell counts: 128 and more are signals.
    ensure!(status == 0, "the program exited with {}", status >> 8);
    Ok(())
}

/// The kernel's command line: settings, and environment and arguments of the program.
fn command_line(args: &Args) -> Result<String> {
    let mut line = format!("{LINUX_SETTINGS} rdinit=/init");
    for variable in &args.env {
        let (name, _) =
            variable.split_once('=').with_context(|| format!("{variable}: no value"))?;
        // It would be a setting of a module.
        ensure!(!name.contains('.'), "{name}: Linux passes no variable with a dot on");
        line += &format!(" {}", word(variable)?);
    }
    line += " --";
    for argument in &args.arguments {
        line += &format!(" {}", word(argument)?);
    }
    Ok(line)
}

/// A word that the kernel takes as it is.
fn word(text: &str) -> Result<&str> {
    let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && c != '"');
    ensure!(plain, "{text:?} cannot be on the command line of Linux: it has spaces or quotes");
    Ok(text)
}

/// An initramfs with a program and what starts it.
fn initramfs(program: &Path, busybox: &Path) -> Result<Vec<u8>> {
    let name = || program.display().to_string();
    let bytes = fs::read(program).with_context(name)?;
    let elf = ElfFile64::<Endianness>::parse(&*bytes).with_context(name)?;
    for segment in elf.elf_program_headers() {
        let is_static = segment.p_type(elf.endian()) != PT_INTERP;
        ensure!(is_static, "{}: build it static, with -Ctarget-feature=+crt-static", name());
    }
    let mut archive = Archive::default();
    archive.add("init", 0o100_755, INIT.as_bytes())?;
    archive.add("busybox", 0o100_755, &fs::read(busybox).context("the packages lack busybox")?)?;
    archive.add("program", 0o100_755, &bytes)?;
    let mut initramfs = Vec::new();
    archive.write(&mut initramfs)?;
    Ok(initramfs)
}

/// Names of files in a machine's folder.
const ROM: &str = "rom";
const SETTINGS: &str = "bochsrc";
const SERIAL: &str = "serial";
const SAID: &str = "said";

/// Writes a machine's files.
fn write(boot: &Boot, cpu: &str, folder: &Path) -> Result<()> {
    ensure!(
        boot.images.len() <= IMAGES,
        "kernel and program are too large for {IMAGES} blocks of memory"
    );
    fs::write(folder.join(ROM), &boot.rom)?;
    let (ram, block) = (boot::RAM >> 20, boot::BLOCK >> 10);
    // Bochs wants a ROM for its video card, too; nothing runs that.
    let mut settings = format!(
        "cpu: model={cpu}, ips={SPEED}, reset_on_triple_fault=0\n\
         memory: guest={ram}, host={ram}, block_size={block}\n\
         romimage: file={ROM}\n\
         vgaromimage: file={ROM}\n\
         com1: enabled=1, mode=file, dev={SERIAL}\n\
         ata0: enabled=0\n\
         ata1: enabled=0\n\
         clock: sync=none, time0=1\n\
         display_library: nogui\n\
         panic: action=fatal\n"
    );
    for (number, image) in (1..).zip(&boot.images) {
        let name = format!("ram{number}");
        fs::write(folder.join(&name), &image.bytes)?;
        writeln!(settings, "optramimage{number}: file={name}, address={:#x}", image.address)?;
    }
    fs::write(folder.join(SETTINGS), settings)?;
    Ok(())
}

/// Runs a machine until it ends itself.
fn emulate(bochs: &Path, folder: &Path) -> Result<()> {
    let said = File::create(folder.join(SAID))?;
    let mut child = Command::new(bochs)
        .args(["-q", "-f", SETTINGS])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said)
        .spawn()
        .context("cannot start Bochs")?;
    let maximum = getrlimit(Resource::Cpu).maximum;
    let patience = maximum.map_or(PATIENCE, |most| most.min(PATIENCE));
    let most = Rlimit { current: Some(patience), maximum };
    let limited = prlimit(Some(Pid::from_child(&child)), Resource::Cpu, most);
    if let Err(error) = limited {
        child.kill()?;
        child.wait()?;
        return Err(error).context("cannot limit the CPU time of Bochs");
    }
    let out_of_time = child.wait()?.signal() == Some(Signal::XCPU.as_raw());
    ensure!(!out_of_time, "the program did not end within {patience} s of CPU time");
    Ok(())
}

/// What the program printed, and the status of the first process as of `wait`.
fn outcome(serial: &str) -> Option<(&str, u32)> {
    let at = serial.rfind(ENDED)?;
    let status = serial[at + ENDED.len()..].split(|c: char| !c.is_ascii_hexdigit()).next()?;
    let status = u32::from_str_radix(status, 16).ok()?;
    let line = serial[..at].rfind('\n').map_or(0, |end| end + 1);
    Some((&serial[..line], status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_program_is_found() {
        let panic = "[    2.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x";
        let serial = format!("1 test failed\n{panic}00006500\n[    2.2] CPU: 0\n");
        assert_eq!(outcome(&serial), Some(("1 test failed\n", 0x6500)));
        assert_eq!(outcome("[    2.1] Kernel panic - not syncing: No working init found.\n"), None);
        assert_eq!(outcome(panic), None);
    }

    #[test]
    fn environment_and_arguments_are_on_the_command_line() {
        let mut args = Args {
            cpu: "any".to_owned(),
            env: vec!["A=b".to_owned()],
            program: "any".into(),
            arguments: vec!["c".to_owned(), "--d".to_owned()],
        };
        assert!(command_line(&args).unwrap().ends_with(" rdinit=/init A=b -- c --d"));
        args.arguments.push("two words".to_owned());
        let message = command_line(&args).unwrap_err().to_string();
        assert!(message.contains("\"two words\" cannot be on the command line"), "{message}");
    }
}
