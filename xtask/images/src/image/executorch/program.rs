//! Writing a program: its tables, then the image, byte for byte.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rill::image::{HEADER_BYTES, Header, Manifest};
use rill::image::{Image, PAGE_ALIGN, Section};
use sha2::{Digest, Sha256};

use super::flat::Program;
use super::segments;

/// Version of what the delegate is told, and of how an image is cut.
pub const VERSION: u32 = 1;
/// Positions of a conversation, unless somebody says otherwise or the model was made for less.
const CONTEXT: u32 = 4096;
/// Bytes that are copied at a time.
const PIECE: usize = 1 << 20;

/// What was written.
pub struct Written {
    /// The image's header and manifest.
    pub image: Image,
    /// Positions of a conversation.
    pub context: u32,
    /// Bytes of the file.
    pub bytes: u64,
    /// SHA-256 of the file.
    pub sha256: String,
}

/// Writes the program of an image; the delegate may use `budget` bytes unless it is told otherwise.
pub fn write(model: &Path, budget: u64, to: &Path) -> Result<Written> {
    let name = || model.display().to_string();
    let mut file = File::open(model).with_context(name)?;
    let image = read(&mut file).with_context(name)?;
    let manifest = &image.manifest;
    let context = manifest.shape.max_context.min(CONTEXT);
    let segments = segments::of(&image);
    let area = image.header.file_len;
    let specs = [
        ("version", VERSION.to_le_bytes().to_vec()),
        ("context", context.to_le_bytes().to_vec()),
        ("budget", budget.to_le_bytes().to_vec()),
        ("identity", image.header.identity().to_le_bytes().to_vec()),
        ("segments", segments::table(&segments)),
    ];
    let program = Program {
        vocab: manifest.shape.vocab,
        context,
        begin: manifest.chat.begin,
        stops: &manifest.chat.stops,
        specs: &specs,
        segments: &segments,
    };
    let base = (program.head(0, 0).len() as u64).next_multiple_of(PAGE_ALIGN as u64);
    let mut head = program.head(base, area);
    head.resize(usize::try_from(base)?, 0);

    let mut out = BufWriter::with_capacity(PIECE, File::create(to)?);
    let mut hash = Sha256::new();
    hash.update(&head);
    out.write_all(&head)?;
    file.seek(SeekFrom::Start(0))?;
    let mut piece = vec![0; PIECE];
    let mut left = area;
    while left > 0 {
        let piece = &mut piece[..PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
        file.read_exact(piece).with_context(name)?;
        hash.update(&*piece);
        out.write_all(piece)?;
        left -= piece.len() as u64;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Written { image, context, bytes: base + area, sha256 })
}

/// Header and manifest of an image, and that it is whole.
pub fn read(file: &mut File) -> Result<Image> {
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact(&mut bytes)?;
    let header = Header::parse(&bytes)?;
    let found = file.metadata()?.len();
    ensure!(found >= header.file_len, "it has {found} of {} bytes", header.file_len);
    let manifest = section(file, &header, Section::Manifest)?;
    Ok(Image::check(header, Manifest::decode(&manifest)?)?)
}

/// A section of an image, checked.
pub fn section(file: &mut File, header: &Header, section: Section) -> Result<Vec<u8>> {
    let span = header.span(section);
    file.seek(SeekFrom::Start(span.offset))?;
    let mut bytes = Vec::new();
    file.take(span.len).read_to_end(&mut bytes)?;
    let sum = rill::image::checksum(&bytes);
    ensure!(sum == span.checksum, "the {} section is damaged", section.name());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_tables_and_the_image() {
        let model = crate::image::kiosk().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.pte");
        let written = write(&model, 64 << 20, &path).unwrap();
        let (program, image) = (std::fs::read(&path).unwrap(), std::fs::read(&model).unwrap());
        assert_eq!(program.len() as u64, written.bytes);
        let base = program.len() - image.len();
        assert!(base.is_multiple_of(PAGE_ALIGN) && program[base..] == image);
        assert_eq!(&program[4..12], b"ET12eh00");
        let word = |at: usize| u64::from_le_bytes(*program[at..].first_chunk().unwrap());
        assert!((base - PAGE_ALIGN..=base).contains(&(word(16) as usize)));
        assert_eq!([word(24), word(32)], [base as u64, image.len() as u64]);
        let sum: String =
            Sha256::digest(&program).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(sum, written.sha256);
        // The same again.
        write(&model, 64 << 20, &path).unwrap();
        assert!(std::fs::read(&path).unwrap() == program);
    }

    #[test]
    fn what_is_cut_is_no_model() {
        let folder = tempfile::tempdir().unwrap();
        let cut = folder.path().join("cut.rill");
        let mut bytes = std::fs::read(crate::image::kiosk().unwrap()).unwrap();
        bytes.truncate(bytes.len() - 1);
        std::fs::write(&cut, bytes).unwrap();
        let error = write(&cut, 0, &folder.path().join("model.pte")).err().unwrap();
        assert!(format!("{error:#}").contains("cut.rill: it has"), "{error:#}");
    }
}
