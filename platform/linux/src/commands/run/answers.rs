//! Where the answers to a file with prompts go.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rill::generate::Ending;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::process::geteuid;
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
    /// Bytes of whole lines that it has.
    whole: u64,
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
        Ok(Self { file: Some(Kept { file, whole: 0, synced, made }) })
    }

    /// The next answer that is there already. After the last one a line that was not written to its end
    /// is dropped.
    pub fn finished(&mut self) -> io::Result<Option<Finished>> {
        let Some(Kept { file, whole, .. }) = &mut self.file else { return Ok(None) };
        let mut line = Vec::new();
        Read::take(&mut *file, LONGEST).read_until(b'\n', &mut line)?;
        let begins = line.iter().zip(BEGIN).all(|(a, b)| a == b);
        // The first line is known by all that lines begin with: a shorter one may be anybody's.
        let is_ours = begins && (*whole > 0 || line.is_empty() || line.len() >= BEGIN.len());
        if !line.ends_with(b"\n") && is_ours {
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
