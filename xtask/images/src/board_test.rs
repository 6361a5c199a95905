//! `cargo xtask test --board`: a board's chat against the same on this machine.

use std::os::unix::fs::symlink;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use bytesize::ByteSize;
use rill_board::{Board, Platform};
use serde_json::Value;
use xtask::board_args::BoardArgs;
use xtask::workspace;

use crate::chat::{TALKS, Transcript, converse};
use crate::image::Inputs;
use crate::run::Emulation;
use crate::{container_test, executorch_test, fault_test, log, power_cut_test, program, run};

/// Options of `rill chat` for both sides: sampling as the image advises, and an end.
const SETTINGS: [(&str, Option<&str>); 2] = [("seed", Some("7")), ("max-tokens", Some("32"))];
/// As many conversations as the script holds.
const CONVERSATIONS: (&str, Option<&str>) = ("conversations", Some("3"));
/// What else makes counters comparable: a budget divides alike, and nothing depends on time.
const COUNTED: [(&str, Option<&str>); 5] = [
    ("context", Some("1024")),
    ("batch", Some("32")),
    ("prefixes", Some("2")),
    ("no-lookahead", None),
    ("no-draft", None),
];
/// Too little for all experts of the kiosk model: the test is one of paging too.
const RAM: ByteSize = ByteSize::mib(19);
/// As little for a board whose counters are compared, where a shorter context takes less.
const COUNTED_RAM: ByteSize = ByteSize::mib(8);

/// Tests a board as its options say.
pub fn run(args: &BoardArgs) -> Result<()> {
    let name = args.board.as_deref().context("name a board with --board")?;
    if args.faults {
        return fault_test::run(name);
    }
    if args.power_cut {
        return power_cut_test::run(name);
    }
    if args.oci {
        return container_test::run(name);
    }
    if workspace::board(name)?.platform == Platform::Executorch {
        let chosen = args.cores.is_some() || args.model.is_some() || args.ram.is_some();
        let is_alike = !chosen && !args.appliance && !args.counters && args.host.is_none();
        ensure!(is_alike, "{name} is tested in one way: leave out all options but --board");
        return executorch_test::run(name);
    }
    compare(name, args)
}

/// Talks with a board and compares what it says with what the program says on this machine.
fn compare(name: &str, args: &BoardArgs) -> Result<()> {
    let inputs = inputs(name, args)?;
    let files = tempfile::tempdir_in(workspace::cache("run")?)?;
    let frames = files.path().join("log");
    let emulation = &Emulation {
        cores: args.cores,
        appliance: args.appliance,
        log: Some(frames.clone()),
        ..Emulation::default()
    };
    let machine = match &args.host {
        Some(host) => run::over_ssh(&inputs, host)?,
        None => run::machine(&inputs, emulation)?,
    };
    let there = converse(machine, &TALKS)?;
    let mut host = self::inputs("host", args)?;
    // A name of its own: how often experts were used in earlier runs is kept beside the image.
    let image = files.path().join("model.rill");
    symlink(host.model.canonicalize()?, &image)?;
    host.model = image;
    if args.counters {
        host.ram = ram_for(&host, there.slots().context("no experts in the answer to /stats")?)?;
    }
    let here = converse(run::machine(&host, &Emulation::default())?, &TALKS)?;
    print!("{}", there.answers);
    println!("{}", there.stats);
    if there.answers != here.answers {
        bail!("{name} answers otherwise than this machine, which says:\n{}", here.answers);
    }
    if args.counters && there.counters() != here.counters() {
        bail!("{name} counts otherwise than this machine, which says:\n{}", here.stats);
    }
    let board = workspace::board(name)?;
    let kernels = there.kernels().unwrap_or("none");
    // QEMU has no AVX-VNNI: the table below it runs.
    let expected = &board.cpu.kernels;
    let emulated = expected == "avxvnni" && kernels == "avx2";
    ensure!(
        expected == "best" || expected == kernels || emulated,
        "{name} used the kernel table {kernels}; boards/{name}.toml says {expected}"
    );
    if board.platform == Platform::Bare {
        check_log(&board, &log::decode(&board, &frames)?, emulation, &there)?;
    }
    let what = if args.counters { "answers, hits and bytes" } else { "answers" };
    println!("{name}: {what} of {} lines equal those of this machine ({kernels})", TALKS.len());
    Ok(())
}

/// The log says of the start what the board's file and the answer to `/stats` say.
fn check_log(board: &Board, log: &str, emulation: &Emulation, there: &Transcript) -> Result<()> {
    log::find(log, "INFO", &board.title)?;
    let cores = emulation.cores.or(board.cpu.cores).context("cpu.cores is missing")?;
    let slots = there.slots().context("no experts in the answer to /stats")?;
    let start = format!("{} kernels, {cores} cores, {slots} of ", board.cpu.kernels);
    let line = log::find(log, "INFO", &start)?;
    println!("{}: the log says: {}", board.name, line.trim());
    Ok(())
}

fn inputs(name: &str, args: &BoardArgs) -> Result<Inputs> {
    let default = if args.counters { COUNTED_RAM } else { RAM };
    let ram = args.ram.unwrap_or(default);
    let mut inputs = Inputs::new(name, args.model.as_deref(), Some(ram))?;
    let counted = if args.counters { &COUNTED[..] } else { &[] };
    let settings = SETTINGS.iter().chain([&CONVERSATIONS]).chain(counted);
    inputs.settings =
        settings.map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect();
    Ok(inputs)
}

/// The RAM with which the program has room for `slots` experts on this machine: it takes other RAM
/// beside them than the board's.
fn ram_for(host: &Inputs, slots: u64) -> Result<u64> {
    let ample = host.ram.max(host.board.budget.as_u64());
    let mut command = Command::new(program::build(&host.board, "rill")?);
    command.args(["plan", "--json", "--ram", &ample.to_string(), "--model"]).arg(&host.model);
    let planned = COUNTED.iter().chain([&CONVERSATIONS]);
    for (name, value) in planned.filter_map(|(name, value)| Some((name, (*value)?))) {
        command.arg(format!("--{name}")).arg(value);
    }
    let plan: Value = serde_json::from_str(&workspace::output(&mut command)?)?;
    let number = |key: &str| plan[key].as_u64().with_context(|| format!("plan: no {key}"));
    let page = number("page_bytes")?;
    Ok(number("total_bytes")? - number("slots")? * page + slots * page)
}

impl Transcript {
    /// How many experts fit in RAM.
    fn slots(&self) -> Option<u64> {
        let line = self.stats.lines().find(|line| line.ends_with(" fit in RAM"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// The lines that say where experts were found and what was read.
    fn counters(&self) -> Vec<&str> {
        let lines = self.stats.lines().map(str::trim_start);
        lines.filter(|line| line.starts_with("experts") || line.starts_with("flash:")).collect()
    }
}
