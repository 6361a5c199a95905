//! Images: where they come from, and what is read of them before a model is loaded.

use std::ops::Deref;
use std::path::Path;

use rill::image::{Image, PAGE_ALIGN, Section};
use rill::seams::{Geometry, InMemory, Storage};

use crate::arena::Arena;
use crate::engine::LoadError;
use crate::storage::{Disk, Via};

/// An opened image.
pub struct Model {
    /// Its path, or what the built-in one is called.
    pub name: String,
    /// Where its bytes come from.
    pub device: Device,
    /// What is in it.
    pub image: Image,
}

/// Where an image's bytes come from.
pub enum Device {
    /// A file.
    File(Disk),
    /// The program itself.
    BuiltIn(Box<InMemory<'static, 'static>>),
}

/// A section of an image, in RAM of its own.
pub struct SectionBytes {
    arena: Arena,
    len: usize,
}

impl Deref for SectionBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.arena[..self.len]
    }
}

impl Model {
    /// Opens an image, the built-in one without a path, and checks its header and manifest. It is read
    /// by `via`.
    pub fn open(path: Option<&Path>, via: Via) -> Result<Self, LoadError> {
        let (name, mut device) = match path {
            Some(path) => (path.display().to_string(), Device::File(Disk::open(path, via)?)),
            None => built_in()?,
        };
        let mut scratch = Box::new(Scratch([0; PAGE_ALIGN]));
        let image = Image::open(device.storage(), &mut scratch.0)
            .map_err(|error| LoadError::Image { model: name.clone(), error })?;
        Ok(Self { name, device, image })
    }

    /// Bytes of a section as it is read: whole pages.
    pub fn padded(&self, section: Section) -> u64 {
        self.image.header.span(section).len.next_multiple_of(PAGE_ALIGN as u64)
    }

    /// Reads a section whole and checks it.
    pub fn section(&mut self, section: Section) -> Result<SectionBytes, LoadError> {
        let len = self.image.header.span(section).len as usize;
        let padded = self.padded(section).max(PAGE_ALIGN as u64);
        let mut arena = Arena::new(padded as usize, 1)
            .map_err(|error| LoadError::Ram { bytes: padded, error })?;
        let read = self.image.header.read(section, self.device.storage(), &mut arena);
        read.map_err(|error| LoadError::Image { model: self.name.clone(), error })?;
        Ok(SectionBytes { arena, len })
    }

    /// What tells this image from others.
    pub fn identity(&self) -> u64 {
        self.image.header.identity()
    }
}

impl Device {
    /// What reads it. Buffers of submitted reads live as long as the process.
    pub fn storage(&mut self) -> &mut dyn Storage<'static> {
        match self {
            Self::File(disk) => disk,
            Self::BuiltIn(memory) => memory.as_mut(),
        }
    }

    /// What reads must look like.
    pub fn geometry(&self) -> Geometry {
        match self {
            Self::File(disk) => disk.geometry(),
            Self::BuiltIn(memory) => memory.geometry(),
        }
    }

    /// What reads it, by name.
    pub fn via(&self) -> &'static str {
        match self {
            Self::File(disk) => disk.via(),
            Self::BuiltIn(_) => "built in",
        }
    }

    /// Threads that read.
    pub fn threads(&self) -> usize {
        match self {
            Self::File(disk) => disk.threads(),
            Self::BuiltIn(_) => 0,
        }
    }

    /// RAM that reading takes beside the buffers: the built-in image counts as the program's own.
    pub fn resident(&self) -> u64 {
        match self {
            Self::File(_) => 0,
            Self::BuiltIn(memory) => memory.geometry().len,
        }
    }
}

/// For the first look at an image, aligned as direct reads want it.
#[repr(align(4096))]
struct Scratch([u8; PAGE_ALIGN]);

/// The model inside this program.
#[cfg(feature = "kiosk")]
fn built_in() -> Result<(String, Device), LoadError> {
    #[repr(C, align(16384))]
    struct PageAligned<T: ?Sized>(T);
    static BUILT_IN: &PageAligned<[u8]> =
        &PageAligned(*include_bytes!(concat!(env!("OUT_DIR"), "/kiosk.rill")));
    Ok(("the built-in model".to_owned(), Device::BuiltIn(Box::new(InMemory::new(&BUILT_IN.0)))))
}

#[cfg(not(feature = "kiosk"))]
fn built_in() -> Result<(String, Device), LoadError> {
    Err(LoadError::NoModel)
}
