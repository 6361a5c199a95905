//! Writes the sections of an image in one pass over the source. Only the page checksums and the
//! header, which are known last, are filled in afterwards.

use std::io::{self, Seek, SeekFrom, Write};
use std::ops::{ControlFlow, Range};

use rill::image::layout::{TILE_ROWS, align_up};
use rill::image::{
    Extent, FfnTensors, HEADER_BYTES, Header, LayerTensors, Manifest, MatrixExtent, MixerTensors,
    PageShape, Resident, Section, checksum, page_checksum, page_shape,
};
use xxhash_rust::xxh3::Xxh3Default;

use crate::checkpoint::{Checkpoint, Ffn, Layer, Mixer, Part, Swiglu};
use crate::journal::Earlier;
use crate::matrix::{ExpertParts, Joint, Loss, MatrixError, Weave, numbers};
use crate::options::Progress;
use crate::summary::{Class, Report};
use crate::vocabulary::PackedVocabulary;

/// Largest encoded manifest that an image may have.
pub const MANIFEST_MOST: usize = 4 << 10;
/// About how many bytes of a large matrix are made at a time.
const CHUNK: usize = 4 << 20;

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A tensor could not be read or expressed.
    #[error(transparent)]
    Matrix(#[from] MatrixError),
    /// The manifest could not be encoded.
    #[error(transparent)]
    Manifest(#[from] rill::image::ManifestError),
    /// The output failed.
    #[error(transparent)]
    Output(#[from] io::Error),
    /// The caller asked to stop.
    #[error("stopped")]
    Cancelled,
}

/// The header, without checksums, of an image with a manifest of this length and these words.
pub fn lay_out(manifest: &Manifest, manifest_len: usize, words: &PackedVocabulary) -> Header {
    let (_, resident_len) = Resident::of(manifest, |_, _| {});
    let page_len = page_shape(manifest).map_or(0, |shape| shape.bytes());
    let pages = manifest.pages();
    let lens = [
        manifest_len,
        words.tables.len(),
        words.template.len(),
        resident_len,
        pages * 16,
        pages * page_len,
    ];
    Header::new(lens.map(|len| len as u64), page_len as u64)
}

/// Writes an image from the start of `out`, all of it, and returns its header and what became of
/// each tensor. Pieces that are there from an `earlier` attempt stay as they are.
pub fn write<W: Write + Seek>(
    out: &mut W,
    checkpoint: &Checkpoint,
    manifest: &Manifest,
    words: &PackedVocabulary,
    earlier: &mut dyn Earlier,
    progress: &dyn Progress,
) -> Result<(Header, Report), WriteError> {
    let mut buffer = [0; MANIFEST_MOST];
    let encoded = manifest.encode(&mut buffer)?;
    let mut layers = Vec::new();
    let (top, _) = Resident::of(manifest, |_, tensors| layers.push(tensors));
    let mut header = lay_out(manifest, encoded.len(), words);
    progress.start(header.file_len);
    let out = Output { inner: out, at: 0, start: 0, hash: Xxh3Default::new(), progress };
    let mut packer = Packer { out, checkpoint, earlier, report: Report::default() };

    packer.out.put(&[0; HEADER_BYTES])?;
    let texts = [
        (Section::Manifest, encoded),
        (Section::Tokenizer, &words.tables),
        (Section::Template, &words.template),
    ];
    for (section, bytes) in texts {
        packer.out.begin(&header, section)?;
        packer.out.put(bytes)?;
        packer.out.end(&mut header, section)?;
    }
    packer.out.begin(&header, Section::Resident)?;
    packer.matrix(&top.embedding, &[&checkpoint.embedding], Weave::Stack, Class::Embedding)?;
    if let (Some(matrix), Some(part)) = (&top.head, &checkpoint.head) {
        packer.matrix(matrix, &[part], Weave::Stack, Class::Embedding)?;
    }
    packer.floats(&top.norm, &checkpoint.norm)?;
    for (tensors, parts) in layers.iter().zip(&checkpoint.layers) {
        packer.layer(tensors, parts)?;
    }
    packer.out.end(&mut header, Section::Resident)?;

    // Their place comes before the pages that they sum up.
    let mut sums = vec![0; manifest.pages() * 16];
    packer.out.begin(&header, Section::PageSums)?;
    packer.out.put(&sums)?;
    packer.out.end(&mut header, Section::PageSums)?;
    packer.out.begin(&header, Section::Pages)?;
    if let Some(shape) = page_shape(manifest) {
        packer.pages(&shape, &mut sums)?;
    }
    packer.out.pad_to(header.file_len)?;

    let Output { inner, .. } = packer.out;
    header.spans[Section::PageSums as usize].checksum = checksum(&sums);
    inner.seek(SeekFrom::Start(header.span(Section::PageSums).offset))?;
    inner.write_all(&sums)?;
    inner.rewind()?;
    inner.write_all(&header.to_bytes())?;
    inner.flush()?;
    Ok((header, packer.report))
}

/// The tile rows of a matrix of the resident section that are made at a time.
pub fn steps(matrix: &MatrixExtent) -> impl Iterator<Item = Range<usize>> {
    let rows = matrix.shape.tile_rows();
    let width = matrix.shape.format.tile_row_bytes(matrix.shape.blocks());
    let step = (CHUNK / width).max(1);
    (0..rows).step_by(step).map(move |first| first..rows.min(first + step))
}

struct Packer<'w, W> {
    out: Output<'w, W>,
    checkpoint: &'w Checkpoint,
    earlier: &'w mut dyn Earlier,
    report: Report,
}

impl<W: Write + Seek> Packer<'_, W> {
    fn layer(&mut self, tensors: &LayerTensors, parts: &Layer) -> Result<(), WriteError> {
        self.floats(&tensors.operator_norm, &parts.operator_norm)?;
        match (&tensors.mixer, &parts.mixer) {
            (
                MixerTensors::Conv { in_proj, taps, out_proj },
                Mixer::Conv { in_proj: in_part, taps: taps_part, out_proj: out_part },
            ) => {
                self.dense(in_proj, &[in_part], Weave::Stack)?;
                self.taps(taps, taps_part)?;
                self.dense(out_proj, &[out_part], Weave::Stack)?;
            }
            (
                MixerTensors::Attention { qkv, q_norm, k_norm, out_proj },
                Mixer::Attention { qkv: [q, k, v], q_norm: q_part, k_norm: k_part, out_proj: out },
            ) => {
                self.dense(qkv, &[q, k, v], Weave::Stack)?;
                self.floats(q_norm, q_part)?;
                self.floats(k_norm, k_part)?;
                self.dense(out_proj, &[out], Weave::Stack)?;
            }
            _ => unreachable!("the manifest was made from this checkpoint"),
        }
        self.floats(&tensors.ffn_norm, &parts.ffn_norm)?;
        match (&tensors.ffn, &parts.ffn) {
            (
                FfnTensors::Dense { gate_up, down },
                Ffn::Dense(Swiglu { gate_up: [g, u], down: d }),
            ) => {
                self.dense(gate_up, &[g, u], Weave::Interleave)?;
                self.dense(down, &[d], Weave::Stack)
            }
            (FfnTensors::Moe { router, bias }, Ffn::Moe { router: rows, bias: values, .. }) => {
                self.router(router, rows)?;
                match values {
                    Some(values) => self.floats(bias, values),
                    None => self.out.pad_to(self.out.start + bias.end as u64),
                }
            }
            _ => unreachable!("the manifest was made from this checkpoint"),
        }
    }

    fn dense(
        &mut self,
        matrix: &MatrixExtent,
        parts: &[&Part],
        weave: Weave,
    ) -> Result<(), WriteError> {
        self.matrix(matrix, parts, weave, Class::Dense)
    }

    /// Writes a matrix of the resident section, a chunk of tile rows at a time.
    fn matrix(
        &mut self,
        matrix: &MatrixExtent,
        parts: &[&Part],
        weave: Weave,
        class: Class,
    ) -> Result<(), WriteError> {
        self.out.place(matrix.extent.start)?;
        let joint = Joint { parts, weave, shape: matrix.shape };
        let width = matrix.shape.format.tile_row_bytes(matrix.shape.blocks());
        let mut bytes = Vec::new();
        for tile_rows in steps(matrix) {
            bytes.resize(tile_rows.len() * width, 0);
            let mut losses = vec![Loss::default(); parts.len()];
            self.piece(&mut bytes, &mut losses, |checkpoint, bytes, losses| {
                Ok(joint.encode(&checkpoint.files, tile_rows, bytes, losses)?)
            })?;
            self.report.add(class, &joint, &losses);
        }
        Ok(())
    }

    /// Writes a piece of the image that `make` fills in, unless an earlier attempt has.
    fn piece(
        &mut self,
        bytes: &mut [u8],
        losses: &mut [Loss],
        make: impl FnOnce(&Checkpoint, &mut [u8], &mut [Loss]) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        if self.earlier.take(self.out.at, bytes, losses)? {
            return self.out.pass(bytes);
        }
        make(self.checkpoint, bytes, losses)?;
        self.earlier.made(self.out.at, bytes, losses)?;
        self.out.put(bytes)
    }

    /// Writes every page, and its two checksums into `sums`.
    fn pages(&mut self, shape: &PageShape, sums: &mut [u8]) -> Result<(), WriteError> {
        let checkpoint = self.checkpoint;
        let mut page = vec![0; shape.bytes()];
        let experts = checkpoint.layers.iter().flat_map(|layer| match &layer.ffn {
            Ffn::Dense(_) => &[][..],
            Ffn::Moe { experts, .. } => experts,
        });
        for (expert, sums) in experts.zip(sums.as_chunks_mut::<16>().0) {
            let parts = ExpertParts::new(expert);
            let [woven, down] = parts.joints(shape);
            let mut losses = [Loss::default(); 3];
            self.piece(&mut page, &mut losses, |checkpoint, page, losses| {
                let (front, rest) = page.split_at_mut(shape.down_at());
                let (of_woven, of_down) = losses.split_at_mut(2);
                let whole = |joint: &Joint<'_>, into: &mut [u8], losses: &mut [Loss]| {
                    let rows = 0..joint.shape.tile_rows();
                    joint.encode(&checkpoint.files, rows, into, losses)
                };
                whole(&woven, &mut front[..shape.gate_up.bytes()], of_woven)?;
                whole(&down, &mut rest[..shape.down.bytes()], of_down)?;
                Ok(())
            })?;
            let (front, rest) = page.split_at(shape.down_at());
            sums[..8].copy_from_slice(&page_checksum(front).to_le_bytes());
            sums[8..].copy_from_slice(&page_checksum(rest).to_le_bytes());
            self.report.add(Class::Experts, &woven, &losses[..2]);
            self.report.add(Class::Experts, &down, &losses[2..]);
        }
        Ok(())
    }

    fn floats(&mut self, extent: &Extent, part: &Part) -> Result<(), WriteError> {
        self.arranged(extent, part, |numbers| numbers)
    }

    /// (hidden, conv_width) in the source, (conv_width, hidden) in the image.
    fn taps(&mut self, extent: &Extent, part: &Part) -> Result<(), WriteError> {
        self.arranged(extent, part, |numbers| {
            let mut turned = Vec::with_capacity(numbers.len());
            for tap in 0..part.cols {
                turned.extend(numbers.iter().skip(tap).step_by(part.cols));
            }
            turned
        })
    }

    /// (experts, hidden) in the source, `[tile row][column][16]` in the image.
    fn router(&mut self, extent: &Extent, part: &Part) -> Result<(), WriteError> {
        self.arranged(extent, part, |numbers| {
            let mut tiles = vec![0.0; align_up(part.rows, TILE_ROWS) * part.cols];
            for (row, weights) in numbers.chunks_exact(part.cols).enumerate() {
                let tile = row / TILE_ROWS * TILE_ROWS * part.cols;
                for (col, &weight) in weights.iter().enumerate() {
                    tiles[tile + col * TILE_ROWS + row % TILE_ROWS] = weight;
                }
            }
            tiles
        })
    }

    /// Writes the numbers of a part in another order.
    fn arranged(
        &mut self,
        extent: &Extent,
        part: &Part,
        arrange: impl FnOnce(Vec<f32>) -> Vec<f32>,
    ) -> Result<(), WriteError> {
        self.out.place(extent.start)?;
        let mut bytes = vec![0; extent.len()];
        self.piece(&mut bytes, &mut [], |checkpoint, bytes, _| {
            let numbers = arrange(numbers(&checkpoint.files, part)?);
            debug_assert_eq!(bytes.len(), numbers.len() * 4);
            for (bytes, number) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(numbers) {
                *bytes = number.to_le_bytes();
            }
            Ok(())
        })
    }
}

