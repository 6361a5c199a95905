//! An image of random weights in the shape of LFM2-8B-A1B at half its width: more bytes than the budgets
//! that are tested with it.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use rill::image::layout::{Format, TILE_ROWS};
use rill::image::{
    Extent, Ffn, FfnTensors, HEADER_BYTES, Header, Layer, LayerTensors, Manifest, MatrixExtent,
    Mixer, MixerTensors, Resident, Section, checksum, page_checksum, page_shape,
};

use crate::image::executorch::program::{read, section};

/// Layers of LFM2-8B-A1B; those with attention, and how many are dense.
const LAYERS: usize = 24;
const ATTENTION: [usize; 6] = [2, 6, 10, 14, 18, 21];
const DENSE: usize = 2;
/// A scale that keeps random weights from growing what goes through them: 2^-8 x 1.75, as f16.
const SCALE: u16 = 0x1f00;

/// Writes the image; returns its bytes.
pub fn write(to: &Path) -> Result<u64> {
    let model = crate::image::kiosk()?;
    let mut kiosk = File::open(model)?;
    let small = read(&mut kiosk)?;
    let [tokenizer, template] = [Section::Tokenizer, Section::Template]
        .map(|part| section(&mut kiosk, &small.header, part));
    let (tokenizer, template) = (tokenizer?, template?);
    let manifest = widened(small.manifest)?;
    let mut buffer = [0; 4 << 10];
    let encoded = manifest.encode(&mut buffer)?;
    let resident = resident(&manifest);
    let shape = page_shape(&manifest).context("it has experts")?;
    let pages = manifest.pages();
    let mut sums = Vec::with_capacity(pages * 16);
    let lens = [
        encoded.len(),
        tokenizer.len(),
        template.len(),
        resident.len(),
        pages * 16,
        pages * shape.bytes(),
    ];
    let mut header = Header::new(lens.map(|len| len as u64), shape.bytes() as u64);

    let mut out = BufWriter::with_capacity(1 << 20, File::create(to)?);
    let mut random = Random(1);
    let mut page = vec![0; shape.bytes()];
    out.seek(SeekFrom::Start(header.span(Section::Pages).offset))?;
    for _ in 0..pages {
        let down = shape.down_at();
        weights(&mut page[..shape.gate_up.bytes()], shape.gate_up.format, &mut random);
        weights(&mut page[down..][..shape.down.bytes()], shape.down.format, &mut random);
        for part in [&page[..down], &page[down..]] {
            sums.extend(page_checksum(part).to_le_bytes());
        }
        out.write_all(&page)?;
    }
    for (part, bytes) in [
        (Section::Manifest, encoded),
        (Section::Tokenizer, &tokenizer),
        (Section::Template, &template),
        (Section::Resident, &resident),
        (Section::PageSums, &sums),
    ] {
        header.spans[part as usize].checksum = checksum(bytes);
        out.seek(SeekFrom::Start(header.span(part).offset))?;
        out.write_all(bytes)?;
    }
    out.seek(SeekFrom::Start(0))?;
    debug_assert_eq!(header.to_bytes().len(), HEADER_BYTES);
    out.write_all(&header.to_bytes())?;
    out.into_inner().map_err(std::io::IntoInnerError::into_error)?.set_len(header.file_len)?;
    Ok(header.file_len)
}

/// The kiosk model's manifest with another shape.
fn widened(mut manifest: Manifest) -> Result<Manifest> {
    let shape = &mut manifest.shape;
    (shape.hidden, shape.heads, shape.kv_heads, shape.head_dim) = (1024, 16, 4, 64);
    (shape.dense_ff, shape.expert_ff, shape.experts, shape.top_k) = (3584, 896, 32, 4);
    let dense = Format::Q8;
    manifest.layers.clear();
    for layer in 0..LAYERS {
        let mixer = if ATTENTION.contains(&layer) {
            Mixer::Attention { qkv: dense, out_proj: dense }
        } else {
            Mixer::Conv { in_proj: dense, out_proj: dense }
        };
        let ffn = if layer < DENSE { Ffn::Dense { gate_up: dense, down: dense } } else { Ffn::Moe };
        manifest.layers.push(Layer { mixer, ffn }).ok().context("a model has so many layers")?;
    }
    manifest.page_gate_up = Format::Q4;
    manifest.page_down = Format::Q4;
    manifest.check()?;
    Ok(manifest)
}

/// The resident section.
fn resident(manifest: &Manifest) -> Vec<u8> {
    let mut layers = Vec::new();
    let (head, len) = Resident::of(manifest, |_, tensors| layers.push(tensors));
    let mut section = Filled { bytes: vec![0; len], random: Random(2) };
    section.matrix(&head.embedding);
    head.head.iter().for_each(|head| section.matrix(head));
    section.ones(&head.norm);
    for LayerTensors { operator_norm, mixer, ffn_norm, ffn } in &layers {
        section.ones(operator_norm);
        section.ones(ffn_norm);
        match mixer {
            MixerTensors::Conv { in_proj, taps, out_proj } => {
                section.matrix(in_proj);
                section.floats(taps);
                section.matrix(out_proj);
            }
            MixerTensors::Attention { qkv, q_norm, k_norm, out_proj } => {
                section.matrix(qkv);
                section.ones(q_norm);
                section.ones(k_norm);
                section.matrix(out_proj);
            }
        }
        match ffn {
            FfnTensors::Dense { gate_up, down } => {
                section.matrix(gate_up);
                section.matrix(down);
            }
            // Without a bias every expert is as likely as another.
            FfnTensors::Moe { router, .. } => section.floats(router),
        }
    }
    section.bytes
}

/// A section in the making.
struct Filled {
    bytes: Vec<u8>,
    random: Random,
}

impl Filled {
    fn matrix(&mut self, matrix: &MatrixExtent) {
        weights(&mut self.bytes[matrix.extent.clone()], matrix.shape.format, &mut self.random);
    }

    fn ones(&mut self, extent: &Extent) {
        for float in self.bytes[extent.clone()].as_chunks_mut::<4>().0 {
            *float = 1_f32.to_le_bytes();
        }
    }

    /// Between -1/8 and 1/8.
    fn floats(&mut self, extent: &Extent) {
        for float in self.bytes[extent.clone()].as_chunks_mut::<4>().0 {
            let unit = (self.random.next() >> 40) as f32 / (1 << 24) as f32;
            *float = ((unit - 0.5) / 4.0).to_le_bytes();
        }
    }
}

/// Fills the blocks of a matrix: random integers and one scale.
fn weights(bytes: &mut [u8], format: Format, random: &mut Random) {
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        let (quants, scales) = block.split_at_mut(format.quant_bytes());
        for word in quants.as_chunks_mut::<8>().0 {
            *word = random.next().to_le_bytes();
        }
        // The integers of 8 bits are 16 times as large as those of 4.
        let scale = match format {
            Format::Q4 => SCALE,
            Format::Q8 => SCALE - (4 << 10),
        };
        debug_assert_eq!(scales.len(), TILE_ROWS * 2);
        for place in scales.as_chunks_mut::<2>().0 {
            *place = scale.to_le_bytes();
        }
    }
}

/// Numbers in an order of their own: Marsaglia's xorshift64 (2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
