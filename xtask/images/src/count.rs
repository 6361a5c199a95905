//! `cargo xtask count`: executed instructions, which show a slower kernel without a board.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSymbol, SymbolKind};
use rill_board::{Board, Disk, Emulator, Instructions, Platform};

use crate::chat::converse;
use crate::image::Inputs;
use crate::run::Emulation;
use crate::{kernel, program, run};
use xtask::need::{self, Need};
use xtask::workspace;

/// Count the instructions that each token costs on a board, kernel by kernel.
///
/// Fails when the kernels cost more than the board's file stores, by more than 3 percent.
///
/// Without a board: what each operation of each kernel table costs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Board to count on: a file of `boards/`, without its extension
    #[arg(long, value_name = "NAME")]
    board: Option<String>,
    /// Fail when the kernels cost this board more or less than that one, by more than 3 percent
    #[arg(long, value_name = "NAME", requires = "board")]
    against: Option<String>,
}

/// Tokens of a short and of a longer answer: the difference has no start-up in it.
const TOKENS: [u64; 2] = [8, 24];
/// What is asked: any answer is longer than `TOKENS`.
const TURN: &str = "Tell me a story about a fox and a kite.";
/// What the compiler calls a function that a kernel table points to, with all that is inlined in it:
/// the name says no more.
const ENTRY: &str = "core::ops::function::FnOnce::call_once";
/// The engine is compiled by itself, so two builds for one target differ by less than a thousandth.
/// Optimised together with what calls it, the kernels were seen to cost 11 percent more; loads that
/// are split into bytes cost several times as much.
const TOLERANCE: f64 = 0.03;

/// Instructions for one token: all, and those of each kernel.
struct Counts {
    total: f64,
    /// All, as the board's own counter says, where there is no operating system.
    own: Option<f64>,
    kernels: BTreeMap<String, f64>,
}

impl Counts {
    fn in_kernels(&self) -> f64 {
        self.kernels.values().sum()
    }
}

/// Counts and prints.
pub fn run(args: &Args) -> Result<()> {
    need::require(&[Need::QEMU_PLUGINS])?;
    let Some(board) = &args.board else {
        let mut cargo = workspace::cargo();
        cargo.args(["run", "--quiet", "--release", "--package", "insncount"]);
        return workspace::run(cargo.args(["--bin", "kernel-costs"]));
    };
    let mut boards = vec![workspace::board(board)?];
    if let Some(other) = &args.against {
        boards.push(workspace::board(other)?);
    }
    let mut all = Vec::new();
    for board in &boards {
        let counts = count(board)?;
        show(board, &counts);
        all.push(counts);
    }
    for (board, counts) in boards.iter().zip(&all) {
        compare_counters(board, counts)?;
        compare_with_stored(board, counts)?;
    }
    let ([board, other], [counts, others]) = (&*boards, &*all) else { return Ok(()) };
    let (board, other) = (&board.name, &other.name);
    let ratio = counts.in_kernels() / others.in_kernels();
    println!("{board} executes {ratio:.4} times the instructions of {other} in kernels");
    if (ratio - 1.0).abs() > TOLERANCE {
        bail!("the kernels of {board} and {other} are compiled to different instructions");
    }
    Ok(())
}

fn show(board: &Board, counts: &Counts) {
    println!("{:<44} instructions per token", board.name);
    for (name, count) in &counts.kernels {
        println!("{name:<44} {count:>14.0}");
    }
    println!("{:<44} {:>14.0}", "all kernels", counts.in_kernels());
    println!("{:<44} {:>14.0}", "everything", counts.total);
    if let Some(own) = counts.own {
        println!("{:<44} {own:>14.0}", "everything, by the core's own counter");
    }
    println!("to store in boards/{}.toml:", board.name);
    println!("[instructions]\ntoken = {}", grouped(counts.in_kernels() as u64));
}

/// The core's own counter agrees with the plugin.
fn compare_counters(board: &Board, counts: &Counts) -> Result<()> {
    let Some(own) = counts.own else { return Ok(()) };
    let ratio = own / counts.total;
    ensure!(
        (ratio - 1.0).abs() <= TOLERANCE,
        "{}: the core counts {ratio:.4} times what the plugin counts",
        board.name
    );
    Ok(())
}

/// Fails when the kernels cost more than the board's file says.
fn compare_with_stored(board: &Board, counts: &Counts) -> Result<()> {
    let Some(Instructions { token }) = board.instructions else { return Ok(()) };
    let name = &board.name;
    let ratio = counts.in_kernels() / token as f64;
    println!("{name} executes {ratio:.4} times the instructions that boards/{name}.toml stores");
    ensure!(
        ratio <= 1.0 + TOLERANCE,
        "the kernels of {name} became slower; if that has to be, store the new number"
    );
    if ratio < 1.0 - TOLERANCE {
        println!("note: the kernels of {name} became faster: store the new number");
    }
    Ok(())
}

/// A number with its digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('_');
        }
        text.push(digit);
    }
    text
}

