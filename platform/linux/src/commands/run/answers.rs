//! Where the answers to a file with prompts go.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rill::generate::Ending;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::logprobs::Choice;
use crate::terminal::stdout;

/// A file of JSON lines, one an answer, or standard output.
pub struct Answers {
    file: Option<Kept>,
}

/// A file that goes on where another run of the same command ended.
struct Kept {
    file: BufReader<File>,
    /// Bytes of whole lines that were read.
    whole: u64,
    synced: Instant,
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
    pub outcome: Outcome,
}

/// What came of a prompt.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Outcome {
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
        logprobs: Option<Vec<Choice>>,
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
/// What every line begins with: nothing else is taken for one that was not written to its end.
const BEGIN: &[u8] = b"{\"line\":";

impl Answers {
    /// A file, which is made where there is none, or standard output. Nobody else writes to the file
    /// meanwhile.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let Some(path) = path else { return Ok(Self { file: None }) };
        // Opening a pipe would wait for its reader.
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.custom_flags(flags).open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => {
                io::Error::new(io::ErrorKind::ResourceBusy, "another run writes to it")
            }
            error => error.into(),
        })?;
        let (file, synced) = (BufReader::new(file), Instant::now());
        Ok(Self { file: Some(Kept { file, whole: 0, synced }) })
    }

    /// The next answer that is there already. After the last one a line that was not written to its end
    /// is dropped.
    pub fn finished(&mut self) -> io::Result<Option<Finished>> {
        let Some(Kept { file, whole, .. }) = &mut self.file else { return Ok(None) };
        let mut line = Vec::new();
        Read::take(&mut *file, LONGEST).read_until(b'\n', &mut line)?;
        let begins = line.iter().zip(BEGIN).all(|(a, b)| a == b);
        if !line.ends_with(b"\n") && begins {
            file.get_mut().set_len(*whole)?;
            file.seek(SeekFrom::Start(*whole))?;
            return Ok(None);
        }
        *whole += line.len() as u64;
        match serde_json::from_slice(&line) {
            Ok(answer) if begins => Ok(Some(answer)),
            _ => {
                let what = "is there and holds no answers: choose another name";
                Err(io::Error::new(io::ErrorKind::AlreadyExists, what))
            }
        }
    }

    /// Writes an answer, as one line: all of it or, where the program ends meanwhile, a part without
    /// line end.
    pub fn write(&mut self, answer: &str) -> io::Result<()> {
        let line = format!("{answer}\n");
        let Some(kept) = &mut self.file else {
            let mut out = stdout();
            out.write_all(line.as_bytes())?;
            return out.flush();
        };
        kept.file.get_mut().write_all(line.as_bytes())?;
        if kept.synced.elapsed() >= SYNC {
            kept.sync()?;
        }
        Ok(())
    }

    /// Makes what was written safe against a power cut.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Kept::sync)
    }
}

impl Kept {
    fn sync(&mut self) -> io::Result<()> {
        self.synced = Instant::now();
        self.file.get_ref().sync_data()
    }
}
