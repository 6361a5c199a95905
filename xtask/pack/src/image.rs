//! Writes the sections of an image in one pass over the source. Only the page checksums and the
//! header, which are known last, are filled in afterwards.

use std::io::{self, Seek, SeekFrom, Write};

use rill::image::layout::{TILE_ROWS, align_up};
use rill::image::{
    FfnTensors, HEADER_BYTES, Header, LayerTensors, Manifest, Matrix, MixerTensors, PageShape,
    Place, Resident, Section, checksum, page_checksum, page_shape,
};
use xxhash_rust::xxh3::Xxh3Default;

use crate::checkpoint::{Checkpoint, Ffn, Layer, Mixer, Part, Swiglu};
use crate::matrix::{Joint, Loss, MatrixError, Weave};
use crate::options::Progress;
use crate::summary::{Class, Report};

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

/// The header, without checksums, of an image with a manifest and tokenizer of these lengths.
pub fn lay_out(manifest: &Manifest, manifest_len: usize, tokenizer_len: usize) -> Header {
    let (_, resident_len) = Resident::of(manifest, |_, _| {});
    let page_len = page_shape(manifest).map_or(0, |shape| shape.bytes());
    let pages = manifest.pages();
    let lens = [manifest_len, tokenizer_len, resident_len, pages * 16, pages * page_len];
    Header::new(lens.map(|len| len as u64), page_len as u64)
}

/// Writes an image from the start of `out`, all of it, and returns its header and what became of
/// each tensor.
pub fn write<W: Write + Seek>(
    out: &mut W,
    checkpoint: &Checkpoint,
    manifest: &Manifest,
    tokenizer: &[u8],
    progress: &dyn Progress,
) -> Result<(Header, Report), WriteError> {
    let mut buffer = [0; MANIFEST_MOST];
    let encoded = manifest.encode(&mut buffer)?;
    let mut layers = Vec::new();
    let (top, _) = Resident::of(manifest, |_, tensors| layers.push(tensors));
    let mut header = lay_out(manifest, encoded.len(), tokenizer.len());
    progress.start(header.file_len);
    let out = Output { inner: out, at: 0, start: 0, hash: Xxh3Default::new(), progress };
    let mut packer = Packer { out, checkpoint, report: Report::default() };

    packer.out.put(&[0; HEADER_BYTES])?;
    packer.out.begin(&header, Section::Manifest)?;
    packer.out.put(encoded)?;
    packer.out.end(&mut header, Section::Manifest)?;
    packer.out.begin(&header, Section::Tokenizer)?;
    packer.out.put(tokenizer)?;
    packer.out.end(&mut header, Section::Tokenizer)?;
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

struct Packer<'w, W> {
    out: Output<'w, W>,
    checkpoint: &'w Checkpoint,
    report: Report,
}

