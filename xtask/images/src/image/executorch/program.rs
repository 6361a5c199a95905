//! A program: its tables, then the image, byte for byte.

use std::fs::File;
use std::io::{BufReader, Chain, Cursor, Read, Seek, SeekFrom, Take};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rill::image::{HEADER_BYTES, Header, Manifest};
use rill::image::{Image, Section};

use super::flat::Program;
use super::segments;

/// Version of what the delegate is told, and of how an image is cut.
pub const VERSION: u32 = 1;
/// Positions of a conversation, unless somebody says otherwise or the model was made for less.
const CONTEXT: u32 = 4096;
/// Bytes that are copied at a time.
const PIECE: usize = 1 << 20;

/// A program that is to be written.
pub struct Opened {
    /// The image's header and manifest.
    pub image: Image,
    /// Positions of a conversation.
    pub context: u32,
    /// Bytes of the file.
    pub bytes: u64,
    /// The file: tables and padding, then the image as it is read.
    pub content: BufReader<Chain<Cursor<Vec<u8>>, Take<File>>>,
}

/// The program of an image; the delegate may use `budget` bytes unless it is told otherwise.
pub fn open(model: &Path, budget: u64) -> Result<Opened> {
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
    let head = program.head(area);
    let bytes = head.len() as u64 + area;
    file.seek(SeekFrom::Start(0))?;
    let content = BufReader::with_capacity(PIECE, Cursor::new(head).chain(file.take(area)));
    Ok(Opened { image, context, bytes, content })
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
    use rill::image::PAGE_ALIGN;

    use super::*;

    #[test]
    fn a_program_is_tables_and_the_image() {
        let model = crate::image::kiosk().unwrap();
        let bytes = || {
            let mut opened = open(&model, 64 << 20).unwrap();
            let mut bytes = Vec::new();
            opened.content.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, opened.bytes);
            bytes
        };
        let (program, image) = (bytes(), std::fs::read(&model).unwrap());
        let base = program.len() - image.len();
        assert!(base.is_multiple_of(PAGE_ALIGN) && program[base..] == image);
        assert_eq!(&program[4..12], b"ET12eh00");
        let word = |at: usize| u64::from_le_bytes(*program[at..].first_chunk().unwrap());
        assert!((base - PAGE_ALIGN..=base).contains(&(word(16) as usize)));
        assert_eq!([word(24), word(32)], [base as u64, image.len() as u64]);
        // The same again.
        assert!(bytes() == program);
    }

    #[test]
    fn what_is_cut_is_no_model() {
        let folder = tempfile::tempdir().unwrap();
        let cut = folder.path().join("cut.rill");
        let mut bytes = std::fs::read(crate::image::kiosk().unwrap()).unwrap();
        bytes.truncate(bytes.len() - 1);
        std::fs::write(&cut, bytes).unwrap();
        let error = open(&cut, 0).err().unwrap();
        assert!(format!("{error:#}").contains("cut.rill: it has"), "{error:#}");
    }
}
