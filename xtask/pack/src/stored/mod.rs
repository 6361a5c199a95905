//! How source checkpoints store weights, and what each encoding means as numbers.
//!
//! The block formats are those of ggml; their layout is documented at
//! <https://github.com/ggml-org/llama.cpp/wiki/Tensor-Encoding-Schemes> and by the reference
//! decoder of the Python package `gguf`, against whose output the tests hold this module.
//!
//! In reading order: `short` decodes blocks of a scale and up to 64 integers, `long` those of 256
//! integers that share scales of scales, `grid` those of 256 whose integers are entries of tables;
//! `names` calls by name what cannot be read.

mod grid;
mod long;
mod names;
mod short;

use half::{bf16, f16};

pub use self::names::ggml_name;
pub use self::short::{q4_0, q8_0};

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
    /// 4 bits of exponent and 3 of mantissa, no infinities; a tensor beside it scales it.
    F8_E4M3,
    /// 32 signed nibbles (stored + 8) and an f16 scale.
    Q4_0,
    /// 32 nibbles, an f16 scale and an f16 minimum.
    Q4_1,
    /// 32 signed five-bit integers (stored + 16) and an f16 scale.
    Q5_0,
    /// 32 five-bit integers, an f16 scale and an f16 minimum.
    Q5_1,
    /// 32 signed bytes and an f16 scale.
    Q8_0,
    /// 256 two-bit integers, 16 4-bit scales and minima.
    Q2_K,
    /// 256 three-bit integers, 16 6-bit scales.
    Q3_K,
    /// 256 nibbles, 8 6-bit scales and minima.
    Q4_K,
    /// 256 five-bit integers, 8 6-bit scales and minima.
    Q5_K,
    /// 256 six-bit integers, 16 8-bit scales.
    Q6_K,
    /// 32 groups of 8 weights from a table of 2048, 8 3-bit scales and shifts.
    IQ1_S,
    /// As IQ1_S, with 16 scales and 32 shifts.
    IQ1_M,
    /// 32 groups of 8 magnitudes from a table of 256, their signs, 8 4-bit scales.
    IQ2_XXS,
    /// 32 groups of 8 magnitudes from a table of 512, their signs, 16 4-bit scales.
    IQ2_XS,
    /// 32 groups of 8 magnitudes from a table of 1024, all signs, 16 4-bit scales.
    IQ2_S,
    /// 64 groups of 4 magnitudes from a table of 256, their signs, 8 4-bit scales.
    IQ3_XXS,
    /// 64 groups of 4 magnitudes from a table of 512, all signs, 8 4-bit scales.
    IQ3_S,
    /// 32 of 16 uneven steps and an f16 scale.
    IQ4_NL,
    /// 256 of the steps of IQ4_NL, 8 6-bit scales.
    IQ4_XS,
    /// 256 ternary digits, five a byte, and an f16 scale.
    TQ1_0,
    /// 256 ternary digits, four a byte, and an f16 scale.
    TQ2_0,
    /// 32 4-bit floats and a power of two.
    MXFP4,
    /// 64 4-bit floats and 4 8-bit floats that scale them.
    NVFP4,
}

/// What is fixed for an encoding.
struct Traits {
    name: &'static str,
    /// `ggml_type` in GGUF.
    number: Option<u32>,
    /// Weights of a block.
    block: usize,
    /// Bytes of a block.
    bytes: usize,
}

