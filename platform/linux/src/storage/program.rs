//! ExecuTorch programs (`.pte`) as files of images: what `cargo xtask image` makes for the boards
//! `executorch-*` holds an image whole, as the area of its segments.
//!
//! A program begins with 40 bytes that say where that area is (numbers are little-endian; ExecuTorch's
//! `extended_header.h` describes them):
//!
//! | at | bytes | content |
//! |---|---|---|
//! | 4 | 4 | `ET12`, the identifier of the format |
//! | 8 | 4 | `eh00`, the identifier of what follows |
//! | 12 | 4 | its bytes, these included: at least 32 |
//! | 16 | 8 | bytes of the program, without the segments |
//! | 24 | 8 | where the area of the segments begins |
//! | 32 | 8 | its bytes |

use std::fs::File;
use std::io;
use std::ops::Range;

use rill::image::{MAGIC, PAGE_ALIGN};
use rustix::io::Errno;

/// Bytes that say what a program is and where its segments are.
const HEAD: usize = 40;
/// Bytes of the extended header that are read here.
const EXTENDED: u32 = 32;

/// Why a program is not used as an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// It has no segments, other ones, or they contradict the file.
    #[error(
        "this ExecuTorch program holds no Rill model; make one with `cargo xtask image --board executorch-...`"
    )]
    NoImage,
    /// It ends before its segments do.
    #[error("this ExecuTorch program has {found} of {expected} bytes; copy it again")]
    Truncated {
        /// Bytes it should have.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
}

impl From<ProgramError> for io::Error {
    fn from(error: ProgramError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Where the image lies in a file of `len` bytes: in all of it, unless it is a program.
pub fn image_in(file: &File, len: u64) -> io::Result<Range<u64>> {
    let mut head = [0; HEAD];
    let read = read_whole(file, &mut head, 0)?;
    let Some(area) = segments(&head[..read], len)? else { return Ok(0..len) };
    let mut magic = [0; MAGIC.len()];
    let read = read_whole(file, &mut magic, area.start)?;
    if magic[..read] != MAGIC {
        return Err(ProgramError::NoImage.into());
    }
    Ok(area)
}

/// The area of the segments of a program of `len` bytes that begins with `head`; `None` when it is none.
fn segments(head: &[u8], len: u64) -> Result<Option<Range<u64>>, ProgramError> {
    if head.get(4..8) != Some(b"ET12") {
        return Ok(None);
    }
    let Some((head, _)) = head.split_first_chunk::<HEAD>() else {
        return Err(ProgramError::Truncated { expected: HEAD as u64, found: len });
    };
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&head[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let [program, base, bytes] = [16, 24, 32].map(word);
    let extended = (word(8) >> 32) as u32;
    let end = base.checked_add(bytes).ok_or(ProgramError::NoImage)?;
    let whole = [base, bytes].iter().all(|at| at.is_multiple_of(PAGE_ALIGN as u64));
    if head[8..12] != *b"eh00" || extended < EXTENDED || base < program || bytes == 0 || !whole {
        return Err(ProgramError::NoImage);
    }
    if len < end {
        return Err(ProgramError::Truncated { expected: end, found: len });
    }
    Ok(Some(base..end))
}

/// Reads until the buffer is full or the file ends; returns how much.
fn read_whole(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut bytes = 0;
    while bytes < into.len() {
        match rustix::io::pread(file, &mut into[bytes..], offset + bytes as u64) {
            Ok(0) => break,
            Ok(more) => bytes += more,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    const PAGE: u64 = PAGE_ALIGN as u64;

    fn head(program: u64, base: u64, bytes: u64) -> Vec<u8> {
        let mut head = vec![0; 4];
        head.extend(b"ET12eh00");
        head.extend(EXTENDED.to_le_bytes());
        [program, base, bytes].iter().for_each(|word| head.extend(word.to_le_bytes()));
        head
    }

    #[test]
    fn only_what_is_a_program_has_segments() {
        assert_eq!(segments(&MAGIC, 1 << 20), Ok(None));
        assert_eq!(segments(&[], 0), Ok(None));
        assert_eq!(segments(&head(999, PAGE, 3 * PAGE), 4 * PAGE), Ok(Some(PAGE..4 * PAGE)));
    }

    #[test]
    fn what_contradicts_itself_or_is_cut_is_refused() {
        let refused = |head: &[u8], len| segments(head, len).unwrap_err();
        for (program, base, bytes) in [
            (999, PAGE + 1, PAGE),
            (999, PAGE, PAGE - 1),
            (999, PAGE, 0),
            (PAGE + 1, PAGE, PAGE),
            (999, u64::MAX - PAGE + 1, PAGE),
        ] {
            assert_eq!(refused(&head(program, base, bytes), u64::MAX), ProgramError::NoImage);
        }
        let whole = head(999, PAGE, PAGE);
        let cut = ProgramError::Truncated { expected: 2 * PAGE, found: 2 * PAGE - 1 };
        assert_eq!(refused(&whole, 2 * PAGE - 1), cut);
        for len in 8..HEAD {
            let cut = ProgramError::Truncated { expected: HEAD as u64, found: len as u64 };
            assert_eq!(refused(&whole[..len], len as u64), cut);
        }
        let mut plain = whole.clone();
        plain[8..12].fill(0);
        assert_eq!(refused(&plain, 2 * PAGE), ProgramError::NoImage);
        let mut short = whole;
        short[12] = 24;
        assert_eq!(refused(&short, 2 * PAGE), ProgramError::NoImage);
    }

    #[test]
    fn a_program_of_others_holds_no_image() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&head(40, PAGE, PAGE)).unwrap();
        file.as_file().set_len(2 * PAGE).unwrap();
        let error = image_in(file.as_file(), 2 * PAGE).unwrap_err().to_string();
        assert_eq!(error, ProgramError::NoImage.to_string());
    }

    proptest! {
        #[test]
        fn an_area_lies_in_the_file(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..64),
            words in any::<[u64; 3]>(),
            pages in any::<[u8; 3]>(),
            len in any::<u64>(),
        ) {
            let [program, base, size] = pages.map(|n| u64::from(n) * PAGE);
            for head in [head(words[0], words[1], words[2]), head(program, base, size)] {
                for len in [len, len % (64 * PAGE)] {
                    if let Ok(Some(area)) = segments(&head, len) {
                        prop_assert!(area.start < area.end && area.end <= len);
                    }
                }
            }
            bytes.iter_mut().skip(4).zip(b"ET12").for_each(|(byte, &id)| *byte = id);
            let _ = segments(&bytes, len);
        }
    }
}
