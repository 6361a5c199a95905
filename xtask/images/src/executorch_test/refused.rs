//! Programs and options that the runtime and the backend refuse: with an error each, never a crash.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rill::image::{Header, MAGIC, Section};

use super::Checker;

/// Numbers of the runtime's errors.
mod error {
    pub const INVALID_ARGUMENT: u32 = 0x12;
    pub const NOT_FOUND: u32 = 0x20;
    pub const ACCESS_FAILED: u32 = 0x22;
    pub const INVALID_PROGRAM: u32 = 0x23;
    pub const INCOMPATIBLE: u32 = 0x30;
    pub const NO_MEMORY: u32 = 0x31;
}

/// A change of a program's bytes.
type Change = Box<dyn Fn(&mut Vec<u8>) -> Result<()>>;

/// Loads a program that was changed, and one that was not with options that cannot be followed.
pub fn check(checker: &Checker<'_>, program: &Path, files: &Path) -> Result<()> {
    let whole = fs::read(program)?;
    let area = area(&whole)?;
    let pages = area.end - (1 << 20);
    let cases: [(&str, Change, u32); 10] = [
        ("a file without a head", Box::new(cut(20)), error::INVALID_ARGUMENT),
        ("tables that are cut", Box::new(cut(area.start / 2)), error::INVALID_PROGRAM),
        ("segments that are cut", Box::new(cut(pages)), error::INVALID_PROGRAM),
        ("a newer version", Box::new(|bytes| newer(bytes)), error::INVALID_PROGRAM),
        (
            "no place of the tables",
            Box::new(|bytes| put(bytes, 0, &[0xff; 4])),
            error::INVALID_PROGRAM,
        ),
        (
            "a missing backend",
            Box::new(|bytes| replace(bytes, b"RillBackend", b"NillBackend")),
            error::NOT_FOUND,
        ),
        (
            "a blob that is no image",
            Box::new(|bytes| replace(bytes, &MAGIC, b"LLIR\r\n\x1a\n")),
            error::INCOMPATIBLE,
        ),
        (
            "a damaged header",
            Box::new(move |bytes| put(bytes, area.start + 40, &[1; 8])),
            error::INCOMPATIBLE,
        ),
        (
            "an image that ends within its header",
            Box::new(move |bytes| put(bytes, area.start + 16, &4096_u64.to_le_bytes())),
            error::INCOMPATIBLE,
        ),
        ("damaged weights", Box::new(|bytes| damage_weights(bytes)), error::INCOMPATIBLE),
    ];
    let changed = files.join("changed.pte");
    for (what, change, expected) in cases {
        let mut bytes = whole.clone();
        change(&mut bytes)?;
        fs::write(&changed, bytes)?;
        expect(checker, what, &changed, &[], expected)?;
    }
    let nowhere = format!("program={}", files.join("nowhere.pte").display());
    for (what, option, expected) in [
        ("a budget too small", "ram_mib=17", error::NO_MEMORY),
        ("no budget", "ram_mib=0", error::INVALID_ARGUMENT),
        ("an unknown option", "colour=7", error::INVALID_ARGUMENT),
        ("a program that is not there", &nowhere, error::ACCESS_FAILED),
    ] {
        expect(checker, what, program, &[option.to_owned()], expected)?;
    }
    // What the loader reads and what the backend reads are two models.
    let mut other = whole;
    take_other_identity(&mut other)?;
    fs::write(&changed, other)?;
    let option = format!("program={}", program.display());
    expect(checker, "the program of another model", &changed, &[option], error::INCOMPATIBLE)
}

fn expect(
    checker: &Checker<'_>,
    what: &str,
    program: &Path,
    options: &[String],
    expected: u32,
) -> Result<()> {
    let found = checker.load(program, options).with_context(|| what.to_owned())?;
    println!("{what}: {found:#x}");
    ensure!(found == expected, "{what}: error {found:#x} where {expected:#x} is right");
    Ok(())
}

/// Where the segments are, as the head says.
fn area(bytes: &[u8]) -> Result<Range<usize>> {
    let word = |at: usize| -> Result<usize> {
        let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.first_chunk());
        Ok(usize::try_from(u64::from_le_bytes(*bytes.context("no head")?))?)
    };
    let start = word(24)?;
    Ok(start..start + word(32)?)
}

fn cut(len: usize) -> impl Fn(&mut Vec<u8>) -> Result<()> {
    move |bytes| {
        bytes.truncate(len);
        Ok(())
    }
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) -> Result<()> {
    bytes.get_mut(at..at + new.len()).context("the file is too short")?.copy_from_slice(new);
    Ok(())
}

/// Replaces the first place of some bytes.
fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) -> Result<()> {
    let at = bytes.windows(old.len()).position(|part| part == old).context("it is not there")?;
    put(bytes, at, new)
}

/// The version of the schema, the first field of the root table, becomes 1.
fn newer(bytes: &mut [u8]) -> Result<()> {
    let word = |at: usize| -> Result<u32> {
        let word = bytes.get(at..at + 4).and_then(|bytes| bytes.first_chunk());
        Ok(u32::from_le_bytes(*word.context("the file is too short")?))
    };
    let root = word(0)? as usize;
    // What describes the table stands so many bytes before it, or behind.
    let described = root.wrapping_add_signed(-(word(root)?.cast_signed() as isize));
    let field = (word(described + 4)? & 0xffff) as usize;
    ensure!(word(root + field)? == 0, "the version is not where it should be");
    put(bytes, root + field, &[1, 0, 0, 0])
}

/// The tables say that their model is another one.
fn take_other_identity(bytes: &mut [u8]) -> Result<()> {
    let identity = Header::parse(&bytes[area(bytes)?.start..])?.identity();
    replace(bytes, &identity.to_le_bytes(), &(identity ^ 1).to_le_bytes())
}

/// A bit of the resident weights.
fn damage_weights(bytes: &mut [u8]) -> Result<()> {
    let start = area(bytes)?.start;
    let span = Header::parse(&bytes[start..])?.span(Section::Resident);
    let at = start + usize::try_from(span.offset + span.len / 2)?;
    let byte = bytes.get(at).context("the file is too short")? ^ 0x10;
    put(bytes, at, &[byte])
}
