//! What an attempt at an image leaves for the next one.
//!
//! A journal lies beside the image under way, with a line for each piece that was made: where it
//! lies, its checksum, what rounding cost. Neither file needs to be synced: a piece that did not
//! reach the device, or only in part, does not have its checksum and is made again.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::matrix::Loss;

/// What earlier attempts at an image have made, and what this one makes.
pub trait Earlier {
    /// Fills `bytes`, which belong at `at` of the image, and adds to `losses`, if an earlier
    /// attempt made them.
    fn take(&mut self, at: u64, bytes: &mut [u8], losses: &mut [Loss]) -> io::Result<bool>;
    /// Notes a piece that is about to be written, and what rounding cost in it.
    fn made(&mut self, at: u64, bytes: &[u8], losses: &[Loss]) -> io::Result<()>;
}

/// Pieces of which some were made before, and by nothing else can be.
pub struct Required<'e> {
    /// Has them.
    pub earlier: &'e mut dyn Earlier,
    /// Where they lie.
    pub pieces: &'e BTreeSet<u64>,
}

impl Earlier for Required<'_> {
    fn take(&mut self, at: u64, bytes: &mut [u8], losses: &mut [Loss]) -> io::Result<bool> {
        let taken = self.earlier.take(at, bytes, losses)?;
        if !taken && self.pieces.contains(&at) {
            let what = "what was written of it has changed on the disk";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(taken)
    }

    fn made(&mut self, at: u64, bytes: &[u8], losses: &[Loss]) -> io::Result<()> {
        self.earlier.made(at, bytes, losses)
    }
}

/// No earlier attempt, and none later.
#[derive(Debug, Clone, Copy)]
pub struct Nothing;

impl Earlier for Nothing {
    fn take(&mut self, _: u64, _: &mut [u8], _: &mut [Loss]) -> io::Result<bool> {
        Ok(false)
    }

    fn made(&mut self, _: u64, _: &[u8], _: &[Loss]) -> io::Result<()> {
        Ok(())
    }
}

/// The journal of an image under way.
#[derive(Debug)]
pub struct Journal {
    lines: File,
    image: File,
    pieces: HashMap<u64, Piece>,
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// What the image is made of, and how.
    identity: String,
}

/// Any other line.
#[derive(Debug, Serialize, Deserialize)]
struct Piece {
    at: u64,
    len: u64,
    checksum: u64,
    /// Power and error of each part, as the bits of an f64: decimals are not read back exactly.
    losses: Vec<[u64; 2]>,
}

impl Journal {
    /// Goes on with the journal in `lines` of the image under way in `image`; `None` when it is
    /// not one of this `identity`.
    pub fn resume(lines: File, image: File, identity: &str) -> io::Result<Option<Self>> {
        let mut reader = BufReader::new(&lines);
        let mut line = Vec::new();
        let mut whole = 0;
        let mut pieces = HashMap::new();
        let mut known = false;
        // A line that was cut when its writer ended is no line, and neither is what follows.
        loop {
            line.clear();
            let len = reader.by_ref().take(LINE_MOST).read_until(b'\n', &mut line)?;
            if line.pop() != Some(b'\n') {
                break;
            }
            if known {
                let Ok(piece) = serde_json::from_slice::<Piece>(&line) else { break };
                pieces.insert(piece.at, piece);
            } else if serde_json::from_slice::<Head>(&line).is_ok_and(|h| h.identity == identity) {
                known = true;
            } else {
                break;
            }
            whole += len as u64;
        }
        if !known {
            return Ok(None);
        }
        lines.set_len(whole)?;
        (&lines).seek(SeekFrom::End(0))?;
        Ok(Some(Self { lines, image, pieces }))
    }

    /// Starts a journal in the empty file `lines`.
    pub fn start(lines: File, image: File, identity: &str) -> io::Result<Self> {
        let mut journal = Self { lines, image, pieces: HashMap::new() };
        journal.note(&Head { identity: identity.into() })?;
        Ok(journal)
    }

    /// One line more.
    fn note(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.lines.write_all(text.as_bytes())
    }
}

impl Journal {
    /// Notes a piece that was written, to be taken by this very attempt.
    pub fn keep(&mut self, at: u64, bytes: &[u8], losses: &[Loss]) -> io::Result<()> {
        let piece = Piece::new(at, bytes, losses);
        self.note(&piece)?;
        self.pieces.insert(at, piece);
        Ok(())
    }

    /// Whether there is a whole piece of `len` bytes at `at`.
    pub fn has(&mut self, at: u64, len: u64) -> bool {
        let Some(piece) = self.pieces.get(&at).filter(|piece| piece.len == len) else {
            return false;
        };
        let checksum = piece.checksum;
        // The length is the caller's, not the file's.
        let mut bytes = vec![0; len as usize];
        let read =
            self.image.seek(SeekFrom::Start(at)).and_then(|_| self.image.read_exact(&mut bytes));
        read.is_ok() && xxh3_64(&bytes) == checksum
    }
}

