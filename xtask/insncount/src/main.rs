//! What each kernel of each table costs: executed instructions per multiply-add or per element,
//! counted under qemu-user with this crate's plugin.
//!
//! `cargo run --release -p insncount --bin kernel-costs [TARGET]`, where TARGET is
//! `aarch64-unknown-linux-gnu` (the default) or `aarch64-unknown-none`. Needs `qemu-aarch64` with
//! `-plugin` and the target's standard library (`rustup target add TARGET`).
//!
//! A call's cost is the difference between runs of 1 and of 2 calls, so start-up does not count.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use rill_board::TABLES;

/// As in `examples/kernel_load.rs`: what one call does for one token.
const MATMUL_WORK: u64 = 2 * 16 * 2048;
const ATTEND_WORK: u64 = 2 * 4 * 256 * 64;
const ELEMENTS: u64 = 2048;

/// The tables of aarch64 and their widths: of plain and of fine activations.
const WIDTHS: [(&str, [u64; 2]); 3] = [("neon", [8, 8]), ("dotprod", [12, 8]), ("i8mm", [12, 8])];

/// Operations that depend on the width, of plain and of fine activations, and those that do not.
const PRODUCTS: [[&str; 2]; 2] = [["q4", "q8"], ["q4_fine", "q8_fine"]];
const OTHERS: [(&str, u64); 7] = [
    ("f32", MATMUL_WORK),
    ("attend", ATTEND_WORK),
    ("quantise", ELEMENTS),
    ("quantise_fine", ELEMENTS),
    ("swiglu", ELEMENTS),
    ("rms_norm", ELEMENTS),
    ("add_scaled", ELEMENTS),
];

fn main() -> Result<(), Box<dyn Error>> {
    let target = std::env::args().nth(1).unwrap_or_else(|| "aarch64-unknown-linux-gnu".into());
    let bin = std::env::current_exe()?;
    let profile = bin.parent().ok_or("this program has no folder")?;
    let plugin = profile.join("libinsncount.so");
    let load = build_load(&target, profile)?;
    println!("table     operation     tokens  instructions per multiply-add or element");
    for (table, widths) in WIDTHS {
        let cpus = TABLES.iter().find(|known| known.name == table).map(|known| known.emulated);
        let cpu = cpus.and_then(<[_]>::last).ok_or("a table that no CPU of QEMU runs")?;
        let show = |operation: &str, tokens: u64, work: u64| -> Result<(), Box<dyn Error>> {
            let count = |calls: u64| total(&plugin, cpu, &load, table, operation, tokens, calls);
            let cost = (count(2)? - count(1)?) as f64 / (work * tokens) as f64;
            println!("{table:<9} {operation:<13} {tokens:>6}  {cost:.4}");
            Ok(())
        };
        for (operations, width) in PRODUCTS.iter().zip(widths) {
            for operation in operations {
                for tokens in [1, 2, 4, width] {
                    show(operation, tokens, MATMUL_WORK)?;
                }
            }
        }
        for (operation, work) in OTHERS {
            show(operation, 1, work)?;
        }
    }
    Ok(())
}

/// Builds the program that calls the kernels and returns its path.
fn build_load(target: &str, profile: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let target_dir = profile.parent().ok_or("this program lies outside a target folder")?;
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--release", "-p", "insncount", "--example", "kernel_load"])
        .args(["--target", target, "--target-dir"])
        .arg(target_dir)
        .status()?;
    if !status.success() {
        return Err(format!("cannot build for {target}: try `rustup target add {target}`").into());
    }
    Ok(target_dir.join(target).join("release/examples/kernel_load"))
}

/// Instructions that a run of `calls` calls executes.
fn total(
    plugin: &Path,
    cpu: &str,
    load: &Path,
    table: &str,
    operation: &str,
    tokens: u64,
    calls: u64,
) -> Result<u64, Box<dyn Error>> {
    let output = Command::new("qemu-aarch64")
        .args(["-L", "/usr/aarch64-linux-gnu", "-cpu", cpu, "-plugin"])
        .arg(plugin)
        .arg(load)
        .args([table, operation, &tokens.to_string(), &calls.to_string()])
        .output()
        .map_err(|e| format!("cannot run qemu-aarch64: {e}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{table} {operation}: {}: {stderr}", output.status).into());
    }
    stderr
        .lines()
        .find_map(|line| line.strip_prefix("total ")?.parse().ok())
        .ok_or_else(|| "no count: is this qemu older than 8.2 and built with plugins?".into())
}
