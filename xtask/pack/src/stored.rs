//! How source checkpoints store weights, and what each encoding means as numbers.
//!
//! The block formats are those of ggml; their layout is documented at
//! <https://github.com/ggml-org/llama.cpp/wiki/Tensor-Encoding-Schemes> and by the reference
//! decoder of the Python package `gguf`, against whose output the tests hold this file.

use half::{bf16, f16};

/// Weights that share scales in the K-quants.
const SUPER: usize = 256;

/// An encoding of weights in a source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(non_camel_case_types, reason = "ggml's own names")]
pub enum Stored {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    BF16,
    /// 32 signed nibbles (stored + 8) and an f16 scale.
    Q4_0,
    /// 32 signed bytes and an f16 scale.
    Q8_0,
    /// 256 nibbles, 8 6-bit scales and minima.
    Q4_K,
    /// 256 five-bit integers, 8 6-bit scales and minima.
    Q5_K,
    /// 256 six-bit integers, 16 8-bit scales.
    Q6_K,
}

impl Stored {
    /// Every encoding that can be read.
    pub const ALL: [Self; 8] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// The encoding with this number in GGUF.
    pub fn from_ggml(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|stored| stored.ggml_number() == number)
    }

    /// Its number in GGUF (`ggml_type`).
    pub const fn ggml_number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 8,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::BF16 => 30,
        }
    }

    /// Its usual name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q8_0 => "Q8_0",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
        }
    }

    /// Weights of one block.
    pub const fn block(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q8_0 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => SUPER,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q8_0 => 34,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// Bytes of a row of `cols` weights; `None` when they do not fill whole blocks or overflow.
    pub fn row_bytes(self, cols: u64) -> Option<u64> {
        let block = self.block() as u64;
        if !cols.is_multiple_of(block) {
            return None;
        }
        (cols / block).checked_mul(self.block_bytes() as u64)
    }

    /// Decodes whole blocks: `bytes` holds as many of them as fill `weights`.
    pub fn dequantise(self, bytes: &[u8], weights: &mut [f32]) {
        debug_assert_eq!(weights.len() / self.block() * self.block_bytes(), bytes.len());
        let blocks =
            bytes.chunks_exact(self.block_bytes()).zip(weights.chunks_exact_mut(self.block()));
        match self {
            Self::F32 => blocks.for_each(|(b, w)| w[0] = f32::from_le_bytes(first(b))),
            Self::F16 => blocks.for_each(|(b, w)| w[0] = half_at(b, 0)),
            Self::BF16 => blocks.for_each(|(b, w)| w[0] = bf16::from_le_bytes(first(b)).to_f32()),
            Self::Q4_0 => blocks.for_each(|(b, w)| scaled(q4_0(b), w)),
            Self::Q8_0 => blocks.for_each(|(b, w)| scaled(q8_0(b), w)),
            Self::Q4_K => blocks.for_each(|(b, w)| q4_k(b, w)),
            Self::Q5_K => blocks.for_each(|(b, w)| q5_k(b, w)),
            Self::Q6_K => blocks.for_each(|(b, w)| q6_k(b, w)),
        }
    }
}

/// The integers and the scale's bits of a Q4_0 block: the low nibbles are the first 16 weights.
pub fn q4_0(block: &[u8]) -> ([i8; 32], u16) {
    let mut quants = [0; 32];
    for (i, &byte) in block[2..18].iter().enumerate() {
        quants[i] = (byte & 15) as i8 - 8;
        quants[i + 16] = (byte >> 4) as i8 - 8;
    }
    (quants, u16::from_le_bytes(first(block)))
}

/// The integers and the scale's bits of a Q8_0 block.
pub fn q8_0(block: &[u8]) -> ([i8; 32], u16) {
    let mut quants = [0; 32];
    for (q, &byte) in quants.iter_mut().zip(&block[2..34]) {
        *q = byte as i8;
    }
    (quants, u16::from_le_bytes(first(block)))
}

fn scaled((quants, scale): ([i8; 32], u16), weights: &mut [f32]) {
    let scale = f16::from_bits(scale).to_f32();
    for (w, q) in weights.iter_mut().zip(quants) {
        *w = scale * f32::from(q);
    }
}

/// The first `N` bytes of a block, which has at least as many.
fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes(first(&block[at..])).to_f32()
}

/// Scale and minimum number `i` of the 8 that Q4_K and Q5_K pack into 12 bytes.
fn scale_min(packed: &[u8], i: usize) -> (f32, f32) {
    let (scale, min) = if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        (packed[i + 4] & 15 | packed[i - 4] >> 6 << 4, packed[i + 4] >> 4 | packed[i] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// d f16, dmin f16, 12 bytes of scales and minima, 128 bytes of nibbles.
fn q4_k(block: &[u8], weights: &mut [f32]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let nibbles = block[16..144].chunks_exact(32);
    for (i, (run, bytes)) in weights.chunks_exact_mut(64).zip(nibbles).enumerate() {
        for (part, w) in run.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_min(&block[4..16], 2 * i + part);
            for (w, byte) in w.iter_mut().zip(bytes) {
                *w = d * scale * f32::from(byte >> (4 * part) & 15) - dmin * min;
            }
        }
    }
}

/// As Q4_K, with 32 bytes of fifth bits before the nibbles.
fn q5_k(block: &[u8], weights: &mut [f32]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let fifths = &block[16..48];
    let nibbles = block[48..176].chunks_exact(32);
    for (i, (run, bytes)) in weights.chunks_exact_mut(64).zip(nibbles).enumerate() {
        for (part, w) in run.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_min(&block[4..16], 2 * i + part);
            for ((w, byte), fifth) in w.iter_mut().zip(bytes).zip(fifths) {
                let q = byte >> (4 * part) & 15 | (fifth >> (2 * i + part) & 1) << 4;
                *w = d * scale * f32::from(q) - dmin * min;
            }
        }
    }
}

/// 128 bytes of low nibbles, 64 bytes of upper pairs, 16 signed scales, d f16.
fn q6_k(block: &[u8], weights: &mut [f32]) {
    let d = half_at(block, 208);
    for (i, w) in weights.iter_mut().enumerate() {
        let (half, quarter, lane) = (i / 128, i % 128 / 32, i % 32);
        let low = block[64 * half + 32 * (quarter % 2) + lane] >> (4 * (quarter / 2)) & 15;
        let high = block[128 + 32 * half + lane] >> (2 * quarter) & 3;
        let scale = block[192 + i / 16] as i8;
        *w = d * f32::from(scale) * f32::from((low | high << 4) as i8 - 32);
    }
}
