//! Where the model comes from.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rill::image::{ChatTemplate, Image, ImageError, PAGE_ALIGN, Section, Span, checksum};
use rill::seams::Storage;
use rill_linux::arena::Arena;
use rill_linux::storage::{Disk, InMemory, Via};

use crate::failure::Failure;

/// Which model.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// Image of the model, made by `rill pack`; without it, the small one built into this program
    #[arg(short, long, value_name = "IMAGE")]
    model: Option<PathBuf>,
    /// How the image is read
    #[arg(long, value_enum, default_value = "best", hide_short_help = true)]
    io: Io,
}

/// What reads an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Io {
    /// io_uring where the kernel allows it, threads elsewhere
    Best,
    /// io_uring only
    Uring,
    /// Threads only
    Threads,
}

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
    #[cfg_attr(not(feature = "kiosk"), expect(dead_code, reason = "there is no model inside"))]
    BuiltIn(InMemory),
}

impl ModelArgs {
    /// The file of the image, if it is one.
    pub fn path(&self) -> Option<&Path> {
        self.model.as_deref()
    }

    /// Opens the image and checks header and manifest.
    pub fn open(&self) -> Result<Model, Failure> {
        let (name, mut device) = match &self.model {
            Some(path) => {
                let disk = Disk::open(path, self.io.into())?;
                (path.display().to_string(), Device::File(disk))
            }
            None => built_in()?,
        };
        let mut scratch = Box::new(Scratch([0; PAGE_ALIGN]));
        let image = Image::open(device.storage(), &mut scratch.0)
            .map_err(|error| Failure::Image { model: name.clone(), error })?;
        Ok(Model { name, device, image })
    }
}

impl Model {
    /// The chat template that came with the model; `None` when there is none.
    pub fn template(&mut self) -> Result<Option<ChatTemplate<'static>>, Failure> {
        if self.image.header.span(Section::Template).len == 0 {
            return Ok(None);
        }
        let bytes = self.section(Section::Template)?;
        ChatTemplate::parse(bytes).map(Some).ok_or_else(|| Failure::Image {
            model: self.name.clone(),
            error: ImageError::Length(Section::Template),
        })
    }

    /// Reads a section whole and checks it.
    pub fn section(&mut self, section: Section) -> Result<&'static [u8], Failure> {
        let Span { offset, len, checksum: sum } = self.image.header.span(section);
        let padded = (len.next_multiple_of(PAGE_ALIGN as u64)).max(PAGE_ALIGN as u64);
        let bytes = Arena::new(padded as usize, 1)
            .map_err(|error| Failure::Ram { bytes: padded, error })?
            .bytes;
        let model = || self.name.clone();
        self.device.storage().read_at(offset, bytes).map_err(|error| Failure::Image {
            model: model(),
            error: ImageError::Storage(section, error),
        })?;
        let bytes = &bytes[..len as usize];
        if checksum(bytes) != sum {
            let error = ImageError::Checksum(section);
            return Err(Failure::Image { model: model(), error });
        }
        Ok(bytes)
    }
}

impl Device {
    /// The engine's view.
    pub fn storage(&mut self) -> &mut dyn Storage<'static> {
        match self {
            Self::File(disk) => disk,
            Self::BuiltIn(memory) => memory,
        }
    }

    /// What reads it.
    pub fn via(&self) -> &'static str {
        match self {
            Self::File(disk) => disk.via(),
            Self::BuiltIn(_) => "built in",
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

impl From<Io> for Via {
    fn from(io: Io) -> Self {
        match io {
            Io::Best => Self::Best,
            Io::Uring => Self::Uring,
            Io::Threads => Self::Threads,
        }
    }
}

/// For the first look at an image, aligned as direct reads want it.
#[repr(align(4096))]
struct Scratch([u8; PAGE_ALIGN]);

/// The model inside this program.
#[cfg(feature = "kiosk")]
fn built_in() -> Result<(String, Device), Failure> {
    #[repr(C, align(16384))]
    struct PageAligned<T: ?Sized>(T);
    static BUILT_IN: &PageAligned<[u8]> =
        &PageAligned(*include_bytes!(concat!(env!("OUT_DIR"), "/kiosk.rill")));
    Ok(("the built-in model".to_owned(), Device::BuiltIn(InMemory::new(&BUILT_IN.0))))
}

#[cfg(not(feature = "kiosk"))]
fn built_in() -> Result<(String, Device), Failure> {
    Err(Failure::Usage("this program has no model inside: name one with -m IMAGE".into()))
}
