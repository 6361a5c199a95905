//! Images in files.

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rill::image::PAGE_ALIGN;
use rill::seams::{Completion, Geometry, Read, Storage, StorageError, StorageErrorKind};
use rill_linux::storage::{Disk, OpenError, Via};

use crate::status::{Failure, Status};

/// An image that begins somewhere in a file, and may end before it.
pub struct File {
    disk: Disk,
    offset: u64,
}

impl File {
    /// Opens it.
    ///
    /// # Safety
    /// `path` is null, or a text with a 0 at its end.
    pub unsafe fn open(path: *const c_char, offset: u64) -> Result<Self, Failure> {
        if path.is_null() || !offset.is_multiple_of(PAGE_ALIGN as u64) {
            return Err(Failure::argument("`path` is null, or `offset` no multiple of 16 KiB"));
        }
        // SAFETY: it is not null, so the caller's promise holds.
        let path = unsafe { CStr::from_ptr(path) };
        let path = Path::new(OsStr::from_bytes(path.to_bytes()));
        let disk = Disk::open(path, Via::Best).map_err(|error| {
            let status = match &error {
                OpenError::File { .. } => Status::Read,
                OpenError::Queue(_) => Status::System,
            };
            Failure::system(status, error)
        })?;
        Ok(Self { disk, offset })
    }

    /// All reads are going to be into `arena`.
    pub fn confine(&mut self, arena: &[u8]) {
        self.disk.queue().confine(arena);
    }

    /// A place of the image in the file.
    fn place(&self, offset: u64) -> Result<u64, StorageError> {
        let past_end = StorageError { kind: StorageErrorKind::PastEnd, code: 0 };
        self.offset.checked_add(offset).ok_or(past_end)
    }
}

impl Storage<'static> for File {
    fn geometry(&self) -> Geometry {
        let whole = self.disk.geometry();
        Geometry { len: whole.len.saturating_sub(self.offset), ..whole }
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let offset = self.place(offset)?;
        self.disk.read_at(offset, into)
    }

    fn rest(&mut self, attempt: u8) {
        self.disk.rest(attempt);
    }

    fn submit(&mut self, read: Read<'static>) -> Result<(), Read<'static>> {
        // A place beyond 64 bits is beyond the file too: the disk says so.
        let offset = self.place(read.offset).unwrap_or(u64::MAX - (u64::MAX % PAGE_ALIGN as u64));
        let submitted = self.disk.submit(Read { offset, ..read });
        submitted.map_err(|read| Read { offset: read.offset - self.offset, ..read })
    }

    fn hurry(&mut self, tag: u32) {
        self.disk.hurry(tag);
    }

    fn abandon(&mut self, tag: u32) {
        self.disk.abandon(tag);
    }

    fn poll(&mut self) -> Option<Completion<'static>> {
        self.disk.poll()
    }

    fn wait(&mut self) -> Option<Completion<'static>> {
        self.disk.wait()
    }
}
