//! `cargo xtask count`: executed instructions, which show a slower kernel without a board.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSymbol, SymbolKind};
use rill_board::Platform;

use crate::chat::converse;
use crate::image::Inputs;
use crate::need::{self, Need};
use crate::run::Emulation;
use crate::{kernel, program, run, workspace};

/// Count the instructions that each token costs on a board, kernel by kernel.
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
    let counts = count(board)?;
    println!("{:<44} instructions per token", board);
    for (name, count) in &counts.kernels {
        println!("{name:<44} {count:>14.0}");
    }
    println!("{:<44} {:>14.0}", "all kernels", counts.in_kernels());
    println!("{:<44} {:>14.0}", "everything", counts.total);
    let Some(other) = &args.against else { return Ok(()) };
    let ratio = counts.in_kernels() / count(other)?.in_kernels();
    println!("{board} executes {ratio:.4} times the instructions of {other} in kernels");
    if (ratio - 1.0).abs() > TOLERANCE {
        bail!("the kernels of {board} and {other} are compiled to different instructions");
    }
    Ok(())
}

/// Instructions for one token of the kiosk model, on one core.
fn count(board: &str) -> Result<Counts> {
    let mut inputs = Inputs::new(board, None, None)?;
    ensure!(inputs.board.architecture() == "aarch64", "{board}: only 64-bit Arm is counted");
    let elf = match inputs.board.platform {
        Platform::Linux => program::build(&inputs.board, "rill")?,
        Platform::Bare => kernel::build(&inputs.board)?,
    };
    let symbols = kernels(&elf)?;
    let plugin = plugin()?;
    let mut argument = plugin.display().to_string();
    for (i, symbol) in symbols.iter().enumerate() {
        argument += &format!(",k{i}={:x}:{:x}", symbol.start, symbol.end);
    }
    let emulation = Emulation {
        cores: Some(1),
        arguments: vec!["-plugin".to_owned(), argument],
        ..Emulation::default()
    };
    let mut runs = Vec::new();
    for tokens in TOKENS {
        inputs.set(&[("threads", 1), ("seed", 7), ("max-tokens", tokens)]);
        let said = converse(run::machine(&inputs, &emulation)?, &[TURN])?;
        runs.push(said.errors);
    }
    let per_token = |name: &str| -> Result<f64> {
        let [few, many] = [&runs[0], &runs[1]].map(|errors| counted(errors, name));
        let (few, many) = (few?, many?);
        Ok((many as f64 - few as f64) / (TOKENS[1] - TOKENS[0]) as f64)
    };
    let mut kernels = BTreeMap::new();
    for (i, symbol) in symbols.into_iter().enumerate() {
        let count = per_token(&format!("k{i}"))?;
        if count > 0.0 {
            *kernels.entry(symbol.name).or_default() += count;
        }
    }
    ensure!(!kernels.is_empty(), "{board} executed no kernel");
    Ok(Counts { total: per_token("total")?, kernels })
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
}
