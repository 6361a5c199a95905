//! Conversations in files: `/save` and `/load`.
//!
//! The content of a sealed file is what was said as JSON with its length before it, then what
//! [`Session::save`] writes. A file is checked whole before anything of it is used.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use rill::plan::KvFormat;
use rill::saving::SaveError;
use rill::session::Session;
use rill_linux::regular;
use rill_linux::sealed::{Content, Seal, SealError};
use rill_linux::talk::Said;
use serde_json::Value;

use crate::failure::Failure;

const MAGIC: [u8; 8] = *b"RILLTALK";
/// Most bytes of what was said for each token of the context, and beside: some contexts full of text, as
/// where thinking left a conversation.
const BYTES_PER_TOKEN: u64 = 64;
const BYTES: u64 = 64 << 10;

/// Writes the conversation of `session` and what was `said` in it to a file that only the user can
/// read, whole or not at all. It takes the place of another conversation, and of nothing else. `image`
/// tells images apart.
pub fn save(
    session: &mut Session<'_>,
    said: &Value,
    image: u64,
    path: &Path,
) -> Result<(), Failure> {
    spare(path).map_err(Failure::file(path))?;
    let messages = said["messages"].as_array().map_or(0, Vec::len);
    let said = said.to_string();
    if !fits(session, said.len() as u64, messages) {
        let what = "more was said than can be kept with this context (-c)";
        return Err(Failure::file(path)(io::Error::new(io::ErrorKind::InvalidInput, what)));
    }
    let written = seal(image, session.kv_format()).write(path, |put| {
        put(&(said.len() as u64).to_le_bytes())?;
        put(said.as_bytes())?;
        session.save(put)
    });
    written.map_err(Failure::file(path))
}

/// Takes the conversation of a file in the place of that of `session`, which is kept when the file
/// cannot be used. Returns what was said in it, which there is where a template renders the conversation
/// (`is_rendered`).
pub fn load(
    session: &mut Session<'_>,
    is_rendered: bool,
    image: u64,
    path: &Path,
) -> Result<Option<Said>, Failure> {
    let seal = seal(image, session.kv_format());
    let failed = |error| Failure::file(path)(wrong(error));
    let open = |file| seal.open(file).map_err(failed);
    let file = regular::open(path).map(BufReader::new).map_err(Failure::file(path))?;
    // What is used is the file that was checked.
    let file = open(file)?.finish().map_err(failed)?;
    let mut content = open(file)?;
    let said = read_said(&mut content, session, is_rendered).map_err(Failure::file(path))?;
    let mut checked = session.check_saved(|bytes| content.read_exact(bytes));
    if checked.is_ok() {
        content = open(content.into_inner())?;
        read_said(&mut content, session, is_rendered).map_err(Failure::file(path))?;
        checked = session.restore(|bytes| content.read_exact(bytes));
    }
    match checked {
        Ok(()) => Ok(said),
        Err(SaveError::Sequence(error)) => Err(error.into()),
        Err(SaveError::Keeper(error)) => Err(Failure::file(path)(error)),
        Err(SaveError::Damaged) => Err(failed(SealError::Damaged)),
    }
}

const DAMAGED: &str = "the saved conversation is damaged";

/// Reads what was said, straight into what it must be: a file with a right checksum may hold anything.
fn read_said(
    content: &mut Content<BufReader<File>>,
    session: &Session<'_>,
    is_rendered: bool,
) -> io::Result<Option<Said>> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let damaged = || invalid(DAMAGED);
    let long = || invalid("more was said in it than this context holds: use a larger one (-c)");
    let mut len = [0; 8];
    content.read_exact(&mut len)?;
    let len = u64::from_le_bytes(len);
    if len > content.left() {
        return Err(damaged());
    }
    if !fits(session, len, 0) {
        return Err(long());
    }
    let mut said = vec![0; len as usize];
    content.read_exact(&mut said)?;
    let said: Option<Said> = serde_json::from_slice(&said).map_err(|_| damaged())?;
    let messages = said.as_ref().map(|said| said.messages.len());
    if messages.is_some() != is_rendered {
        return Err(damaged());
    }
    if fits(session, len, messages.unwrap_or(0)) { Ok(said) } else { Err(long()) }
}

/// Whether there is room for what was said, in bytes and in messages, beside the context of `session`.
fn fits(session: &Session<'_>, bytes: u64, messages: usize) -> bool {
    bytes <= BYTES + BYTES_PER_TOKEN * session.context() as u64 && messages <= session.context()
}

/// Refuses to write over a file that holds no conversation.
fn spare(path: &Path) -> io::Result<()> {
    let mut magic = [0; MAGIC.len()];
    match regular::open(path).and_then(|mut file| file.read_exact(&mut magic)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(()) if magic == MAGIC => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => {
            let what = "is there and holds no conversation: choose another name";
            Err(io::Error::new(io::ErrorKind::AlreadyExists, what))
        }
    }
}

/// What is wrong with a file, in words.
fn wrong(error: SealError) -> io::Error {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    match error {
        SealError::Read(error) => error,
        SealError::Kind => wrong("not a saved conversation; /save writes one"),
        SealError::Image => wrong("a conversation with another model"),
        SealError::Format(kv) => {
            let kv = kv.name();
            wrong(&format!("a conversation with keys and values in {kv}; use --kv {kv}"))
        }
        SealError::Damaged => wrong(DAMAGED),
    }
}

fn seal(image: u64, kv: KvFormat) -> Seal {
    Seal { magic: MAGIC, version: 5, image, kv }
}
