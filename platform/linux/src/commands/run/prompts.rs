//! The lines of a file with prompts.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::Path;

use rill::size::Size;
use rill_linux::regular;

use super::super::PROMPT_BYTES;

/// Longest line, in bytes: what is around a prompt, and escapes in it, may be as long as it.
const LONGEST: u64 = 2 * PROMPT_BYTES;

/// What some programs begin a text file with.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A file with a prompt a line. Empty lines count as lines, and are not prompts.
pub struct Prompts {
    file: BufReader<File>,
    /// Lines that were read.
    number: u64,
    /// Prompts of the whole file.
    count: u64,
}

/// A line that is not empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Numbered {
    /// From 1 on.
    pub number: u64,
    /// Its bytes, without the line end: the first ones where there are too many.
    pub bytes: Vec<u8>,
    /// The text; what is wrong with it where there is none.
    pub text: Result<String, String>,
}

impl Prompts {
    /// Opens a regular file, and counts its prompts.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = BufReader::new(regular::open(path)?);
        let mut prompts = Self { file, number: 0, count: 0 };
        let mut count = 0;
        while prompts.next()?.is_some() {
            count += 1;
        }
        prompts.file.rewind()?;
        Ok(Self { number: 0, count, ..prompts })
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The next prompt.
    pub fn next(&mut self) -> io::Result<Option<Numbered>> {
        loop {
            let mut bytes = Vec::new();
            if Read::take(&mut self.file, LONGEST + 1).read_until(b'\n', &mut bytes)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            let is_whole = bytes.ends_with(b"\n");
            let is_long = !is_whole && bytes.len() as u64 > LONGEST;
            if is_long {
                skip_line(&mut self.file)?;
            }
            let bytes = match bytes.strip_prefix(BYTE_ORDER_MARK) {
                Some(bytes) if self.number == 1 => bytes,
                _ => &bytes,
            };
            let bytes = bytes.trim_ascii().to_vec();
            if bytes.is_empty() && !is_long {
                continue;
            }
            let text = match std::str::from_utf8(&bytes) {
                _ if is_long => Err(format!("longer than {}", Size(LONGEST))),
                Ok(text) => Ok(text.to_owned()),
                Err(error) => Err(format!("not UTF-8 from byte {} on", error.valid_up_to())),
            };
            return Ok(Some(Numbered { number: self.number, bytes, text }));
        }
    }
}

/// Reads up to the end of the line, and keeps none of it; says whether it has an end.
pub fn skip_line(file: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let there = file.fill_buf()?;
        let end = there.iter().position(|&byte| byte == b'\n');
        let (len, is_over) = (end.map_or(there.len(), |at| at + 1), there.is_empty());
        file.consume(len);
        if end.is_some() || is_over {
            return Ok(end.is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lines_are_numbered_and_empty_ones_are_no_prompts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts");
        let long = "x".repeat(LONGEST as usize + 1);
        let longest = "y".repeat(LONGEST as usize);
        let content = [
            "\u{feff}a\r\n\n  \n".as_bytes(),
            b"\xff\n",
            long.as_bytes(),
            b"zz\n",
            longest.as_bytes(),
            b"\nend",
        ];
        fs::write(&path, content.concat()).unwrap();
        let mut prompts = Prompts::open(&path).unwrap();
        assert_eq!(prompts.count(), 5);
        let mut lines = std::iter::from_fn(|| prompts.next().unwrap());
        let mut next = || lines.next().map(|line| (line.number, line.text));
        assert_eq!(next(), Some((1, Ok("a".into()))));
        assert_eq!(next(), Some((4, Err("not UTF-8 from byte 0 on".into()))));
        assert_eq!(next(), Some((5, Err("longer than 2.0 MiB".into()))));
        assert_eq!(next(), Some((6, Ok(longest))));
        assert_eq!(next(), Some((7, Ok("end".into()))));
        assert_eq!(next(), None);
    }
}
