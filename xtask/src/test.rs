//! `cargo xtask test`: everything that CI checks, on this machine.

use std::process::Command;

use crate::need::Need;

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
}

/// Target of boards with Linux.
const LINUX_ARM: &str = "aarch64-unknown-linux-gnu";
/// Target of boards without an operating system.
const BARE_ARM: &str = "aarch64-unknown-none";
/// Emulated CPUs: without and with dot products, and with 8-bit matrix products.
const CPUS: [&str; 4] = ["cortex-a53", "cortex-a72", "cortex-a76", "max"];

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

    fn needing(mut self, needs: &[Need]) -> Self {
        self.needs.extend_from_slice(needs);
        self
    }

    fn env(mut self, key: &str, value: &str) -> Self {
        self.command.env(key, value);
        self
    }
}

fn checks() -> Vec<Check> {
    let cross = [Need::target(LINUX_ARM), Need::CROSS_GCC, Need::QEMU_USER];
    let mut checks = vec![
        Check::cargo("format", &["fmt", "--all", "--check"]).needing(&[Need::RUSTFMT]),
        Check::cargo("lints", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
            .needing(&[Need::CLIPPY]),
        Check::cargo("documentation", &["doc", "--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "-D warnings"),
        Check::cargo("tests", &["test", "--workspace"]),
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
    checks.push(
        Check::cargo("dependencies", &["deny", "check", "bans", "licenses", "sources"])
            .needing(&[Need::CARGO_DENY]),
    );
    checks
}

/// Runs all checks and sums them up.
pub fn run(args: &Args) -> Result<(), String> {
    let wanted = |check: &Check| args.only.as_ref().is_none_or(|only| check.name.contains(only));
    let (mut passed, mut failed, mut left_out) = (0, Vec::new(), Vec::new());
    for mut check in checks().into_iter().filter(wanted) {
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
        return Err("no check ran".into());
    }
    if !failed.is_empty() {
        return Err(format!("{} checks failed", failed.len()));
    }
    if args.all && !left_out.is_empty() {
        return Err(format!("{} checks were left out, and --all was asked for", left_out.len()));
    }
    Ok(())
}
