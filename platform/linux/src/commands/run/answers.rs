//! Where the answers to a file with prompts go.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rill::generate::Ending;
use rill::size::Size;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::process::geteuid;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::prompts::skip_line;
use crate::logprobs::Choices;
use crate::terminal::stdout;

/// A file of JSON lines, one an answer, or standard output.
pub struct Answers {
    file: Option<Kept>,
}

/// A file that goes on where another run of the same command ended.
struct Kept {
    file: BufReader<File>,
    /// Bytes of whole lines that it has, and how many of them were read back.
    whole: u64,
    lines: u64,
    synced: Instant,
    /// Its name, where it goes again if it stays empty: it was not there before.
    made: Option<PathBuf>,
}

/// A line of the result.
#[derive(Serialize)]
pub struct Output<'r> {
    /// Number of the line that it answers: the field that every line begins with.
    pub line: u64,
    /// What the answer depends on.
    pub key: &'r str,
    /// What the user calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'r Value>,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome<'r>,
}

/// What came of a prompt.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Outcome<'r> {
    /// It was answered.
    Answer {
        /// What the model said.
        text: String,
        /// What the model thought before it answered; `None` for one that did not.
        thinking: Option<String>,
        /// Why it ended.
        ending: Ending,
        /// Tokens of what was asked.
        prompt_tokens: usize,
        /// Tokens of the answer, thinking and what ends it included.
        answer_tokens: usize,
        /// Of every token of the answer.
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<Choices<'r>>,
    },
    /// It cannot be answered.
    Error {
        /// Why.
        error: String,
    },
}

/// What must be known of an answer to go on after it.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Finished {
    /// Number of the line that it answers.
    pub line: u64,
    /// What the answer depends on.
    pub key: String,
    /// Why there is none.
    pub error: Option<String>,
}

/// After so long what was written is made safe against a power cut.
const SYNC: Duration = Duration::from_secs(5);
/// Longest line that is read back, in bytes.
const LONGEST: u64 = 64 << 20;
/// What every line begins with: the first one is known by it.
const BEGIN: &[u8] = b"{\"line\":";

impl Answers {
    /// A file, which is made where there is none, or standard output. Nobody else writes to the file
    /// meanwhile. Links are refused, and files of other users, who might have put them there.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let Some(path) = path else { return Ok(Self { file: None }) };
        let refused = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        let check = |found: Metadata| match found {
            _ if found.is_symlink() => refused("is a link: name the file that it leads to"),
            _ if !found.is_file() => refused("not a regular file"),
            _ if found.uid() != geteuid().as_raw() => refused("is another user's file"),
            _ => Ok(()),
        };
        // Opening some devices does something already.
        path.symlink_metadata().map_or(Ok(()), check)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
        let (file, made) = match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                (options.open(path)?, None)
            }
            file => (file?, Some(path.to_owned())),
        };
        check(file.metadata()?)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => {
                io::Error::new(io::ErrorKind::ResourceBusy, "another run writes to it")
            }
            error => error.into(),
        })?;
        let (file, synced) = (BufReader::new(file), Instant::now());
        Ok(Self { file: Some(Kept { file, whole: 0, lines: 0, synced, made }) })
    }

    /// The next answer that is there already. What a kill or a power cut left of one after the last, which
    /// is no whole line of JSON, is dropped; what is none elsewhere is an error.
    pub fn finished(&mut self) -> io::Result<Option<Finished>> {
        let Some(Kept { file, whole, lines, .. }) = &mut self.file else { return Ok(None) };
        let mut line = Vec::new();
        Read::take(&mut *file, LONGEST).read_until(b'\n', &mut line)?;
        let (begins, is_read) = (line.starts_with(BEGIN), line.ends_with(b"\n"));
        if is_read
            && begins
            && let Ok(answer) = serde_json::from_slice(&line)
        {
            *whole += line.len() as u64;
            *lines += 1;
            return Ok(Some(answer));
        }
        let is_long = !is_read && line.len() as u64 == LONGEST;
        let ends = is_read || skip_line(file)?;
        let is_last = file.fill_buf()?.is_empty();
        // The first line may be anybody's; after an answer of this file nothing else is at its end.
        let is_rest = match *lines {
            0 => line.is_empty() || begins && !ends,
            _ => !ends || !is_long && serde_json::from_slice::<IgnoredAny>(&line).is_err(),
        };
        if is_last && is_rest {
            file.get_mut().set_len(*whole)?;
            file.seek(SeekFrom::Start(*whole))?;
            return Ok(None);
        }
        let number = *lines + 1;
        let what = match number {
            _ if begins && is_long => format!(
                "line {number} is longer than {}, the most that is read back: choose another name",
                Size(LONGEST)
            ),
            1 => "is there and holds no answers: choose another name".to_owned(),
            _ => format!(
                "line {number} is no answer: remove it and all after it, and the same command goes on; or \
                 choose another name"
            ),
        };
        Err(io::Error::new(io::ErrorKind::AlreadyExists, what))
    }

    /// Writes an answer, a line with its end: all of it or, where the program ends meanwhile, a part without
    /// line end.
    pub fn write(&mut self, line: &str) -> io::Result<()> {
        let Some(kept) = &mut self.file else {
            let mut out = stdout();
            out.write_all(line.as_bytes())?;
            return out.flush();
        };
        if let Err(error) = kept.file.get_mut().write_all(line.as_bytes()) {
            // What the disk had room for is no answer.
            let _ = kept.file.get_mut().set_len(kept.whole);
            return Err(error);
        }
        kept.whole += line.len() as u64;
        if kept.synced.elapsed() >= SYNC {
            kept.sync()?;
        }
        Ok(())
    }

    /// Everything is answered: a file without an answer stays too.
    pub fn keep(&mut self) {
        if let Some(kept) = &mut self.file {
            kept.made = None;
        }
    }

    /// Makes what was written safe against a power cut.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Kept::sync)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Still locked: nobody else writes to it.
        if let Some(path) = &self.made
            && self.file.get_ref().metadata().is_ok_and(|found| found.len() == 0)
        {
            let _ = fs::remove_file(path);
        }
    }
}

