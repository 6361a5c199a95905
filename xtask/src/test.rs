//! `cargo xtask test`: everything that CI checks, on this machine.

use std::process::Command;

use anyhow::{Result, bail};
use rill_board::{Disk, Emulator};

use crate::need::Need;
use crate::run::Emulation;
use crate::{board_test, doctor, workspace};

/// Check formatting, lints, documentation, tests, other CPUs and dependencies.
///
/// Without an emulator or a cross compiler the checks that need them are left out, and said to be;
/// with --all that is a failure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Fail when a check has to be left out.
    #[arg(long)]
    all: bool,
    /// Only the checks whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Instead, talk with this board and compare its answers with those of this machine.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["all", "only"])]
    board: Option<String>,
    /// Cores of that board, where one can choose.
    #[arg(long, value_name = "N", requires = "board")]
    cores: Option<u32>,
    /// Boot that board's appliance in QEMU's virtual machine.
    #[arg(long, requires = "board", conflicts_with = "cores")]
    appliance: bool,
}

/// Target of boards with Linux.
const LINUX_ARM: &str = "aarch64-unknown-linux-gnu";
/// Target of boards without an operating system.
const BARE_ARM: &str = "aarch64-unknown-none";
/// Emulated CPUs: without and with dot products, and with 8-bit matrix products.
const CPUS: [&str; 4] = ["cortex-a53", "cortex-a72", "cortex-a76", "max"];

/// The board with Linux whose kernels those of boards without are compared with.
const COUNTED: &str = "pi4";

/// One check: a command and what it needs.
struct Check {
    name: String,
    needs: Vec<Need>,
    command: Command,
}

impl Check {
    fn cargo(name: impl Into<String>, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO"));
        command.args(args);
        Self { name: name.into(), needs: Vec::new(), command }
    }

    /// A task of this program.
    fn xtask(name: impl Into<String>, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(args);
        Ok(Self { name: name.into(), needs: Vec::new(), command })
    }

    fn needing(mut self, needs: &[Need]) -> Self {
        self.needs.extend_from_slice(needs);
        self
    }

    fn env(mut self, key: &str, value: &str) -> Self {
        self.command.env(key, value);
        self
    }
}

fn checks() -> Result<Vec<Check>> {
    let cross = cross_needs();
    let mut checks = vec![
        Check::cargo("format", &["fmt", "--all", "--check"]).needing(&[Need::RUSTFMT]),
        Check::cargo("lints", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
            .needing(&[Need::CLIPPY]),
        Check::cargo("documentation", &["doc", "--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "-D warnings"),
        Check::cargo("tests", &["test", "--workspace"]),
        Check::cargo("cargo run is rill", &["run", "--quiet", "--", "inspect"]),
        Check::cargo("fuzz targets", &["check", "--manifest-path", "tests/fuzz/Cargo.toml"]),
        Check::cargo("engine without an OS", &["build", "-p", "rill", "--target", BARE_ARM])
            .needing(&[Need::target(BARE_ARM)]),
    ];
    for cpu in CPUS {
        let runner = format!("qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu {cpu}");
        for (what, args) in [
            ("kernels", &["-p", "rill", "--lib", "kernels::"][..]),
            ("parity", &["-p", "rill-tests", "--test", "parity"]),
        ] {
            let args = [&["test", "--target", LINUX_ARM][..], args].concat();
            checks.push(
                Check::cargo(format!("{what} on {cpu}"), &args)
                    .needing(&cross)
                    .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", &runner),
            );
        }
    }
    checks.extend(board_checks()?);
    checks.push(
        Check::cargo("dependencies", &["deny", "check", "bans", "licenses", "sources"])
            .needing(&[Need::CARGO_DENY]),
    );
    Ok(checks)
}

/// Makes an image for every board, and talks with all that can be emulated.
fn board_checks() -> Result<Vec<Check>> {
    let images = workspace::cache("images")?;
    let images = images.to_string_lossy();
    let mut checks = Vec::new();
    let mut counted = Vec::new();
    for board in workspace::boards()? {
        let name = &*board.name;
        let mut add = |what: &str, args: &[&str], needs: Vec<Need>| -> Result<()> {
            checks.push(Check::xtask(format!("{what} {name}"), args)?.needing(&needs));
            Ok(())
        };
        add("image for", &["image", "--board", name, "-o", &images], doctor::image_needs(&board))?;
        let needs = doctor::run_needs(&board)?;
        let chat = ["test", "--board", name];
        add("chat with", &chat, needs.clone())?;
        // A machine whose cores one can choose shows what only one core, or several, do wrong.
        if let Some(Emulator::System { disk: Disk::Virtio, .. }) = board.emulator {
            let args = [&chat[..], &["--cores", "1"]].concat();
            add("chat with one core of", &args, needs.clone())?;
            counted.push(board.name.clone());
        }
        if board.appliance.is_some() {
            let needs = [&needs[..], &doctor::appliance_needs()].concat();
            add("chat with the appliance of", &[&chat[..], &["--appliance"]].concat(), needs)?;
        }
    }
    for name in counted {
        let args = ["count", "--board", &name, "--against", COUNTED];
        let needs = [&cross_needs()[..], &[Need::QEMU_SYSTEM, Need::QEMU_PLUGINS]].concat();
        checks.push(Check::xtask(format!("instructions of {name}"), &args)?.needing(&needs));
    }
    Ok(checks)
}

/// Building and running for 64-bit Arm Linux.
fn cross_needs() -> [Need; 3] {
    [Need::target(LINUX_ARM), Need::CROSS_GCC, Need::QEMU_USER]
}

/// Runs all checks and sums them up.
pub fn run(args: &Args) -> Result<()> {
    if let Some(board) = &args.board {
        let emulation =
            Emulation { cores: args.cores, appliance: args.appliance, ..Emulation::default() };
        return board_test::run(board, &emulation);
    }
    let wanted = |check: &Check| args.only.as_ref().is_none_or(|only| check.name.contains(only));
    let (mut passed, mut failed, mut left_out) = (0, Vec::new(), Vec::new());
    for mut check in checks()?.into_iter().filter(wanted) {
        let missing: Vec<_> = check.needs.iter().filter(|need| !need.is_met()).collect();
        if !missing.is_empty() {
            let how: Vec<_> = missing.iter().map(|need| need.to_string()).collect();
            left_out.push(format!("{}: needs {}", check.name, how.join("; ")));
            continue;
        }
        println!("=== {}", check.name);
        match check.command.status() {
            Ok(status) if status.success() => passed += 1,
            Ok(status) => failed.push(format!("{}: {status}", check.name)),
            Err(error) => failed.push(format!("{}: cannot start: {error}", check.name)),
        }
    }
    println!("\n{passed} checks passed, {} failed, {} left out", failed.len(), left_out.len());
    left_out.iter().for_each(|line| println!("LEFT OUT  {line}"));
    failed.iter().for_each(|line| println!("FAILED    {line}"));
    if passed + failed.len() == 0 {
        bail!("no check ran");
    }
    if !failed.is_empty() {
        bail!("{} checks failed", failed.len());
    }
    if args.all && !left_out.is_empty() {
        bail!("{} checks were left out, and --all was asked for", left_out.len());
    }
    Ok(())
}
