use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rill::image::PAGE_ALIGN;
use rill::seams::pieces::{Outcome, Progress};
use rill::seams::{StorageError, StorageErrorKind};
use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;

use super::program::image_in;

/// An open image file, or the part of another file that is an image. Offsets count from the image's
/// first byte.
#[derive(Debug)]
pub struct Source {
    file: File,
    /// Where the image begins in the file.
    base: u64,
    len: u64,
    device: u64,
    direct: bool,
    note: Option<String>,
}

/// No device has larger logical blocks.
const DIRECT_ALIGN: usize = 4096;
/// A device that is out of resources gets a moment after so many attempts at once.
const AT_ONCE: u32 = 4;

impl Source {
    /// Opens a file for direct reads, or for buffered ones where the file system refuses. The image
    /// begins at byte `base`, a multiple of 16 KiB; with 0 that is the file's first, or where an
    /// ExecuTorch program has its image.
    pub fn open(path: &Path, base: u64) -> io::Result<Self> {
        let mut file = open_kind(path)?;
        let metadata = file.metadata()?;
        // A partition or a whole device has no length of its own.
        // Its node lies on another device than it is: all of a board's nodes lie on the same.
        let (len, device) = if metadata.file_type().is_block_device() {
            (file.seek(SeekFrom::End(0))?, metadata.rdev())
        } else {
            (metadata.len(), metadata.dev())
        };
        let place = if base == 0 { image_in(&file, len)? } else { base.min(len)..len };
        let (base, len) = (place.start, place.end - place.start);
        let whole_pages = len > 0 && len.is_multiple_of(PAGE_ALIGN as u64);
        // What is not made of whole pages is no intact image; buffered reads can look at it.
        let (file, direct, note) = match whole_pages.then(|| open_direct(path)) {
            Some(Ok(direct)) => (direct, true, None),
            Some(Err(error)) => (file, false, Some(buffered_note(error))),
            None => (file, false, None),
        };
        if !direct {
            // Pages are read whole and in no order: reading on would fetch what nobody asked for.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
        }
        Ok(Self { file, base, len, device, direct, note })
    }

    /// Bytes of the image when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of the device that holds the file.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// Whether reads bypass the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Why reads do not bypass the page cache, in one line for the user.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// What offsets, lengths and addresses of reads must be multiples of.
    pub fn alignment(&self) -> usize {
        if self.direct { DIRECT_ALIGN } else { 1 }
    }

    /// Fills `into` from `offset` on.
    pub fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let mut progress = Progress::new(into.len());
        while !progress.is_whole() {
            let bytes = progress.bytes();
            let answer = self.read_some(offset + bytes as u64, &mut into[bytes..]);
            progress.advance(outcome(answer), self.alignment())?;
            if progress.interruptions() > AT_ONCE {
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    /// One read, which may be short.
    pub(super) fn read_some(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        // What follows an image in its file is none of it.
        let left = self.len.saturating_sub(offset);
        let bytes = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        rustix::io::pread(&self.file, &mut into[..bytes], self.place_of(offset))
    }

    /// Where `offset` of the image is in the file.
    pub(super) fn place_of(&self, offset: u64) -> u64 {
        self.base.saturating_add(offset)
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Opens a regular file or a disk. A pipe is not waited for, and no other device is read.
fn open_kind(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(Errno::ISDIR.into());
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor a disk"));
    }
    // It was for opening: io_uring would not wait for the reads of such a file either.
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    Ok(file)
}

/// Opens for direct reads and tries one: some file systems accept the flag and refuse the read.
fn open_direct(path: &Path) -> io::Result<File> {
    #[repr(align(4096))]
    struct Block([u8; DIRECT_ALIGN]);

    let flags = OFlags::DIRECT.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    rustix::io::pread(&file, &mut Block([0; DIRECT_ALIGN]).0, 0)?;
    Ok(file)
}

fn buffered_note(error: io::Error) -> String {
    format!(
        "this file system does not allow direct reads ({error}); reading through the page cache, \
         which is slower and takes free RAM"
    )
}

/// What the kernel's answer, a number of bytes or an error, means for a read.
pub(super) fn outcome(answer: Result<usize, Errno>) -> Outcome {
    match answer {
        Ok(bytes) => Outcome::Arrived(bytes),
        Err(error @ (Errno::INTR | Errno::AGAIN)) => Outcome::Interrupted(classify(error)),
        Err(error) => Outcome::Failed(classify(error)),
    }
}

/// Whether the same read can succeed later.
fn classify(error: Errno) -> StorageError {
    let kind = match error {
        // A medium, bus or memory error may pass; the engine bounds how often it tries.
        Errno::IO
        | Errno::INTR
        | Errno::AGAIN
        | Errno::TIMEDOUT
        | Errno::BUSY
        | Errno::NOMEM
        | Errno::NOBUFS
        | Errno::NODATA
        | Errno::ILSEQ
        | Errno::REMOTEIO => StorageErrorKind::Transient,
        _ => StorageErrorKind::Permanent,
    };
    StorageError { kind, code: error.raw_os_error() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_whether_trying_again_can_help() {
        let failed = |errno: Errno, kind| {
            outcome(Err(errno))
                == Outcome::Failed(StorageError { kind, code: errno.raw_os_error() })
        };
        assert!(failed(Errno::IO, StorageErrorKind::Transient));
        for errno in [Errno::BADF, Errno::INVAL, Errno::NODEV, Errno::NXIO, Errno::STALE] {
            assert!(failed(errno, StorageErrorKind::Permanent), "{errno}");
        }
    }

    #[test]
    fn an_interruption_says_nothing_of_the_device() {
        for errno in [Errno::INTR, Errno::AGAIN] {
            let error =
                StorageError { kind: StorageErrorKind::Transient, code: errno.raw_os_error() };
            assert_eq!(outcome(Err(errno)), Outcome::Interrupted(error));
        }
        assert_eq!(outcome(Ok(5)), Outcome::Arrived(5));
    }
}