impl Piece {
    fn new(at: u64, bytes: &[u8], losses: &[Loss]) -> Self {
        Self {
            at,
            len: bytes.len() as u64,
            checksum: xxh3_64(bytes),
            losses: losses.iter().map(|l| [l.power.to_bits(), l.error.to_bits()]).collect(),
        }
    }
}

/// Longest line that is read.
const LINE_MOST: u64 = 1 << 16;

impl Earlier for Journal {
    fn take(&mut self, at: u64, bytes: &mut [u8], losses: &mut [Loss]) -> io::Result<bool> {
        let Some(piece) = self.pieces.remove(&at) else { return Ok(false) };
        if piece.len != bytes.len() as u64 || piece.losses.len() != losses.len() {
            return Ok(false);
        }
        self.image.seek(SeekFrom::Start(at))?;
        if self.image.read_exact(bytes).is_err() || xxh3_64(bytes) != piece.checksum {
            // What follows expects to write over zeros.
            bytes.fill(0);
            return Ok(false);
        }
        for (loss, [power, error]) in losses.iter_mut().zip(piece.losses) {
            loss.add(Loss { power: f64::from_bits(power), error: f64::from_bits(error) });
        }
        Ok(true)
    }

    fn made(&mut self, at: u64, bytes: &[u8], losses: &[Loss]) -> io::Result<()> {
        self.note(&Piece::new(at, bytes, losses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOSS: Loss = Loss { power: 0.1, error: 1e-300 };

    fn resumed(lines: &File, image: &File, identity: &str) -> Option<Journal> {
        let mut lines = lines.try_clone().unwrap();
        lines.rewind().unwrap();
        Journal::resume(lines, image.try_clone().unwrap(), identity).unwrap()
    }

    fn take(journal: &mut Journal, at: u64, len: usize) -> Option<(Vec<u8>, Loss)> {
        let (mut bytes, mut losses) = (vec![0; len], [Loss::default()]);
        let taken = journal.take(at, &mut bytes, &mut losses).unwrap();
        assert!(taken || bytes.iter().all(|&byte| byte == 0));
        taken.then_some((bytes, losses[0]))
    }

    /// A journal of two pieces, at 0 and 4, and its image.
    fn two() -> (File, File) {
        let (lines, mut image) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        image.write_all(b"onetwo!!").unwrap();
        let [l, i] = [&lines, &image].map(|file| file.try_clone().unwrap());
        let mut journal = Journal::start(l, i, "a").unwrap();
        journal.made(0, b"one", &[LOSS]).unwrap();
        journal.made(3, b"two!!", &[LOSS]).unwrap();
        (lines, image)
    }

    #[test]
    fn what_was_made_is_taken_once_with_its_exact_losses() {
        let (lines, image) = two();
        let mut journal = resumed(&lines, &image, "a").unwrap();
        assert_eq!(take(&mut journal, 3, 5), Some((b"two!!".to_vec(), LOSS)));
        assert_eq!(take(&mut journal, 0, 3), Some((b"one".to_vec(), LOSS)));
        assert_eq!(take(&mut journal, 0, 3), None);
        assert_eq!(take(&mut journal, 8, 1), None);
    }

    #[test]
    fn a_journal_of_something_else_is_none() {
        let (lines, image) = two();
        assert!(resumed(&lines, &image, "b").is_none());
        lines.set_len(5).unwrap();
        assert!(resumed(&lines, &image, "a").is_none());
        lines.set_len(0).unwrap();
        assert!(resumed(&lines, &image, "a").is_none());
    }

    #[test]
    fn pieces_that_did_not_reach_the_image_or_have_another_shape_are_made_again() {
        let (lines, image) = two();
        image.set_len(7).unwrap();
        let mut journal = resumed(&lines, &image, "a").unwrap();
        assert_eq!(take(&mut journal, 3, 5), None);
        assert_eq!(take(&mut journal, 0, 2), None);
        let mut journal = resumed(&lines, &image, "a").unwrap();
        assert!(!journal.take(0, &mut [0; 3], &mut []).unwrap());
        let mut journal = resumed(&lines, &image, "a").unwrap();
        (&image).rewind().unwrap();
        (&image).write_all(b"x").unwrap();
        assert_eq!(take(&mut journal, 0, 3), None);
    }

    #[test]
    fn a_cut_line_is_left_out_and_written_over() {
        let (lines, image) = two();
        let len = lines.metadata().unwrap().len();
        lines.set_len(len - 3).unwrap();
        let mut journal = resumed(&lines, &image, "a").unwrap();
        assert_eq!(take(&mut journal, 3, 5), None);
        journal.made(3, b"two!!", &[LOSS]).unwrap();
        assert_eq!(lines.metadata().unwrap().len(), len);
        let mut journal = resumed(&lines, &image, "a").unwrap();
        assert!(take(&mut journal, 0, 3).is_some() && take(&mut journal, 3, 5).is_some());
    }
}
