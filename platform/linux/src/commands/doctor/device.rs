//! How an image's device is read, and how fast it is.

use std::fmt;
use std::path::Path;

use rill::image::{Section, Span};
use rill::size::Size;
use rill_linux::arena::Arena;
use rill_linux::engine::LoadError;
use rill_linux::model::{Device, Model};
use rill_linux::storage::{Disk, Probe, Via, probe, probe_file};
use serde::Serialize;

/// Whether reads can go through io_uring.
#[derive(Debug, Serialize)]
pub struct Ring {
    pub works: bool,
    /// Why not.
    pub error: Option<String>,
}

impl Ring {
    /// Makes one, to read this program: the kernel may have none, or forbid it.
    pub fn try_out() -> Self {
        let tried = std::env::current_exe()
            .map_err(|error| error.to_string())
            .and_then(|path| Disk::open(&path, Via::Uring).map_err(|error| error.to_string()));
        let error = tried.err();
        Self { works: error.is_none(), error }
    }
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error {
            None => f.write_str("works"),
            Some(error) => write!(f, "no ({error}): threads that wait read instead"),
        }
    }
}

/// The device that an image lies on.
#[derive(Debug, Serialize)]
pub struct Flash {
    /// What reads it.
    pub via: &'static str,
    /// Whether reads bypass the page cache.
    pub direct: bool,
    /// Why they do not.
    pub note: Option<String>,
    /// Bytes of a piece that suits it, how many of them at once, and what that brings.
    pub piece_bytes: Option<usize>,
    pub depth: Option<usize>,
    pub bytes_per_second: Option<u64>,
}

/// As much is read into at once by the largest reads that are tried.
const ROOM: usize = 8 << 20;

impl Flash {
    /// Measures the device of an image, or takes what an earlier run remembered; `kept` is what the
    /// names of files begin with that are kept for it.
    pub fn measure(model: &mut Model, kept: &Path) -> Result<Self, LoadError> {
        let identity = model.identity();
        let Span { offset, len, .. } = model.image.header.span(Section::Pages);
        let via = model.device.via();
        let none = Self {
            via,
            direct: false,
            note: None,
            piece_bytes: None,
            depth: None,
            bytes_per_second: None,
        };
        let Device::File(disk) = &mut model.device else { return Ok(none) };
        let mut flash = Self {
            direct: disk.source().is_direct(),
            note: disk.note().map(str::to_owned),
            ..none
        };
        let arena = Arena::new(ROOM, 1)
            .map_err(|error| LoadError::Ram { bytes: ROOM as u64, error })?
            .leak();
        let (found, _) = probe(disk, identity, (offset, len), &probe_file(kept), arena);
        let measured = found.filter(|found| found.bytes_per_second > 0);
        if let Some(Probe { tuning, bytes_per_second, .. }) = measured {
            flash.piece_bytes = Some(tuning.split);
            flash.depth = Some(tuning.depth);
            flash.bytes_per_second = Some(bytes_per_second);
        }
        Ok(flash)
    }

    /// Bytes a second of random reads, where that is known.
    pub fn speed(&self) -> Option<f64> {
        self.bytes_per_second.map(|speed| speed as f64)
    }
}

impl fmt::Display for Flash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.direct { "direct reads" } else { "buffered reads" };
        match (self.bytes_per_second, self.piece_bytes, self.depth) {
            (Some(speed), Some(piece), Some(depth)) => write!(
                f,
                "{}/s by {how} through {}: {depth} at once of {}, the fastest that were tried",
                Size(speed),
                self.via,
                Size(piece as u64)
            ),
            _ => write!(f, "{how} through {}; their speed is not known", self.via),
        }
    }
}
