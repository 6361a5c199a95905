//! Decodes the log of a board without an operating system.
//!
//! `rill-log KERNEL FRAMES` reads defmt frames that a kernel wrote (`KERNEL` is its ELF file, with
//! symbols) and prints a line for each: seconds since the board started, level, message, and the
//! place in the sources. It fails, after the lines that it could read, at a frame that is damaged or
//! not of this kernel, and when the last frame has no end.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use defmt_decoder::{DecodeError, Frame, Locations, Table};

/// Ends each frame on the wire.
const END: u8 = 0;

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let [kernel, frames] = arguments else { bail!("usage: rill-log KERNEL FRAMES") };
    let read = |path: &str| fs::read(path).with_context(|| path.to_owned());
    let (elf, bytes) = (read(kernel)?, read(frames)?);
    let table = Table::parse(&elf).with_context(|| kernel.clone())?;
    let table = table.with_context(|| format!("{kernel} has no log: no section .defmt"))?;
    let places = table.get_locations(&elf).with_context(|| kernel.clone())?;
    let mut out = std::io::stdout().lock();
    decode(&table, &places, &bytes, |line| Ok(writeln!(out, "{line}")?))
        .with_context(|| frames.clone())
}

/// Calls `each` with the line of every frame.
fn decode(
    table: &Table,
    places: &Locations,
    bytes: &[u8],
    mut each: impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    let mut decoder = table.new_stream_decoder();
    decoder.received(bytes);
    for number in 1.. {
        match decoder.decode() {
            Ok(frame) => each(&line(&frame, places))?,
            Err(DecodeError::UnexpectedEof) => break,
            Err(DecodeError::Malformed) => {
                bail!("frame {number} is damaged, or another kernel wrote it")
            }
        }
    }
    ensure!(bytes.last().is_none_or(|&byte| byte == END), "the last frame has no end");
    Ok(())
}

/// Time, level, message, file and line.
fn line(frame: &Frame<'_>, places: &Locations) -> String {
    let mut line = String::new();
    if let Some(time) = frame.display_timestamp() {
        line += &format!("{time:>12} ");
    }
    let level = frame.level().map_or("", |level| level.as_str()).to_uppercase();
    line += &format!("{level:<5} {}", frame.display_message());
    if let Some(place) = places.get(&frame.index()) {
        // Strings take what is written.
        let _ = write!(line, " ({}:{})", tail(&place.file).display(), place.line);
    }
    line
}

/// The path within the sources of its crate, which says enough.
fn tail(file: &Path) -> &Path {
    let from = file.ancestors().find(|folder| folder.ends_with("src")).and_then(Path::parent);
    from.and_then(|from| file.strip_prefix(from).ok()).unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: u16 = 1;
    /// Frame 1 after 5 microseconds. Of each 7 bytes those that are not zero, then a bit for each
    /// that is.
    const FRAME: [u8; 5] = [1, 5, 0b111_1010, 0b111_1111, END];

    /// An ELF file with these symbols in a section `.defmt`.
    fn elf(symbols: &[(&str, u64)]) -> Vec<u8> {
        let mut names = b"\0.defmt\0.symtab\0.strtab\0".to_vec();
        let mut table = vec![0; 24];
        for (name, value) in symbols {
            table.extend(u32::try_from(names.len()).unwrap().to_le_bytes());
            // A global object of section 1.
            table.extend([0x11, 0, 1, 0]);
            table.extend(value.to_le_bytes());
            table.extend(1_u64.to_le_bytes());
            names.extend(name.bytes().chain([0]));
        }
        names.resize(names.len().next_multiple_of(8), 0);
        let (header, names_len, table_len) = (64, names.len() as u64, table.len() as u64);
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        // A program for 64-bit Arm: no entry, no segments, sections after everything.
        file.extend([2, 0, 183, 0, 1, 0, 0, 0].iter().chain(&[0; 16]));
        file.extend((header + names_len + table_len).to_le_bytes());
        for half in [0_u16, 0, 64, 56, 0, 64, 4, 3] {
            file.extend(half.to_le_bytes());
        }
        file.extend(names.iter().chain(&table));
        // Name, kind, flags, address, offset, bytes, link and info, alignment, bytes of an entry.
        for section in [
            [0; 8],
            [1 | 1 << 32, 0, 0, header, 1, 0, 1, 0],
            [8 | 2 << 32, 0, 0, header + names_len, table_len, 3 | 1 << 32, 8, 24],
            [16 | 3 << 32, 0, 0, header, names_len, 0, 1, 0],
        ] {
            file.extend(section.iter().flat_map(|word: &u64| word.to_le_bytes()));
        }
        file
    }

    fn table() -> Table {
        let text = |tag: &str, data: &str| {
            format!(
                r#"{{"package":"p","tag":"{tag}","data":"{data}","disambiguator":"1","crate_name":"p"}}"#
            )
        };
        let symbols = [
            ("_defmt_version_ = 4", 0),
            ("_defmt_encoding_ = rzcobs", 0),
            (&*text("defmt_info", "ready"), INFO.into()),
            (&*text("defmt_timestamp", "{=u64:us}"), 2),
        ];
        Table::parse(&elf(&symbols)).unwrap().unwrap()
    }

    /// The lines, and the error after them.
    fn decoded(bytes: &[u8]) -> (Vec<String>, Option<String>) {
        let mut lines = Vec::new();
        let each = |line: &str| {
            lines.push(line.trim().to_owned());
            Ok(())
        };
        let error = decode(&table(), &Locations::new(), bytes, each).err();
        (lines, error.map(|error| error.to_string()))
    }

    #[test]
    fn each_frame_is_a_line() {
        let line = "0.000005 INFO  ready".to_owned();
        assert_eq!(decoded(&[FRAME, FRAME].concat()), (vec![line.clone(), line], None));
        assert_eq!(decoded(&[]), (vec![], None));
    }

    #[test]
    fn what_is_no_frame_of_this_kernel_is_an_error() {
        let mut other = FRAME;
        other[0] = 9;
        let mut damaged = FRAME;
        damaged[2] = 0xff;
        for bytes in [other, damaged] {
            let (lines, error) = decoded(&[FRAME, bytes].concat());
            assert_eq!(lines.len(), 1);
            assert!(error.unwrap().contains("frame 2"));
        }
    }

    #[test]
    fn a_frame_without_an_end_is_an_error() {
        let (lines, error) = decoded(&[&FRAME[..], &FRAME[..3]].concat());
        assert_eq!(lines.len(), 1);
        assert!(error.unwrap().contains("no end"));
    }

    #[test]
    fn a_place_is_named_within_its_crate() {
        assert_eq!(tail(Path::new("/a/src/b/src/c.rs")), Path::new("src/c.rs"));
        assert_eq!(tail(Path::new("c.rs")), Path::new("c.rs"));
    }
}
