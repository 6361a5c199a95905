//! What the tests share: an image taken apart, and small checkpoints made to measure.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod gguf_file;
pub mod hub_folder;
pub mod run;
pub mod tiny;
pub mod truth;

use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use rill::image::layout::{BLOCK, MatrixShape, TILE_ROWS, get_block};
use rill::image::{
    Extent, HeadTensors, Image, LayerTensors, MatrixExtent, PAGE_ALIGN, Resident, Section,
    checksum, page_checksum,
};
use rill::seams::RamDisk;

/// The kiosk model's folder.
pub fn kiosk() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/kiosk")
}

/// An image in RAM whose checksums are right.
pub struct Packed {
    pub bytes: Vec<u8>,
    pub image: Image,
    pub top: HeadTensors,
    pub layers: Vec<LayerTensors>,
}

impl Packed {
    pub fn open(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let mut scratch = vec![0; PAGE_ALIGN];
        let image = Image::open(&mut RamDisk::new(&bytes, 0), &mut scratch).unwrap();
        assert_eq!(bytes.len() as u64, image.header.file_len);
        let mut layers = Vec::new();
        let (top, _) = Resident::of(&image.manifest, |_, tensors| layers.push(tensors));
        let packed = Self { bytes, image, top, layers };
        for section in Section::ALL {
            let sum = packed.image.header.span(section).checksum;
            if section == Section::Pages {
                assert_eq!(sum, 0);
            } else {
                assert_eq!(sum, checksum(packed.section(section)), "{section:?}");
            }
        }
        for page in 0..packed.image.manifest.pages() {
            let at = packed.image.page_shape().unwrap().down_at();
            let (front, rest) = packed.page(page).split_at(at);
            let sums = &packed.section(Section::PageSums)[page * 16..][..16];
            assert_eq!(sums[..8], page_checksum(front).to_le_bytes());
            assert_eq!(sums[8..], page_checksum(rest).to_le_bytes());
        }
        packed
    }

    pub fn section(&self, section: Section) -> &[u8] {
        let span = self.image.header.span(section);
        &self.bytes[span.offset as usize..span.end() as usize]
    }

    pub fn page(&self, page: usize) -> &[u8] {
        let at = self.image.page_offset(page as u32) as usize;
        &self.bytes[at..at + self.image.header.page_len as usize]
    }

    /// A matrix of the resident section, row by row.
    pub fn matrix(&self, matrix: &MatrixExtent) -> Vec<Vec<f32>> {
        rows(matrix.shape, &self.section(Section::Resident)[matrix.extent.clone()])
    }

    pub fn floats(&self, extent: &Extent) -> Vec<f32> {
        let bytes = &self.section(Section::Resident)[extent.clone()];
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// Gate, up and down of a page, row by row, padding included.
    pub fn expert(&self, page: usize) -> [Vec<Vec<f32>>; 3] {
        let shape = self.image.page_shape().unwrap();
        let bytes = self.page(page);
        let [gate, up] = unwoven(rows(shape.gate_up, &bytes[..shape.gate_up.bytes()]));
        let down = rows(shape.down, &bytes[shape.down_at()..][..shape.down.bytes()]);
        [gate, up, down]
    }
}

/// All rows of a matrix, those of a padded last tile row included.
pub fn rows(shape: MatrixShape, bytes: &[u8]) -> Vec<Vec<f32>> {
    assert_eq!(bytes.len(), shape.bytes());
    let width = shape.format.tile_row_bytes(shape.blocks());
    let row = |tile: &[u8], lane| -> Vec<f32> {
        (0..shape.blocks())
            .flat_map(|block| {
                let (quants, scale) = get_block(shape.format, tile, lane, block);
                quants.map(|q| f32::from(q) * f16::from_bits(scale).to_f32())
            })
            .collect()
    };
    let tiles = bytes.chunks_exact(width);
    tiles.flat_map(|tile| (0..TILE_ROWS).map(move |lane| row(tile, lane))).collect()
}

/// Takes gate and up apart.
pub fn unwoven(rows: Vec<Vec<f32>>) -> [Vec<Vec<f32>>; 2] {
    assert!(rows.len().is_multiple_of(2 * BLOCK));
    let mut halves = [Vec::new(), Vec::new()];
    for (index, row) in rows.into_iter().enumerate() {
        halves[index / TILE_ROWS % 2].push(row);
    }
    halves
}

/// Asserts that `packed` holds `truth` (rows of `cols` weights) in its first rows and columns and
/// zeros elsewhere. Returns the relative RMS of the differences.
pub fn compare(name: &str, packed: &[Vec<f32>], truth: &[f32], cols: usize) -> f64 {
    let (mut error, mut power) = (0.0, 0.0);
    for (index, row) in packed.iter().enumerate() {
        let true_row = truth.get(index * cols..(index + 1) * cols).unwrap_or(&[]);
        for (col, &value) in row.iter().enumerate() {
            let truth = true_row.get(col).copied().unwrap_or(0.0);
            if true_row.is_empty() || col >= cols {
                assert_eq!(value, 0.0, "{name}: padding at row {index}, column {col}");
            }
            error += f64::from(value - truth).powi(2);
            power += f64::from(truth).powi(2);
        }
    }
    assert!(truth.len() <= packed.len() * cols, "{name}: rows are missing");
    if power > 0.0 { (error / power).sqrt() } else { 0.0 }
}
