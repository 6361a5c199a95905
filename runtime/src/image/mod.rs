//! The image: one file that holds a model, ready to run.
//!
//! ```text
//! offset 0        header          256 bytes, see below
//! 16 KiB aligned  manifest        postcard of `Manifest`
//! 16 KiB aligned  tokenizer       tables, see `tokenizer::tables`
//! 16 KiB aligned  template        the checkpoint's own chat template, see `ChatTemplate`; may be empty
//! 16 KiB aligned  resident        the always-used tensors, in the order of `Resident::of`
//! 16 KiB aligned  page sums       for each page two u64: checksum of the bytes before down, of the rest
//! 16 KiB aligned  pages           one per expert of every MoE layer, each a multiple of 16 KiB
//! ```
//!
//! The header, all integers little-endian:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | magic `RILL\r\n\x1a\n`: a transfer in text mode breaks it visibly |
//! | 8 | 4 | version of the format |
//! | 12 | 4 | weight layout: 1 = tiles of 16 x 32, see [`layout`] |
//! | 16 | 8 | length of the whole file |
//! | 24 | 6 x 24 | for manifest, tokenizer, template, resident, page sums, pages: offset, length, checksum |
//! | 168 | 8 | bytes of a page (0 when there are none) |
//! | 176 | 8 | checksum of the bytes before |
//! | 184 | 72 | zero |
//!
//! Checksums are XXH3-64, those of the pages' parts of chunks: see [`page_checksum`]. The pages' own
//! entry has checksum 0: each page is checked as it is read.
//! Sections follow each other in this order without overlap; the gaps between them are zero.
//!
//! A page is the gate-up matrix, zeros up to [`PageShape::down_at`], the down matrix, then zeros up
//! to a multiple of 16 KiB. Pages lie bank by bank, expert by expert.

mod checksum;
pub mod layout;
mod manifest;
mod template;
mod view;

pub use checksum::{
    SUM_CHUNK, checksum, join_sums, page_checksum, page_checksum_on, sum_chunk, sum_chunks,
};
pub use manifest::{
    Chat, Earlier, Ffn, Layer, MAX_EXPERTS, MAX_LAYERS, MAX_STOPS, MAX_TOP_K, Manifest,
    ManifestError, Mixer, Sampling, Shape, Template, Thinking,
};
pub use template::{ChatTemplate, TEMPLATE_MAX};
pub use view::{
    Extent, FORMAT_VERSION, FfnTensors, HEADER_BYTES, HeadTensors, Header, Image, ImageError,
    LAYOUT_TILES_16X32, LayerTensors, MAGIC, MatrixExtent, MixerTensors, PAGE_ALIGN, PageShape,
    Resident, SECTIONS, SPLIT_ALIGN, Section, Span, page_shape,
};