/// Instructions for one token of the kiosk model, on one core.
fn count(board: &Board) -> Result<Counts> {
    let board = &*board.name;
    let mut inputs = Inputs::new(board, None, None)?;
    ensure!(inputs.board.architecture() == "aarch64", "{board}: only 64-bit Arm is counted");
    let elf = match inputs.board.platform {
        Platform::Linux => program::build(&inputs.board, "rill")?,
        Platform::Bare => kernel::build(&inputs.board)?,
        Platform::Executorch => {
            bail!("{}: ExecuTorch's programs are not counted", inputs.board.name)
        }
    };
    let symbols = kernels(&elf)?;
    let plugin = plugin()?;
    let mut argument = plugin.display().to_string();
    for (i, symbol) in symbols.iter().enumerate() {
        argument += &format!(",k{i}={:x}:{:x}", symbol.start, symbol.end);
    }
    let mut arguments = vec!["-plugin".to_owned(), argument];
    // The other cores of a machine that always has them wait by executing instructions.
    let has_counter =
        matches!(inputs.board.emulator, Some(Emulator::System { disk: Disk::Virtio, .. }));
    if has_counter {
        // QEMU's performance counters count nothing without.
        arguments.extend(["-icount", "shift=0"].map(str::to_owned));
    }
    let emulation = Emulation { cores: Some(1), arguments, ..Emulation::default() };
    let mut runs = Vec::new();
    let mut own = Vec::new();
    for tokens in TOKENS {
        inputs.set(&[("threads", 1), ("seed", 7), ("max-tokens", tokens)]);
        let said = converse(run::machine(&inputs, &emulation)?, &[TURN])?;
        if has_counter {
            own.push(executed(&said.stats)?);
        }
        runs.push(said.errors);
    }
    let difference =
        |few: u64, many: u64| (many as f64 - few as f64) / (TOKENS[1] - TOKENS[0]) as f64;
    let per_token = |name: &str| -> Result<f64> {
        let [few, many] = [&runs[0], &runs[1]].map(|errors| counted(errors, name));
        Ok(difference(few?, many?))
    };
    let mut kernels = BTreeMap::new();
    for (i, symbol) in symbols.into_iter().enumerate() {
        let count = per_token(&format!("k{i}"))?;
        if count > 0.0 {
            *kernels.entry(symbol.name).or_default() += count;
        }
    }
    ensure!(!kernels.is_empty(), "{board} executed no kernel");
    let own = if let [few, many] = own[..] { Some(difference(few, many)) } else { None };
    Ok(Counts { total: per_token("total")?, own, kernels })
}

/// Instructions in the tokens of an answer, in what a board without an operating system says to
/// `/stats`.
fn executed(stats: &str) -> Result<u64> {
    let line = stats.lines().find(|line| line.starts_with("executed "));
    let words = line.and_then(|line| line.split_once(", ")?.1.split_once(' '));
    words
        .and_then(|(number, _)| number.parse().ok())
        .with_context(|| format!("the core's own counter did not move: {stats}"))
}

/// A count in what the plugin printed.
fn counted(errors: &str, name: &str) -> Result<u64> {
    errors
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
        .with_context(|| format!("the plugin counted no {name}: {errors}"))
}

/// A function and its addresses.
struct Symbol {
    name: String,
    start: u64,
    end: u64,
}

/// The functions of the kernels in a program.
fn kernels(elf: &Path) -> Result<Vec<Symbol>> {
    let bytes = fs::read(elf).with_context(|| elf.display().to_string())?;
    let file = object::File::parse(&*bytes)?;
    let symbols: Vec<_> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0)
        .filter_map(|symbol| {
            let name = format!("{:#}", rustc_demangle::demangle(symbol.name().ok()?));
            let name = match name.split_once("rill::kernels::") {
                Some((_, name)) => name,
                None if name == ENTRY => "entries of tables",
                None => return None,
            };
            let (start, end) = (symbol.address(), symbol.address() + symbol.size());
            Some(Symbol { name: name.to_owned(), start, end })
        })
        .collect();
    ensure!(!symbols.is_empty(), "{} has no symbols of kernels", elf.display());
    Ok(symbols)
}

/// Builds the plugin.
fn plugin() -> Result<PathBuf> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--quiet", "--package", "insncount", "--lib"]);
    workspace::run(&mut cargo)?;
    Ok(workspace::target_dir().join("debug/libinsncount.so"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_by_name() {
        let errors = "note: x\ntotal 100\nk1 7\nk10 8\n";
        assert_eq!(counted(errors, "k1").unwrap(), 7);
        assert_eq!(counted(errors, "total").unwrap(), 100);
        assert!(counted(errors, "k2").is_err());
    }

    #[test]
    fn the_cores_own_count_is_read() {
        let line = "executed  123 instructions a token on the first core, 861 in 7 tokens";
        assert_eq!(executed(&format!("load  1 s\n{line}\n")).unwrap(), 861);
        assert!(executed("load  1 s\n").is_err());
    }

    #[test]
    fn digits_are_grouped_as_in_board_files() {
        assert_eq!([7, 1000, 2_387_978].map(grouped), ["7", "1_000", "2_387_978"]);
    }

    #[test]
    fn a_count_above_the_stored_one_fails() {
        let mut board = workspace::board("virt").unwrap();
        board.instructions = Some(Instructions { token: 1000 });
        for (count, passes) in [(1040.0, false), (1020.0, true), (900.0, true)] {
            let kernels = BTreeMap::from([("matmul".to_owned(), count)]);
            let counts = Counts { total: count, own: None, kernels };
            assert_eq!(compare_with_stored(&board, &counts).is_ok(), passes);
        }
    }

    #[test]
    fn counters_that_disagree_fail() {
        let board = workspace::board("virt").unwrap();
        for (own, passes) in [(Some(1010.0), true), (Some(900.0), false), (None, true)] {
            let counts = Counts { total: 1000.0, own, kernels: BTreeMap::new() };
            assert_eq!(compare_counters(&board, &counts).is_ok(), passes);
        }
    }
}