/// The file as it grows.
struct Output<'w, W> {
    inner: &'w mut W,
    at: u64,
    /// Where the section under way starts.
    start: u64,
    /// Of the section under way.
    hash: Xxh3Default,
    progress: &'w dyn Progress,
}

impl<W: Write + Seek> Output<'_, W> {
    fn begin(&mut self, header: &Header, section: Section) -> Result<(), WriteError> {
        self.start = header.span(section).offset;
        self.pad_to(self.start)?;
        self.hash.reset();
        Ok(())
    }

    fn end(&mut self, header: &mut Header, section: Section) -> Result<(), WriteError> {
        let span = &mut header.spans[section as usize];
        self.pad_to(span.end())?;
        span.checksum = self.hash.digest();
        Ok(())
    }

    /// Goes on at this place of the section.
    fn place(&mut self, offset: usize) -> Result<(), WriteError> {
        self.pad_to(self.start + offset as u64)
    }

    fn pad_to(&mut self, offset: u64) -> Result<(), WriteError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        debug_assert!(offset >= self.at);
        while self.at < offset {
            let step = (offset - self.at).min(ZEROS.len() as u64);
            self.put(&ZEROS[..step as usize])?;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.inner.write_all(bytes)?;
        self.count(bytes);
        go_on(self.progress.advance(bytes.len() as u64))
    }

    /// Goes on after bytes that are in the file already.
    fn pass(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.inner.seek_relative(bytes.len() as i64)?;
        self.count(bytes);
        go_on(self.progress.pass(bytes.len() as u64))
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
    }
}

fn go_on(flow: ControlFlow<()>) -> Result<(), WriteError> {
    if flow.is_break() { Err(WriteError::Cancelled) } else { Ok(()) }
}
