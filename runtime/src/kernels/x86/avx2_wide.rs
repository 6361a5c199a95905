//! The Q4 product of AVX2 for three tokens and more, with its registers assigned by hand.
//!
//! Six tokens of 16 rows are twelve sums, two vectors of weights, one of activations and one
//! product: exactly the sixteen registers. A compiler that orders these steps itself moves sums to
//! memory and back: four tokens took it 1.4 times as long (`cargo bench -p rill -- q4_gate_up`).

use core::arch::asm;

use super::products::{PREFETCH_BYTES, prefetch};
use crate::image::layout::{Format, TILE_ROWS};
use crate::kernels::panel::{BLOCK_WORDS, Panel};

/// What the instructions need beside a block, aligned for their vectors.
#[repr(C, align(32))]
struct Constants {
    nibble: [u8; 32],
    ones: [i16; 16],
}

static CONSTANTS: Constants = Constants { nibble: [15; 32], ones: [1; 16] };

/// Loads the weights of pair `$pair` of groups into ymm12 (rows 0..8) and ymm13 (8..16); `$shift`
/// is what makes the nibbles of the wanted group the low ones.
macro_rules! weights {
    ($pair:literal, $($shift:literal)?) => {
        concat!(
            "vmovdqu ymm12, [{quants} + 64 * ", $pair, "]\n",
            "vmovdqu ymm13, [{quants} + 64 * ", $pair, " + 32]\n",
            $("vpsrlw ymm12, ymm12, ", $shift, "\nvpsrlw ymm13, ymm13, ", $shift, "\n",)?
            "vpand ymm12, ymm12, [{constants}]\n",
            "vpand ymm13, ymm13, [{constants}]\n",
        )
    };
}

/// Broadcasts half `$half` of pair `$pair` of token `$token` (see [`Panel`]) to ymm14.
macro_rules! activations {
    ($pair:literal, $half:literal, $token:literal) => {
        concat!(
            "vpbroadcastd ymm14, [{words} + 8 * ({width} + ",
            $pair,
            " * {width} + ",
            $token,
            ") + 4 * ",
            $half,
            "]\n",
        )
    };
}

/// The first products of a block: the 16-bit sums of column pairs of each token, in its two
/// registers.
macro_rules! begin {
    ($($token:literal $low:literal $high:literal)*) => {
        concat!(
            weights!(0,),
            $(
                activations!(0, 0, $token),
                "vpmaddubsw ymm", $low, ", ymm12, ymm14\n",
                "vpmaddubsw ymm", $high, ", ymm13, ymm14\n",
            )*
        )
    };
}

/// Adds the products of another group. A pair is at most 2 x 15 x 127, and a block's eight groups
/// stay below 2^15.
macro_rules! add {
    (
        $pair:literal, $half:literal, $($shift:literal)?;
        $($token:literal $low:literal $high:literal)*
    ) => {
        concat!(
            weights!($pair, $($shift)?),
            $(
                activations!($pair, $half, $token),
                "vpmaddubsw ymm15, ymm12, ymm14\n",
                "vpaddw ymm", $low, ", ymm", $low, ", ymm15\n",
                "vpmaddubsw ymm14, ymm13, ymm14\n",
                "vpaddw ymm", $high, ", ymm", $high, ", ymm14\n",
            )*
        )
    };
}

/// Adds the block to the results: their scales are in ymm12 and ymm13.
macro_rules! finish {
    ($($token:literal $low:literal $high:literal)*) => {
        concat!(
            "vcvtph2ps ymm12, [{quants} + 256]\n",
            "vcvtph2ps ymm13, [{quants} + 272]\n",
            $(
                "vpbroadcastd ymm15, [{words} + 4 * {width} + 4 * ", $token, "]\n",
                "vpmaddwd ymm", $low, ", ymm", $low, ", [{constants} + 32]\n",
                "vpmaddwd ymm", $high, ", ymm", $high, ", [{constants} + 32]\n",
                "vpaddd ymm", $low, ", ymm", $low, ", ymm15\n",
                "vpaddd ymm", $high, ", ymm", $high, ", ymm15\n",
                "vbroadcastss ymm14, [{words} + 4 * ", $token, "]\n",
                "vcvtdq2ps ymm", $low, ", ymm", $low, "\n",
                "vcvtdq2ps ymm", $high, ", ymm", $high, "\n",
                "vmulps ymm15, ymm12, ymm14\n",
                "vmulps ymm14, ymm13, ymm14\n",
                "vfmadd213ps ymm", $low, ", ymm15, [{y} + 64 * ", $token, "]\n",
                "vfmadd213ps ymm", $high, ", ymm14, [{y} + 64 * ", $token, " + 32]\n",
                "vmovups [{y} + 64 * ", $token, "], ymm", $low, "\n",
                "vmovups [{y} + 64 * ", $token, " + 32], ymm", $high, "\n",
            )*
        )
    };
}

/// One block of a tile row for as many tokens as there are lines of a token and its two registers.
macro_rules! block {
    ($quants:expr, $words:expr, $y:expr, $width:literal, $($tokens:literal)*) => {
        // SAFETY: it reads the block's weights and scales, the panel's words of the block and the
        // constants, adds to `$width` x 16 results and touches nothing else but the registers
        // named here; the caller has the features and gives slices of these lengths.
        unsafe {
            asm!(
                begin!($($tokens)*),
                add!(0, 1, 4; $($tokens)*),
                add!(1, 0, ; $($tokens)*),
                add!(1, 1, 4; $($tokens)*),
                add!(2, 0, ; $($tokens)*),
                add!(2, 1, 4; $($tokens)*),
                add!(3, 0, ; $($tokens)*),
                add!(3, 1, 4; $($tokens)*),
                finish!($($tokens)*),
                quants = in(reg) $quants.as_ptr(),
                words = in(reg) $words.as_ptr(),
                y = in(reg) $y.as_mut_ptr(),
                constants = in(reg) &raw const CONSTANTS,
                width = const $width,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                options(nostack, preserves_flags),
            );
        }
    };
}

/// See [`Kernels::matmul`](crate::kernels::Kernels::matmul): 3 to 6 tokens; the caller has checked
/// the lengths.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn matmul_q4(w: &[u8], x: Panel<'_>, y: &mut [f32]) {
    let row_bytes = Format::Q4.tile_row_bytes(x.blocks());
    let tile_rows = w.chunks_exact(row_bytes);
    for (w, y) in tile_rows.zip(y.chunks_exact_mut(x.width() * TILE_ROWS)) {
        y.fill(0.0);
        let words = x.words().chunks_exact(x.width() * BLOCK_WORDS);
        for (w, words) in w.chunks_exact(Format::Q4.block_bytes()).zip(words) {
            prefetch(w, PREFETCH_BYTES, w.len());
            match x.width() {
                3 => block!(w, words, y, 3, 0 0 1  1 2 3  2 4 5),
                4 => block!(w, words, y, 4, 0 0 1  1 2 3  2 4 5  3 6 7),
                5 => block!(w, words, y, 5, 0 0 1  1 2 3  2 4 5  3 6 7  4 8 9),
                6 => block!(w, words, y, 6, 0 0 1  1 2 3  2 4 5  3 6 7  4 8 9  5 10 11),
                width => unreachable!("width {width} was checked"),
            }
        }
    }
}
