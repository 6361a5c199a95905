//! Files of what an engine computed: some magic bytes, a version, the image's identity, the format of
//! keys and values, a content, and the XXH3-64 of all of it.

use std::io::{self, Read, Seek, Write};
use std::path::Path;

use rill::plan::KvFormat;
use xxhash_rust::xxh3::Xxh3;

use crate::replace::{Access, replace};

/// What a file says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Seal {
    /// Its kind.
    pub magic: [u8; 8],
    /// The version of its kind.
    pub version: u64,
    /// What tells images apart.
    pub image: u64,
    /// The format of keys and values.
    pub kv: KvFormat,
}

/// Why a file is not what it should be.
#[derive(Debug)]
pub enum SealError {
    /// It cannot be read.
    Read(io::Error),
    /// It is of another kind or version.
    Kind,
    /// It belongs to another image.
    Image,
    /// It has keys and values of another format.
    Format(KvFormat),
    /// It is not as it was written.
    Damaged,
}

impl From<io::Error> for SealError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged,
            _ => Self::Read(error),
        }
    }
}

/// Bytes before the content and after it.
const HEAD: u64 = 32;
const TAIL: u64 = 8;

/// The content of a file, as it is read.
pub struct Content<R> {
    from: io::Take<R>,
    sum: Xxh3,
}

impl Seal {
    /// Bytes of a file beside its content.
    pub const BYTES: u64 = HEAD + TAIL;

    /// Writes a file that only the user can read, whole or not at all; `content` is given what takes
    /// its pieces.
    pub fn write(
        &self,
        path: &Path,
        content: impl FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>,
    ) -> io::Result<()> {
        replace(path, Access::Private, |out| {
            let mut sum = Xxh3::new();
            let mut put = |bytes: &[u8]| {
                sum.update(bytes);
                out.write_all(bytes)
            };
            self.head().iter().try_for_each(|part| put(part))?;
            content(&mut put)?;
            out.write_all(&sum.digest().to_le_bytes())
        })
    }

    /// Checks what stands before the content of a file, from its first byte on.
    pub fn open<R: Read + Seek>(&self, mut file: R) -> Result<Content<R>, SealError> {
        let expected = self.head();
        let len = file.seek(io::SeekFrom::End(0))?;
        file.rewind()?;
        let mut found = [[0; 8]; 4];
        let whole = found.iter_mut().try_for_each(|part| file.read_exact(part));
        match whole {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
            Ok(()) if found[..2] == expected[..2] => {}
            _ => return Err(SealError::Kind),
        }
        if found[2] != expected[2] {
            return Err(SealError::Image);
        }
        if found[3] != expected[3] {
            let other = KvFormat::ALL.into_iter().find(|&kv| word(kv) == found[3]);
            return Err(other.map_or(SealError::Damaged, SealError::Format));
        }
        let mut sum = Xxh3::new();
        found.iter().for_each(|part| sum.update(part));
        let content = len.checked_sub(Self::BYTES).ok_or(SealError::Damaged)?;
        Ok(Content { from: file.take(content), sum })
    }

    fn head(&self) -> [[u8; 8]; 4] {
        [self.magic, self.version.to_le_bytes(), self.image.to_le_bytes(), word(self.kv)]
    }
}

impl<R: Read> Content<R> {
    /// Bytes that are left.
    pub fn left(&self) -> u64 {
        self.from.limit()
    }

    /// The file.
    pub fn into_inner(self) -> R {
        self.from.into_inner()
    }

    /// Reads what is left, and says whether all of the file is as it was written.
    pub fn finish(mut self) -> Result<R, SealError> {
        io::copy(&mut self, &mut io::sink())?;
        let whole = self.left() == 0;
        let mut file = self.from.into_inner();
        let mut tail = [0; TAIL as usize];
        file.read_exact(&mut tail)?;
        let right = whole && u64::from_le_bytes(tail) == self.sum.digest();
        right.then_some(file).ok_or(SealError::Damaged)
    }
}

impl<R: Read> Read for Content<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(bytes)?;
        self.sum.update(&bytes[..count]);
        Ok(count)
    }
}

/// The name of a format, zeros after it.
fn word(kv: KvFormat) -> [u8; 8] {
    let (mut word, name) = ([0; 8], kv.name().as_bytes());
    word[..name.len()].copy_from_slice(name);
    word
}
