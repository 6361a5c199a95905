//! The archive that Linux unpacks into memory as its first file system.

use std::io::Write;

use anyhow::{Context, Result};
use cpio::newc;

/// Level of compression: a larger file starts later.
const LEVEL: i32 = 15;

/// A cpio archive in the making.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    /// Adds a file or folder, as its mode says.
    pub fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.files += 1;
        let len = u32::try_from(content.len()).with_context(|| format!("{name} is too large"))?;
        let entry = newc::Builder::new(name).ino(self.files).mode(mode).nlink(1);
        let mut writer = entry.write(&mut self.bytes, len);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }

    /// Ends the archive and writes it, compressed.
    pub fn write(self, to: impl Write) -> Result<()> {
        let bytes = newc::trailer(self.bytes)?;
        let mut out = zstd::Encoder::new(to, LEVEL)?;
        out.write_all(&bytes)?;
        out.finish()?;
        Ok(())
    }
}
