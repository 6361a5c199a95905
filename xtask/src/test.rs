//! `cargo xtask test`: everything that CI checks, on this machine.

use std::env::consts::ARCH;
use std::fs::Permissions;
use std::iter::once;
use std::mem::replace;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rill_board::{Disk, Emulator, Platform, TABLES};
use xtask::board_args::BoardArgs;
use xtask::need::Need;
use xtask::needs::{self, LINUX_ARM};
use xtask::workspace;

use crate::check::{Check, Failure, show};
use crate::images;

/// Check formatting, lints, documentation, tests, other CPUs and dependencies.
///
/// Without an emulator or a cross compiler the checks that need them are left out, and said to be;
/// with --all that is a failure. What needs a network that is not there is left out, and said to be.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Fail when a check has to be left out.
    #[arg(long, conflicts_with = "board")]
    all: bool,
    /// Only the checks whose name contains this.
    #[arg(long, conflicts_with = "board")]
    only: Option<String>,
    /// Only what tells most within five minutes: format, and lints and tests of the engine.
    #[arg(long, conflicts_with_all = ["board", "only"])]
    quick: bool,
    #[command(flatten)]
    on: BoardArgs,
}

/// Target of PCs with Linux.
const LINUX_X86: &str = "x86_64-unknown-linux-gnu";
/// Target of boards without an operating system.
const BARE_ARM: &str = "aarch64-unknown-none";
/// The check that builds the programs that others run, with all tests: by themselves they would have fewer
/// features of what they share with them, and be built from the beginning once more.
const PROGRAMS: &str = "programs and tests build";
const BUILD: [&str; 9] = [
    "build",
    "--profile",
    "test",
    "--workspace",
    "--tests",
    "--bin",
    "rill",
    "--bin",
    "rill-images",
];
/// Where everything is that is built with `--cfg loom`.
const LOOM: &str = "target/loom";
/// Where everything is that Miri runs.
const MIRI: &str = "target/miri";
/// Package of the fuzz targets, which is no part of the workspace.
const FUZZ_PACKAGE: &str = "tests/fuzz/Cargo.toml";
/// The fuzz targets, and how many inputs each gets: less than half a minute's.
const FUZZ: [(&str, u32); 3] = [("gguf", 5_000), ("image", 5_000), ("reseal", 3_000)];

/// The board with Linux whose kernels those of boards without are compared with.
const COUNTED: &str = "pi4";

/// What takes minutes from the first build on.
fn quick_checks() -> Vec<Check> {
    vec![
        format(),
        lints("lints of the engine", &["-p", "rill"]),
        Check::cargo("tests of the engine", &["test", "-p", "rill", "--no-fail-fast"]),
    ]
}

