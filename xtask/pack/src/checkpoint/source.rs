//! Where a checkpoint's files are: on this machine, or wherever a [`Store`] finds them.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A place that has checkpoints.
pub trait Store {
    /// Whether `path` is a folder. An error when it is not there.
    fn is_folder(&self, path: &Path) -> io::Result<bool>;
    /// Opens a file. The error's kind is `NotFound` when it is not there.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Source>>;
    /// `path` as it is called when nothing is left out and no link followed any more.
    fn whole_path(&self, path: &Path) -> PathBuf;
}

/// A file: bytes that can be read at any place, and do not change.
pub trait Source: Debug {
    /// How many bytes it has.
    fn size(&self) -> u64;
    /// Fills `into` with the bytes from `at` on. What follows them up to `end` is likely to be
    /// asked for next, and in order; 0 says nothing of it.
    fn read_at(&self, at: u64, end: u64, into: &mut [u8]) -> io::Result<()>;
}

/// The files of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Disk;

impl Store for Disk {
    fn is_folder(&self, path: &Path) -> io::Result<bool> {
        Ok(std::fs::metadata(path)?.is_dir())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Source>> {
        let mut options = File::options();
        options.read(true);
        // A pipe without a writer is refused, not waited for.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::custom_flags(
            &mut options,
            rustix::fs::OFlags::NONBLOCK.bits() as i32,
        );
        let file = options.open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a file"));
        }
        Ok(Box::new(OnDisk { file, size: found.len() }))
    }

    fn whole_path(&self, path: &Path) -> PathBuf {
        path.canonicalize().unwrap_or_else(|_| path.into())
    }
}

#[derive(Debug)]
struct OnDisk {
    file: File,
    size: u64,
}

impl Source for OnDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, at: u64, _: u64, into: &mut [u8]) -> io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(into)
    }
}

/// Reads a source from its start.
#[derive(Debug)]
pub(super) struct Reader<'s> {
    source: &'s dyn Source,
    at: u64,
}

impl<'s> Reader<'s> {
    pub fn new(source: &'s dyn Source) -> Self {
        Self { source, at: 0 }
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = self.source.size().saturating_sub(self.at);
        let len = into.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        self.source.read_at(self.at, 0, &mut into[..len])?;
        self.at += len as u64;
        Ok(len)
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.source.size().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// A whole file of text, of at most `most` bytes.
pub(super) fn text(store: &dyn Store, path: &Path, most: u64) -> io::Result<String> {
    let source = store.open(path)?;
    if source.size() > most {
        let what = format!("it has {} bytes; at most {most} are read", source.size());
        return Err(io::Error::new(ErrorKind::FileTooLarge, what));
    }
    let mut text = String::new();
    Reader::new(&*source).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_ends_where_its_source_does_and_seeks_like_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, "abcdef").unwrap();
        let source = Disk.open(&path).unwrap();
        let mut reader = Reader::new(&*source);
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        assert_eq!(all, "abcdef");
        for (to, rest) in
            [(SeekFrom::Start(4), "ef"), (SeekFrom::End(-1), "f"), (SeekFrom::Current(-2), "ef")]
        {
            let mut text = String::new();
            reader.seek(to).unwrap();
            reader.read_to_string(&mut text).unwrap();
            assert_eq!(text, rest);
        }
        assert_eq!(reader.seek(SeekFrom::End(9)).unwrap(), 15);
        assert_eq!(reader.read(&mut [0; 4]).unwrap(), 0);
        assert!(reader.seek(SeekFrom::End(-7)).is_err());
        assert!(source.read_at(3, 0, &mut [0; 4]).is_err());
    }
}