impl<W: Write> Packer<'_, W> {
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
                    None => self.put_floats(bias, &vec![0.0; bias.len() / 4]),
                }
            }
            _ => unreachable!("the manifest was made from this checkpoint"),
        }
    }

    fn dense(&mut self, matrix: &Matrix, parts: &[&Part], weave: Weave) -> Result<(), WriteError> {
        self.matrix(matrix, parts, weave, Class::Dense)
    }

    /// Writes a matrix of the resident section, a chunk of tile rows at a time.
    fn matrix(
        &mut self,
        matrix: &Matrix,
        parts: &[&Part],
        weave: Weave,
        class: Class,
    ) -> Result<(), WriteError> {
        self.out.place(matrix.place.start)?;
        let joint = Joint { parts, weave, shape: matrix.shape };
        let width = matrix.shape.format.tile_row_bytes(matrix.shape.blocks());
        let rows = matrix.shape.tile_rows();
        let step = (CHUNK / width).max(1);
        let mut losses = vec![Loss::default(); parts.len()];
        let mut bytes = Vec::new();
        for first in (0..rows).step_by(step) {
            let tile_rows = first..rows.min(first + step);
            bytes.resize(tile_rows.len() * width, 0);
            joint.encode(&self.checkpoint.files, tile_rows, &mut bytes, &mut losses)?;
            self.out.put(&bytes)?;
        }
        self.report.add(class, &joint, &losses);
        Ok(())
    }

    /// Writes every page, and its two checksums into `sums`.
    fn pages(&mut self, shape: &PageShape, sums: &mut [u8]) -> Result<(), WriteError> {
        let checkpoint = self.checkpoint;
        let mut page = vec![0; shape.bytes()];
        let (front, rest) = page.split_at_mut(shape.down_at());
        let experts = checkpoint.layers.iter().flat_map(|layer| match &layer.ffn {
            Ffn::Dense(_) => &[][..],
            Ffn::Moe { experts, .. } => experts,
        });
        for (expert, sums) in experts.zip(sums.as_chunks_mut::<16>().0) {
            let [gate, up] = &expert.gate_up;
            let woven =
                Joint { parts: &[gate, up], weave: Weave::Interleave, shape: shape.gate_up };
            let down = Joint { parts: &[&expert.down], weave: Weave::Stack, shape: shape.down };
            self.whole(&woven, &mut front[..shape.gate_up.bytes()])?;
            self.whole(&down, &mut rest[..shape.down.bytes()])?;
            sums[..8].copy_from_slice(&page_checksum(front).to_le_bytes());
            sums[8..].copy_from_slice(&page_checksum(rest).to_le_bytes());
            self.out.put(front)?;
            self.out.put(rest)?;
        }
        Ok(())
    }

    /// Makes a whole matrix of a page.
    fn whole(&mut self, joint: &Joint<'_>, into: &mut [u8]) -> Result<(), WriteError> {
        let mut losses = vec![Loss::default(); joint.parts.len()];
        joint.encode(&self.checkpoint.files, 0..joint.shape.tile_rows(), into, &mut losses)?;
        self.report.add(Class::Experts, joint, &losses);
        Ok(())
    }

    /// The numbers of a part, row by row.
    fn numbers(&self, part: &Part) -> Result<Vec<f32>, WriteError> {
        let mut bytes = Vec::new();
        let files = &self.checkpoint.files;
        files.read(part, 0..part.rows, &mut bytes).map_err(MatrixError::from)?;
        let mut numbers = vec![0.0; part.rows * part.cols];
        part.stored.dequantise(&bytes, &mut numbers);
        if numbers.iter().any(|x| !x.is_finite()) {
            return Err(MatrixError::Weight(part.name.clone()).into());
        }
        Ok(numbers)
    }

    fn floats(&mut self, place: &Place, part: &Part) -> Result<(), WriteError> {
        let numbers = self.numbers(part)?;
        self.put_floats(place, &numbers)
    }

    /// (hidden, conv_width) in the source, (conv_width, hidden) in the image.
    fn taps(&mut self, place: &Place, part: &Part) -> Result<(), WriteError> {
        let numbers = self.numbers(part)?;
        let mut turned = Vec::with_capacity(numbers.len());
        for tap in 0..part.cols {
            turned.extend(numbers.iter().skip(tap).step_by(part.cols));
        }
        self.put_floats(place, &turned)
    }

    /// (experts, hidden) in the source, `[tile row][column][16]` in the image.
    fn router(&mut self, place: &Place, part: &Part) -> Result<(), WriteError> {
        let numbers = self.numbers(part)?;
        let mut tiles = vec![0.0; align_up(part.rows, TILE_ROWS) * part.cols];
        for (row, weights) in numbers.chunks_exact(part.cols).enumerate() {
            let tile = row / TILE_ROWS * TILE_ROWS * part.cols;
            for (col, &weight) in weights.iter().enumerate() {
                tiles[tile + col * TILE_ROWS + row % TILE_ROWS] = weight;
            }
        }
        self.put_floats(place, &tiles)
    }

    fn put_floats(&mut self, place: &Place, numbers: &[f32]) -> Result<(), WriteError> {
        debug_assert_eq!(place.len(), numbers.len() * 4);
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.out.place(place.start)?;
        self.out.put(&bytes)
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

impl<W: Write> Output<'_, W> {
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
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
        if self.progress.advance(bytes.len() as u64).is_break() {
            return Err(WriteError::Cancelled);
        }
        Ok(())
    }
}