fn checks() -> Result<Vec<Check>> {
    let mut checks = vec![
        format(),
        lints("lints", &["--workspace"]),
        // Built by themselves, packages have fewer features of what they share with others.
        lints("lints of the program", &["-p", "rill-linux"]),
        lints("lints of the smallest program", &["-p", "rill-linux", "--no-default-features"]),
        Check::cargo("documentation", &["doc", "--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "-D warnings"),
        Check::cargo(PROGRAMS, &BUILD),
        Check::cargo("tests", &["test", "--workspace", "--no-fail-fast"]),
        Check::cargo("orders of threads", &["test", "-p", "rill-loom", "--target-dir", LOOM])
            .env("RUSTFLAGS", "--cfg loom"),
        Check::cargo("log decoder", &workspace::log_decoder("test").each_ref().map(String::as_str)),
        Check::cargo("engine without an OS", &["build", "-p", "rill", "--target", BARE_ARM])
            .needing(&[Need::target(BARE_ARM)]),
    ];
    let bare = ["test", "--workspace", "--test", "c_bare", "--", "--ignored"];
    let needs = [Need::target(BARE_ARM), Need::CROSS_GCC, Need::QEMU_SYSTEM];
    checks.push(Check::cargo("C library without an OS", &bare).needing(&needs));
    // One of them hands work from thread to thread: with no core to spare each hand-over waits for one.
    for (target, runs) in FUZZ {
        checks.push(fuzzed(target, runs)?);
    }
    // Those too: servers, and clients that ask them.
    checks.extend(client_checks());
    checks.push(package_check());
    checks.push(page_check());
    checks.extend(load_checks());
    checks.push(interpreted());
    // Emulating x86-64 takes minutes: where this machine has the table itself, the tests run it.
    let x86 = TABLES.iter().filter(|table| !table.is_arm() && !is_here(table.name));
    for (table, cpu) in x86.flat_map(|table| table.emulated.iter().map(move |cpu| (table, cpu))) {
        checks.push(emulated_x86(cpu, table.name)?.beside());
    }
    // A feature that went undetected would leave its table untested: each says which must be best.
    let arm = TABLES.iter().filter(|table| table.is_arm());
    for (table, cpu) in arm.clone().flat_map(|t| t.emulated.iter().map(move |cpu| (t.name, cpu))) {
        let kernels = emulated("kernels", cpu, &["-p", "rill", "--lib", "kernels::"]);
        checks.push(kernels.env("RILL_TEST_KERNELS", table));
    }
    for cpu in arm.filter_map(|table| table.emulated.first()) {
        let parity = emulated("parity", cpu, &["-p", "rill-tests", "--test", "parity"]);
        checks.push(parity.env("RUST_TEST_THREADS", "1").beside());
    }
    checks.extend(board_checks()?);
    let deny = ["check", "bans", "licenses", "sources"];
    for (name, manifest) in [
        ("dependencies", "Cargo.toml"),
        ("dependencies of the log decoder", workspace::LOG_DECODER),
    ] {
        let args = [&["deny", "--manifest-path", manifest][..], &deny].concat();
        checks.push(Check::cargo(name, &args).needing(&[Need::CARGO_DENY]));
        let args = ["deny", "--manifest-path", manifest, "check", "advisories"];
        let advisories = Check::cargo(format!("advisories on {name}"), &args);
        checks.push(advisories.needing(&[Need::CARGO_DENY]).fetching(Need::ADVISORIES));
    }
    Ok(checks)
}

fn format() -> Check {
    Check::cargo("format", &["fmt", "--all", "--check"]).needing(&[Need::RUSTFMT])
}

fn lints(name: &str, of: &[&str]) -> Check {
    let args = [&["clippy", "--all-targets"][..], of, &["--", "-D", "warnings"]].concat();
    Check::cargo(name, &args).needing(&[Need::CLIPPY])
}

/// What of the engine is `unsafe` and takes no SIMD, in an interpreter that sees each access outside
/// of what may be accessed. It is some hundred times slower: properties are tried on few inputs.
fn interpreted() -> Check {
    let mut command = Command::new("rustup");
    let tests = ["miri", "test", "-p", "rill", "--lib", "--target-dir", MIRI];
    command.args(["run", Need::MIRI_TOOLCHAIN, "cargo"]).args(tests);
    // The interpreter knows none of the instructions that libm would take.
    command.args(["--features", "libm/force-soft-floats"]);
    command.args(["--", "arena::", "seams::"]);
    Check::new("engine in Miri", command)
        .env("MIRIFLAGS", "-Zmiri-disable-isolation")
        .env("PROPTEST_CASES", "2")
        .env("CARGO_BUILD_JOBS", "1")
        .fetching(Need::MIRI)
        .beside()
}

/// A fuzz target, run from its seeds on for a number of inputs that depend on nothing else. The flags
/// are those with which `cargo fuzz` lets libFuzzer see what an input reaches; they take no nightly
/// compiler, as sanitizers would.
fn fuzzed(target: &str, runs: u32) -> Result<Check> {
    let host = format!("{ARCH}-unknown-linux-gnu");
    let flags = [
        "-Cpasses=sancov-module",
        "-Cllvm-args=-sanitizer-coverage-level=4",
        "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
        "-Cllvm-args=-sanitizer-coverage-pc-table",
    ];
    let flags = format!("target.{host}.rustflags = {flags:?}");
    let seeds = workspace::root().join("tests/fuzz/seeds").join(target);
    let mut inputs = Vec::new();
    for entry in seeds.read_dir().with_context(|| seeds.display().to_string())? {
        inputs.push(entry?.path().display().to_string());
    }
    inputs.sort();
    let mut check = Check::cargo(
        format!("fuzz target {target}"),
        &["run", "--manifest-path", FUZZ_PACKAGE, "--config", &flags],
    );
    check.command.args([
        "--target",
        &host,
        "--bin",
        target,
        "--",
        "-seed=1",
        "-len_control=0",
        "-verbosity=0",
    ]);
    // A run that takes as long, or as much memory, is a fault too.
    check.command.args(["-timeout=60", "-rss_limit_mb=2048", "-max_len=4096"]);
    check.command.arg(format!("-runs={runs}")).arg(format!("-seed_inputs={}", inputs.join(",")));
    let found = workspace::cache("fuzz")?;
    check.command.arg(format!("-artifact_prefix={}/{target}-", found.display()));
    Ok(check.needing(&[Need::GXX]))
}

/// Tests on an emulated aarch64 CPU.
fn emulated(what: &str, cpu: &str, tests: &[&str]) -> Check {
    let runner = format!("qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu {cpu}");
    let args = [&["test", "--target", LINUX_ARM][..], tests].concat();
    Check::cargo(format!("{what} on {cpu}"), &args)
        .needing(&needs::cross())
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", &runner)
}

/// The kernels on an emulated x86-64 CPU, whose best table must be this one.
fn emulated_x86(cpu: &str, table: &str) -> Result<Check> {
    let xtask = std::env::current_exe()?.display().to_string();
    let variable = format!("RILL_TEST_KERNELS={table}");
    let runner = [&xtask, "emulate-x86", "--env", &variable, cpu];
    let linker = needs::linker("x86_64");
    // Not in the environment, which the runner would build for itself with. All that there is when
    // the program runs: no libraries, and little room for symbols.
    let settings = [
        format!("runner = {runner:?}"),
        format!("linker = {:?}", linker.what()),
        "rustflags = [\"-Ctarget-feature=+crt-static\", \"-Cstrip=symbols\"]".to_owned(),
    ];
    let settings = settings.map(|setting| format!("target.{LINUX_X86}.{setting}"));
    let settings = settings.iter().flat_map(|setting| ["--config", setting]);
    let args =
        ["--target", LINUX_X86, "-p", "rill", "--lib", "kernels::", "--", "--test-threads=1"];
    let args: Vec<_> = once("test").chain(settings).chain(args).collect();
    Ok(Check::cargo(format!("kernels on {cpu}"), &args)
        .needing(&[&[Need::target(LINUX_X86), linker.clone()][..], &needs::emulate_x86()].concat()))
}

/// Whether this machine has what a kernel table for x86-64 executes.
fn is_here(table: &str) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        match table {
            "avxvnni" => avx2 && is_x86_feature_detected!("avxvnni"),
            "avx512vnni" => {
                avx2 && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            _ => false,
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = table;
        false
    }
}

/// The official clients of the APIs that `rill serve` speaks, against the kiosk model.
fn client_checks() -> Vec<Check> {
    let folder = workspace::root().join("tests/clients");
    let scripts = [
        ("OpenAI's client for Python", Need::PYTHON, "openai_client.py", Need::PYTHON_CLIENTS),
        ("Ollama's client for Python", Need::PYTHON, "ollama_client.py", Need::PYTHON_CLIENTS),
        ("first requests", Need::PYTHON, "first_requests.py", Need::PYTHON_CLIENTS),
        ("drawn schemas", Need::PYTHON, "schemas.py", Need::PYTHON_CLIENTS),
        ("OpenAI's client for JavaScript", "node", "openai_client.mjs", Need::NODE_CLIENTS),
        ("Ollama's client for JavaScript", "node", "ollama_client.mjs", Need::NODE_CLIENTS),
    ];
    let check = |(name, runs, script, need): (&str, &str, &str, Need)| {
        let mut command = Command::new("python3");
        command.arg(folder.join("run.py")).arg(runs).arg(folder.join(script));
        Check::new(format!("clients: {name}"), command).needing(&[Need::PYTHON3, need])
    };
    scripts.into_iter().map(check).collect()
}

/// The Python package: its wheel, in a clean virtual environment.
fn package_check() -> Check {
    let mut command = Command::new(Need::PYTHON_BUILDER);
    command.arg(workspace::root().join("tests/python/run.py"));
    Check::new("Python package", command).needing(&[Need::PYTHON_WHEELS])
}

/// The pages of `rill serve` in a browser, with the kiosk model.
fn page_check() -> Check {
    let folder = workspace::root().join("tests/pages");
    let mut command = Command::new("node");
    let files = ["kiosk", "idle", "operator"].map(|name| folder.join(format!("{name}.test.mjs")));
    command.args(["--test", "--test-reporter=dot"]).args(files);
    Check::new("pages in a browser", command).needing(&[Need::CHROMIUM, Need::NODE_PAGES])
}

/// Many clients at once, hostile ones, and a balancer before two servers.
fn load_checks() -> Vec<Check> {
    let folder = workspace::root().join("tests/load");
    let scripts: [(&str, &str, &[Need]); 3] = [
        ("many clients", "load.py", &[]),
        ("hostile clients", "hostile.py", &[]),
        ("HAProxy", "haproxy.py", &[Need::HAPROXY]),
    ];
    let check = |(name, script, needs): (&str, &str, &[Need])| {
        let mut command = Command::new("python3");
        command.arg(folder.join(script));
        Check::new(format!("load: {name}"), command).needing(&[Need::PYTHON3]).needing(needs)
    };
    scripts.into_iter().map(check).collect()
}

/// Makes an image for every board, and talks with all that can be emulated.
fn board_checks() -> Result<Vec<Check>> {
    let images = workspace::cache("images")?;
    let images = images.to_string_lossy();
    let mut checks = Vec::new();
    let mut counted = Vec::new();
    let mut cut = false;
    for board in workspace::boards()? {
        let name = &*board.name;
        let mut add = |what: &str, args: &[&str], needs: Vec<Need>| -> Result<()> {
            checks.push(Check::xtask(format!("{what} {name}"), args)?.needing(&needs));
            Ok(())
        };
        add("image for", &["image", "--board", name, "-o", &images], needs::image(&board))?;
        let needs = needs::run(&board)?;
        let chat = ["test", "--board", name];
        add("chat with", &chat, needs.clone())?;
        // A machine whose cores one can choose shows what only one core, or several, do wrong.
        if let Some(Emulator::System { disk: Disk::Virtio, .. }) = board.emulator {
            let args = [&chat[..], &["--cores", "1", "--counters"]].concat();
            add("chat with one core of", &args, needs.clone())?;
        }
        // `COUNTED` is counted beside each board without an operating system.
        if board.instructions.is_some() && board.name != COUNTED {
            counted.push(board.clone());
        }
        if let Some(needs) = needs::container(&board) {
            add("container of", &[&chat[..], &["--oci"]].concat(), needs)?;
        }
        if board.platform == Platform::Bare {
            add("faults of", &[&chat[..], &["--faults"]].concat(), needs.clone())?;
        }
        if board.appliance.is_some() {
            let needs = [&needs[..], &needs::APPLIANCE].concat();
            let args = [&chat[..], &["--appliance"]].concat();
            add("chat with the appliance of", &args, needs.clone())?;
            // One stands for all: they differ in nothing that QEMU's virtual machine has.
            if !replace(&mut cut, true) {
                add("power cut of", &[&chat[..], &["--power-cut"]].concat(), needs)?;
            }
        }
    }
    let here = ["test", "--board", "host", "--host", "nobody@here"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(once(stand_in()?).chain(std::env::split_paths(&path)))?;
    let mut over_ssh = Check::xtask("chat over ssh", &here)?;
    over_ssh.command.env("PATH", path);
    checks.push(over_ssh);
    for board in counted {
        let name = &*board.name;
        let mut args = vec!["count", "--board", name];
        let mut needs = [&needs::cross()[..], &[Need::QEMU_PLUGINS]].concat();
        if board.platform == Platform::Bare {
            args.extend(["--against", COUNTED]);
            needs.push(Need::QEMU_SYSTEM);
        }
        checks.push(Check::xtask(format!("instructions of {name}"), &args)?.needing(&needs));
    }
    Ok(checks)
}

/// A folder with an `ssh` that runs here what it should run on a board, in a home folder of its own.
fn stand_in() -> Result<PathBuf> {
    let folder = workspace::cache("ssh-stand-in")?;
    std::fs::create_dir_all(folder.join("home"))?;
    let script = folder.join("ssh");
    std::fs::write(&script, STAND_IN)?;
    std::fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    Ok(folder)
}

const STAND_IN: &str = r#"#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
shift
cd "$(dirname "$0")/home" && exec sh -c "$*"
"#;

/// The variables that name the programs of [`PROGRAMS`], and where they are; who named others has those.
fn built_programs() -> Vec<(&'static str, PathBuf)> {
    let folder = workspace::target_dir().join("debug");
    let programs = [("RILL_PROGRAM", "rill"), (images::BUILT, "rill-images")];
    let named = |(variable, _): &(&str, _)| std::env::var_os(variable).is_none();
    programs
        .into_iter()
        .filter(named)
        .map(|(variable, name)| (variable, folder.join(name)))
        .collect()
}

/// Runs all checks and sums them up.
pub fn run(args: &Args) -> Result<()> {
    if args.on.board.is_some() {
        return images::run();
    }
    let wanted = |check: &Check| args.only.as_ref().is_none_or(|only| check.name.contains(only));
    let (mut passed, mut failed, mut left_out) = (0, Vec::new(), Vec::new());
    let mut unreachable = Vec::new();
    let mut beside = Vec::new();
    let mut sum_up = |name: String, took: Duration, result: Result<(), Failure>| {
        let took = took.as_secs();
        match result {
            Ok(()) => {
                println!("--- {name}: passed in {took} s");
                passed += 1;
            }
            Err(failure) => {
                println!("--- {name}: failed after {took} s");
                failed.push((name, failure));
            }
        }
    };
    let mut programs = Vec::new();
    let checks = if args.quick { quick_checks() } else { checks()? };
    for mut check in checks.into_iter().filter(wanted) {
        let missing: Vec<_> = check.needs.iter().filter(|need| !need.is_met()).collect();
        if !missing.is_empty() {
            let how: Vec<_> = missing.iter().map(|need| need.to_string()).collect();
            left_out.push(format!("{}: needs {}", check.name, how.join("; ")));
            continue;
        }
        if let Some(network) = check.network.as_ref().filter(|network| !network.is_met()) {
            unreachable.push(format!("{}: needs {network}", check.name));
            continue;
        }
        check.command.envs(programs.iter().cloned());
        let (name, began) = (check.name.clone(), Instant::now());
        if check.beside {
            let (sender, lines) = channel();
            let run = thread::spawn(move || {
                let result = check.run(move |line| _ = sender.send(line.to_owned()));
                (began.elapsed(), result)
            });
            beside.push((name, lines, run));
            continue;
        }
        println!("=== {name}");
        let result = check.run(show);
        if name == PROGRAMS && result.is_ok() {
            programs = built_programs();
        }
        sum_up(name, began.elapsed(), result);
    }
    for (name, lines, run) in beside {
        println!("=== {name}, run beside the others");
        let ended = || Failure { why: "its thread ended".to_owned(), lines: Vec::new() };
        let (took, result) = run.join().unwrap_or_else(|_| (Duration::ZERO, Err(ended())));
        // What the check left running may print for longer.
        lines.try_iter().for_each(|line| show(&line));
        sum_up(name, took, result);
    }
    let out = left_out.len() + unreachable.len();
    println!("\n{passed} checks passed, {} failed, {out} left out", failed.len());
    left_out.iter().for_each(|line| println!("LEFT OUT  {line}"));
    unreachable.iter().for_each(|line| println!("NO NETWORK {line}"));
    for (name, failure) in &failed {
        println!("FAILED    {name}: {}", failure.why);
        failure.lines.iter().for_each(|line| println!("          {line}"));
    }
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