impl Stored {
    /// Every encoding that can be read.
    pub const ALL: [Self; 27] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::F8_E4M3,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::IQ1_S,
        Self::IQ1_M,
        Self::IQ2_XXS,
        Self::IQ2_XS,
        Self::IQ2_S,
        Self::IQ3_XXS,
        Self::IQ3_S,
        Self::IQ4_NL,
        Self::IQ4_XS,
        Self::TQ1_0,
        Self::TQ2_0,
        Self::MXFP4,
        Self::NVFP4,
    ];

    const fn traits(self) -> Traits {
        let (name, number, block, bytes) = match self {
            Self::F32 => ("F32", Some(0), 1, 4),
            Self::F16 => ("F16", Some(1), 1, 2),
            Self::BF16 => ("BF16", Some(30), 1, 2),
            Self::F8_E4M3 => ("F8_E4M3", None, 1, 1),
            Self::Q4_0 => ("Q4_0", Some(2), 32, 18),
            Self::Q4_1 => ("Q4_1", Some(3), 32, 20),
            Self::Q5_0 => ("Q5_0", Some(6), 32, 22),
            Self::Q5_1 => ("Q5_1", Some(7), 32, 24),
            Self::Q8_0 => ("Q8_0", Some(8), 32, 34),
            Self::Q2_K => ("Q2_K", Some(10), 256, 84),
            Self::Q3_K => ("Q3_K", Some(11), 256, 110),
            Self::Q4_K => ("Q4_K", Some(12), 256, 144),
            Self::Q5_K => ("Q5_K", Some(13), 256, 176),
            Self::Q6_K => ("Q6_K", Some(14), 256, 210),
            Self::IQ1_S => ("IQ1_S", Some(19), 256, 50),
            Self::IQ1_M => ("IQ1_M", Some(29), 256, 56),
            Self::IQ2_XXS => ("IQ2_XXS", Some(16), 256, 66),
            Self::IQ2_XS => ("IQ2_XS", Some(17), 256, 74),
            Self::IQ2_S => ("IQ2_S", Some(22), 256, 82),
            Self::IQ3_XXS => ("IQ3_XXS", Some(18), 256, 98),
            Self::IQ3_S => ("IQ3_S", Some(21), 256, 110),
            Self::IQ4_NL => ("IQ4_NL", Some(20), 32, 18),
            Self::IQ4_XS => ("IQ4_XS", Some(23), 256, 136),
            Self::TQ1_0 => ("TQ1_0", Some(34), 256, 54),
            Self::TQ2_0 => ("TQ2_0", Some(35), 256, 66),
            Self::MXFP4 => ("MXFP4", Some(39), 32, 17),
            Self::NVFP4 => ("NVFP4", Some(40), 64, 36),
        };
        Traits { name, number, block, bytes }
    }

    /// The encoding with this number in GGUF.
    pub fn from_ggml(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|stored| stored.ggml_number() == Some(number))
    }

    /// Its number in GGUF (`ggml_type`), where it has one.
    pub const fn ggml_number(self) -> Option<u32> {
        self.traits().number
    }

    /// Its usual name.
    pub const fn name(self) -> &'static str {
        self.traits().name
    }

    /// Weights of one block.
    pub const fn block(self) -> usize {
        self.traits().block
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        self.traits().bytes
    }

    /// Whether its weights were rounded to a few bits when the file was made.
    pub const fn is_quantised(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::BF16)
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
            Self::F8_E4M3 => blocks.for_each(|(b, w)| w[0] = short::f8_e4m3(b[0])),
            Self::Q4_0 => blocks.for_each(|(b, w)| short::scaled(q4_0(b), w)),
            Self::Q4_1 => blocks.for_each(|(b, w)| short::q4_1(b, w)),
            Self::Q5_0 => blocks.for_each(|(b, w)| short::q5_0(b, w)),
            Self::Q5_1 => blocks.for_each(|(b, w)| short::q5_1(b, w)),
            Self::Q8_0 => blocks.for_each(|(b, w)| short::scaled(q8_0(b), w)),
            Self::Q2_K => blocks.for_each(|(b, w)| long::q2_k(b, w)),
            Self::Q3_K => blocks.for_each(|(b, w)| long::q3_k(b, w)),
            Self::Q4_K => blocks.for_each(|(b, w)| long::q4_k(b, w)),
            Self::Q5_K => blocks.for_each(|(b, w)| long::q5_k(b, w)),
            Self::Q6_K => blocks.for_each(|(b, w)| long::q6_k(b, w)),
            Self::IQ1_S => blocks.for_each(|(b, w)| grid::iq1_s(b, w)),
            Self::IQ1_M => blocks.for_each(|(b, w)| grid::iq1_m(b, w)),
            Self::IQ2_XXS => blocks.for_each(|(b, w)| grid::iq2_xxs(b, w)),
            Self::IQ2_XS => blocks.for_each(|(b, w)| grid::iq2_xs(b, w)),
            Self::IQ2_S => blocks.for_each(|(b, w)| grid::iq2_s(b, w)),
            Self::IQ3_XXS => blocks.for_each(|(b, w)| grid::iq3_xxs(b, w)),
            Self::IQ3_S => blocks.for_each(|(b, w)| grid::iq3_s(b, w)),
            Self::IQ4_NL => blocks.for_each(|(b, w)| short::iq4_nl(b, w)),
            Self::IQ4_XS => blocks.for_each(|(b, w)| long::iq4_xs(b, w)),
            Self::TQ1_0 => blocks.for_each(|(b, w)| long::tq1_0(b, w)),
            Self::TQ2_0 => blocks.for_each(|(b, w)| long::tq2_0(b, w)),
            Self::MXFP4 => blocks.for_each(|(b, w)| short::mxfp4(b, w)),
            Self::NVFP4 => blocks.for_each(|(b, w)| short::nvfp4(b, w)),
        }
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

fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(first(&block[at..]))
}

fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(first(&block[at..]))
}

/// Nibble `i` of many, the low one of a byte first.
fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 2] >> (4 * (i % 2)) & 15
}
