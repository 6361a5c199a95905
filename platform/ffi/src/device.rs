//! Where an image's bytes come from.

use core::ffi::c_char;
#[cfg(feature = "std")]
use std::{
    ffi::{CStr, OsStr},
    os::unix::ffi::OsStrExt,
    path::Path,
};

#[cfg(feature = "std")]
use rill::image::PAGE_ALIGN;
use rill::seams::{Blocking, InMemory, ReadAt, Storage, StorageError, StorageErrorKind};
#[cfg(feature = "std")]
use rill_linux::storage::{Disk, OpenError, Via};

use crate::border::{elements, structure};
use crate::options::{ReadResult, Reader, check_abi};
#[cfg(not(feature = "std"))]
use crate::status::Why;
use crate::status::{Failure, Status};

/// An image, wherever it is. What is submitted goes into memory that outlives the device.
pub enum Device {
    /// In the address space.
    Memory(InMemory<'static, 'static>),
    /// The caller reads it.
    Reader(Blocking<'static, CallersReads>),
    /// In a file.
    #[cfg(feature = "std")]
    File(Disk),
}

impl Device {
    /// An image in the address space.
    ///
    /// # Safety
    /// As for [`elements`], for as long as the device lives.
    pub unsafe fn memory(image: *const u8, len: usize) -> Result<Self, Failure> {
        // SAFETY: the caller's promise is the same.
        let bytes = unsafe { elements::<'static, u8>(image, len)? };
        Ok(Self::Memory(InMemory::new(bytes)))
    }

    /// An image that the caller reads.
    ///
    /// # Safety
    /// As for [`structure`]; its function reads what it says into the memory that it is given.
    pub unsafe fn reader(reader: *const Reader) -> Result<Self, Failure> {
        // SAFETY: the caller's promise is the same.
        let reader = *unsafe { structure(reader)? };
        check_abi(reader.abi)?;
        let alignment = reader.alignment.max(1);
        if reader.read.is_none() || !alignment.is_power_of_two() || alignment > 4096 {
            return Err(Failure::argument(
                "the reader has no `read`, or an impossible `alignment`",
            ));
        }
        Ok(Self::Reader(Blocking::new(CallersReads(Reader { alignment, ..reader }))))
    }

    /// An image that begins at byte `offset` of a file.
    ///
    /// # Safety
    /// `path` is null, or a text with a 0 at its end.
    pub unsafe fn file(path: *const c_char, offset: u64) -> Result<Self, Failure> {
        #[cfg(feature = "std")]
        {
            if path.is_null() || !offset.is_multiple_of(PAGE_ALIGN as u64) {
                return Err(Failure::argument("`path` is null, or `offset` no multiple of 16 KiB"));
            }
            // SAFETY: it is not null, so the caller's promise holds.
            let path = unsafe { CStr::from_ptr(path) };
            let path = Path::new(OsStr::from_bytes(path.to_bytes()));
            let disk = Disk::open_at(path, offset, Via::Best).map_err(|error| {
                let status = match &error {
                    OpenError::File { .. } => Status::Read,
                    OpenError::Queue(_) => Status::System,
                };
                Failure::system(status, error)
            })?;
            Ok(Self::File(disk))
        }
        #[cfg(not(feature = "std"))]
        {
            let _ = (path, offset);
            Err(Failure::new(
                Status::Unsupported,
                Why::Words("this library has no files; use a reader"),
            ))
        }
    }

    /// What reads it.
    pub fn storage(&mut self) -> &mut dyn Storage<'static> {
        match self {
            Self::Memory(memory) => memory,
            Self::Reader(reader) => reader,
            #[cfg(feature = "std")]
            Self::File(disk) => disk,
        }
    }

    /// All reads are going to be into `arena`.
    pub fn confine(&mut self, arena: &[u8]) {
        match self {
            #[cfg(feature = "std")]
            Self::File(disk) => disk.queue().confine(arena),
            _ => {
                let _ = arena;
            }
        }
    }
}

/// Reads by a function of the caller's.
pub struct CallersReads(Reader);

impl ReadAt for CallersReads {
    fn len(&self) -> u64 {
        self.0.len
    }

    fn alignment(&self) -> u32 {
        self.0.alignment
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let error = |kind, code| Err(StorageError { kind, code });
        let end = offset.checked_add(into.len() as u64);
        let inside = end.is_some_and(|end| end <= self.0.len);
        let (Some(read), true) = (self.0.read, inside) else {
            return error(StorageErrorKind::PastEnd, 0);
        };
        match read(self.0.context, offset, into.as_mut_ptr().cast(), into.len()) {
            code if code == ReadResult::Whole as i32 => Ok(()),
            code if code == ReadResult::Again as i32 => error(StorageErrorKind::Transient, code),
            code => error(StorageErrorKind::Permanent, code),
        }
    }
}
