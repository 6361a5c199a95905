//! Builds the kernel for a board without an operating system.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use object::elf::PT_LOAD;
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol, SymbolKind};
use rill_board::Board;

use crate::program::executable;
use xtask::need::{self, Need};
use xtask::workspace;

/// Builds the kernel; returns the ELF file, which has symbols.
pub fn build(board: &Board) -> Result<PathBuf> {
    need::require(&[Need::target(board.target.clone())])?;
    let file = workspace::root().join("boards").join(&board.name).with_extension("toml");
    let mut cargo = workspace::cargo();
    // Flags of its own: what they build must not replace what they do not.
    cargo.args(["--config", "platform/bare/config.toml", "build", "--profile", "bare"]);
    cargo.args(["--package", "rill-bare", "--bin", "rill-bare", "--features", "board"]);
    cargo.args(["--target", &board.target, "--message-format", "json-render-diagnostics"]);
    cargo.arg("--target-dir").arg(workspace::target_dir().join("bare"));
    cargo.env("RILL_BOARD_FILE", file);
    let built = executable(&mut cargo)?;
    // The next board's kernel takes its place.
    let kept = kept(board)?;
    fs::copy(&built, &kept).with_context(|| kept.display().to_string())?;
    Ok(kept)
}

/// Where the ELF file of a board's kernel is kept: the one that was last built.
pub fn kept(board: &Board) -> Result<PathBuf> {
    Ok(workspace::cache("kernels")?.join(format!("{}.elf", board.name)))
}

/// What lies in RAM from the load address on, as a boot loader copies it there.
pub fn flatten(elf: &Path, load: u64) -> Result<Vec<u8>> {
    let bytes = fs::read(elf).with_context(|| elf.display().to_string())?;
    let file = ElfFile64::<Endianness>::parse(&*bytes)?;
    let endian = file.endian();
    let mut image = Vec::new();
    for segment in file.elf_program_headers() {
        let data = segment.data(endian, &*bytes).ok().context("a segment lies outside the file")?;
        if segment.p_type(endian) != PT_LOAD || data.is_empty() {
            continue;
        }
        let address = segment.p_paddr(endian);
        let Some(at) = address.checked_sub(load) else {
            bail!("a segment is at {address:#x}, below bare.load, {load:#x}");
        };
        let at = usize::try_from(at)?;
        ensure!(at < 1 << 30, "a segment is at {address:#x}, far above bare.load, {load:#x}");
        image.resize(image.len().max(at + data.len()), 0);
        image[at..at + data.len()].copy_from_slice(data);
    }
    ensure!(file.entry() == load, "the entry is {:#x}, bare.load is {load:#x}", file.entry());
    Ok(image)
}

/// RAM and engine of a kernel.
pub struct Footprint {
    /// RAM that it takes beside its code and the arena: data, stacks, tables.
    pub ram: u64,
    /// Code and data of the engine, and all read-only data, whoever's.
    pub engine: u64,
}

/// Measures a kernel.
pub fn footprint(elf: &Path) -> Result<Footprint> {
    use object::ObjectSection;
    let bytes = fs::read(elf).with_context(|| elf.display().to_string())?;
    let file = object::File::parse(&*bytes)?;
    let sections = |names: &[&str]| {
        let named = |name: &str| names.contains(&name);
        file.sections().filter(|s| s.name().is_ok_and(named)).map(|s| s.size()).sum::<u64>()
    };
    let code: u64 = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text)
        .filter(|symbol| symbol.name().is_ok_and(is_engine))
        .map(|symbol| symbol.size())
        .sum();
    ensure!(code > 0, "{} has no symbols", elf.display());
    Ok(Footprint { ram: sections(&[".data", ".bss"]), engine: code + sections(&[".rodata"]) })
}

/// Whether a symbol is of the crate `rill`, or an implementation for a type of it.
fn is_engine(symbol: &str) -> bool {
    let name = rustc_demangle::demangle(symbol).to_string();
    name.trim_start_matches('<').starts_with("rill::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_of_the_engine_are_known() {
        assert!(is_engine("_ZN4rill7session7Session4step17h0123456789abcdefE"));
        assert!(is_engine("rill::session::Session::step"));
        assert!(!is_engine("_ZN9rill_bare4main17h0123456789abcdefE"));
        assert!(!is_engine("_start"));
    }
}