impl Kept {
    fn sync(&mut self) -> io::Result<()> {
        self.synced = Instant::now();
        self.file.get_ref().sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many answers a file of this content has, and what is left of it then.
    fn read_back(content: &[u8]) -> (u64, io::Result<Vec<u8>>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers");
        fs::write(&path, content).unwrap();
        let mut answers = Answers::open(Some(&path)).unwrap();
        let mut count = 0;
        let end = loop {
            match answers.finished() {
                Ok(Some(_)) => count += 1,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let left = fs::read(&path).unwrap();
        if end.is_err() {
            assert!(left == content, "what is refused is left alone");
        }
        (count, end.map(|()| left))
    }

    const WHOLE: &[u8] = b"{\"line\":1,\"key\":\"a\",\"text\":\"\"}\n{\"line\":2,\"key\":\"b\"}\n";

    #[test]
    fn what_is_no_whole_line_of_json_at_the_end_was_cut() {
        let long = vec![0; LONGEST as usize + 9];
        let ends: [&[u8]; 8] = [
            b"",
            b"{\"line\":3,\"key\":\"c\"}",
            b"{\"li",
            b"\0\0\0\0",
            b"{\"line\":3,\"ke\0\0\0\n",
            b"\n",
            b"\xff",
            &long,
        ];
        for end in ends {
            let (count, left) = read_back(&[WHOLE, end].concat());
            assert_eq!((count, left.unwrap().as_slice()), (2, WHOLE));
        }
        assert_eq!(read_back(b"{\"line\":1,\"key\":\"ha").1.unwrap(), b"");
    }

    #[test]
    fn what_is_no_answer_elsewhere_is_named_and_kept() {
        let long = [b"{\"line\":3,", &vec![b' '; LONGEST as usize][..], b"}\n"].concat();
        let damaged: [(&[u8], &[u8], &str); 6] = [
            (b"\0\0\0\n", WHOLE, "line 3 is no answer: remove it"),
            (b"\n", WHOLE, "line 3 is no answer"),
            (b"{\"a\":1}\n", b"", "line 3 is no answer"),
            (b"{\"line\":3}\n", b"", "line 3 is no answer"),
            (&long, b"", "line 3 is longer than 64.0 MiB"),
            (&long, WHOLE, "line 3 is longer than 64.0 MiB"),
        ];
        for (line, after, what) in damaged {
            let (count, left) = read_back(&[WHOLE, line, after].concat());
            assert_eq!(count, 2);
            assert!(left.unwrap_err().to_string().starts_with(what));
        }
        for content in [&b"\0\0"[..], b"\n", b"{\"line\":1}\n", b"{\"line\":1,\"key\":\n\n"] {
            assert!(read_back(content).1.unwrap_err().to_string().contains("holds no answers"));
        }
    }
}
