//! Conversations in files: `/save` and `/load`.
//!
//! A file is the magic bytes, the image's identity, the format of keys and values, what was said as
//! JSON with its length before it, what [`Session::save`] writes, and the XXH3-64 of all of it. It is checked whole before anything of
//! it is used.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::Path;

use rill::model::kv::KvFormat;
use rill::saving::SaveError;
use rill::session::Session;
use rill_linux::regular;
use rill_linux::replace::{Access, replace};
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use crate::failure::Failure;

const MAGIC: [u8; 8] = *b"RILLTALK";
const VERSION: u64 = 4;
const TAIL: u64 = 8;
/// Longest text of what was said, in bytes.
const SAID: u64 = 64 << 20;

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
    let said = said.to_string();
    let head = head(image, session.kv_format());
    let written = replace(path, Access::Private, |out| {
        let mut sum = Xxh3::new();
        let mut put = |bytes: &[u8]| {
            sum.update(bytes);
            out.write_all(bytes)
        };
        head.iter().try_for_each(|part| put(part))?;
        put(&(said.len() as u64).to_le_bytes())?;
        put(said.as_bytes())?;
        session.save(&mut put)?;
        out.write_all(&sum.digest().to_le_bytes())
    });
    written.map_err(Failure::file(path))
}

/// Takes the conversation of a file in the place of that of `session`, which is kept when the file
/// cannot be used. Returns what was said in it.
pub fn load(session: &mut Session<'_>, image: u64, path: &Path) -> Result<Value, Failure> {
    let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut head = head(image, session.kv_format());
    // What is used is the file that was checked.
    let checked = regular::open(path).map(BufReader::new).and_then(|mut file| {
        check(&mut file, head)?;
        Ok(file)
    });
    let mut file = checked.map_err(Failure::file(path))?;
    let mut content = |file: &mut BufReader<File>| {
        file.rewind()?;
        head.iter_mut().try_for_each(|part| file.read_exact(part))?;
        read_said(file)
    };
    let said = content(&mut file).map_err(Failure::file(path))?;
    let mut checked = session.check_saved(|bytes| file.read_exact(bytes));
    if checked.is_ok() {
        content(&mut file).map_err(Failure::file(path))?;
        checked = session.restore(|bytes| file.read_exact(bytes));
    }
    match checked {
        Ok(()) => Ok(said),
        Err(SaveError::Sequence(error)) => Err(error.into()),
        Err(SaveError::Place(error)) => Err(Failure::file(path)(error)),
        Err(SaveError::Damaged) => Err(Failure::file(path)(wrong(DAMAGED))),
    }
}

const DAMAGED: &str = "the saved conversation is damaged";

/// Reads what was said.
fn read_said(file: &mut BufReader<File>) -> io::Result<Value> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, DAMAGED);
    let mut len = [0; 8];
    file.read_exact(&mut len)?;
    let len = u64::from_le_bytes(len);
    if len > SAID.min(file.get_ref().metadata()?.len()) {
        return Err(damaged());
    }
    let mut said = vec![0; len as usize];
    file.read_exact(&mut said)?;
    serde_json::from_slice(&said).map_err(|_| damaged())
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

/// Reads the file once and says what is wrong with it.
fn check(file: &mut BufReader<File>, expected: Head) -> io::Result<()> {
    let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    let mut found = expected;
    let whole = found.iter_mut().try_for_each(|part| file.read_exact(part));
    if whole.is_err() || found[..2] != expected[..2] {
        return wrong("not a saved conversation; /save writes one");
    }
    if found[2] != expected[2] {
        return wrong("a conversation with another model");
    }
    match KvFormat::ALL.into_iter().find(|&kv| word(kv) == found[3]) {
        Some(_) if found[3] == expected[3] => {}
        Some(kv) => {
            let kv = kv.name();
            return wrong(&format!("a conversation with keys and values in {kv}; use --kv {kv}"));
        }
        None => return wrong(DAMAGED),
    }
    let mut sum = Xxh3::new();
    found.iter().for_each(|part| sum.update(part));
    let len = file.get_ref().metadata()?.len();
    let mut left = len.saturating_sub(8 * found.len() as u64 + TAIL);
    let mut buffer = [0; 16 << 10];
    while left > 0 {
        let part = &mut buffer[..left.min(16 << 10) as usize];
        file.read_exact(part)?;
        sum.update(part);
        left -= part.len() as u64;
    }
    let mut tail = [0; TAIL as usize];
    if file.read_exact(&mut tail).is_err() || u64::from_le_bytes(tail) != sum.digest() {
        return wrong(DAMAGED);
    }
    Ok(())
}

/// What a file begins with.
type Head = [[u8; 8]; 4];

fn head(image: u64, kv: KvFormat) -> Head {
    [MAGIC, VERSION.to_le_bytes(), image.to_le_bytes(), word(kv)]
}

/// The name of a format, zeros after it.
fn word(kv: KvFormat) -> [u8; 8] {
    let (mut word, name) = ([0; 8], kv.name().as_bytes());
    word[..name.len()].copy_from_slice(name);
    word
}
