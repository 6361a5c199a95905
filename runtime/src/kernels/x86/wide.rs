//! The Q4 products of AVX2 and AVX-VNNI for three tokens and more, with their registers assigned
//! by hand.
//!
//! Six tokens of 16 rows are twelve sums, two vectors of weights, one of activations and, without
//! VNNI, one product: exactly the sixteen registers. A compiler that orders these steps itself
//! moves sums to memory and back: four tokens took AVX2 1.4 times as long
//! (`cargo bench -p rill -- q4_gate_up`).
//!
//! Plain activations: `vpmaddubsw` gives 16-bit sums of column pairs, each at most 2 x 15 x 127,
//! and a block's eight groups stay below 2^15; `vpdpbusd` adds four columns to a 32-bit sum. Fine
//! ones: `vpmaddwd` gives 32-bit sums of column pairs, which `vpdpwssd` adds as well.

use core::arch::asm;

use super::products::prefetch;
use crate::image::layout::{Format, TILE_ROWS};
use crate::kernels::panel::{FINE_WORDS, Quantised};

/// The least tokens; the most are 6.
pub const LEAST: usize = 3;

/// What the instructions need beside a block, aligned for their vectors.
#[repr(C, align(32))]
struct Constants {
    nibble_of_byte: [u8; 32],
    nibble_of_word: [u16; 16],
    ones: [i16; 16],
}

static CONSTANTS: Constants =
    Constants { nibble_of_byte: [15; 32], nibble_of_word: [15; 16], ones: [1; 16] };

/// Loads weights of quarter `$quarter` of a block into ymm12 (rows 0..8) and ymm13 (8..16); `$shift`
/// makes the wanted nibbles the low ones, the constant at `$mask` clears the others.
macro_rules! weights {
    ($quarter:literal, $($shift:literal)?, $($mask:literal)?) => {
        concat!(
            "vmovdqu ymm12, [{quants} + 64 * ", $quarter, "]\n",
            "vmovdqu ymm13, [{quants} + 64 * ", $quarter, " + 32]\n",
            $("vpsrlw ymm12, ymm12, ", $shift, "\nvpsrlw ymm13, ymm13, ", $shift, "\n",)?
            $(
                "vpand ymm12, ymm12, [{constants} + ", $mask, "]\n",
                "vpand ymm13, ymm13, [{constants} + ", $mask, "]\n",
            )?
        )
    };
}

/// Broadcasts a word of activations of a token to ymm14: `plain $group` or `fine $pair`, see
/// [`Panel`] and [`FinePanel`].
macro_rules! activations {
    (plain $pair:literal $half:literal, $token:literal) => {
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
    (fine $quarter:literal $pair:literal, $token:literal) => {
        concat!(
            "vpbroadcastd ymm14, [{words} + 4 * ((2 + 4 * ",
            $quarter,
            " + ",
            $pair,
            ") * {width} + ",
            $token,
            ")]\n",
        )
    };
}

/// The first products of a block become the sums of each token, in its two registers; an
/// instruction that adds its products itself adds them to the token's offset.
macro_rules! begin {
    (
        $kind:ident $at:literal $of:literal, ($multiply:literal $add:literal);
        $($token:literal $low:literal $high:literal)*
    ) => {
        concat!($(
            activations!($kind $at $of, $token),
            $multiply, " ymm", $low, ", ymm12, ymm14\n",
            $multiply, " ymm", $high, ", ymm13, ymm14\n",
        )*)
    };
    (
        $kind:ident $at:literal $of:literal, ($dot:literal);
        $($token:literal $low:literal $high:literal)*
    ) => {
        concat!(
            $(
                "vpbroadcastd ymm", $low, ", [{words} + 4 * {width} + 4 * ", $token, "]\n",
                "vmovdqa ymm", $high, ", ymm", $low, "\n",
            )*
            add!($kind $at $of, ($dot); $($token $low $high)*)
        )
    };
}

/// Adds more products.
macro_rules! add {
    (
        $kind:ident $at:literal $of:literal, ($multiply:literal $add:literal);
        $($token:literal $low:literal $high:literal)*
    ) => {
        concat!($(
            activations!($kind $at $of, $token),
            $multiply, " ymm15, ymm12, ymm14\n",
            $add, " ymm", $low, ", ymm", $low, ", ymm15\n",
            $multiply, " ymm14, ymm13, ymm14\n",
            $add, " ymm", $high, ", ymm", $high, ", ymm14\n",
        )*)
    };
    (
        $kind:ident $at:literal $of:literal, ($dot:literal);
        $($token:literal $low:literal $high:literal)*
    ) => {
        concat!($(
            activations!($kind $at $of, $token),
            $dot, " ymm", $low, ", ymm12, ymm14\n",
            $dot, " ymm", $high, ", ymm13, ymm14\n",
        )*)
    };
}

/// Makes each token's 16-bit sums 32-bit ones.
macro_rules! widen {
    ($($token:literal $low:literal $high:literal)*) => {
        concat!($(
            "vpmaddwd ymm", $low, ", ymm", $low, ", [{constants} + 64]\n",
            "vpmaddwd ymm", $high, ", ymm", $high, ", [{constants} + 64]\n",
        )*)
    };
}

/// Adds each token's offset to its sums.
macro_rules! offsets {
    ($($token:literal $low:literal $high:literal)*) => {
        concat!($(
            "vpbroadcastd ymm15, [{words} + 4 * {width} + 4 * ", $token, "]\n",
            "vpaddd ymm", $low, ", ymm", $low, ", ymm15\n",
            "vpaddd ymm", $high, ", ymm", $high, ", ymm15\n",
        )*)
    };
}

/// Adds the block to the results: their scales are in ymm12 and ymm13.
macro_rules! finish {
    ($($token:literal $low:literal $high:literal)*) => {
        concat!(
            "vcvtph2ps ymm12, [{quants} + 256]\n",
            "vcvtph2ps ymm13, [{quants} + 272]\n",
            $(
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

/// The products of a plain block, which `$step` multiplies and adds up.
macro_rules! plain_products {
    ($step:tt; $($tokens:literal)*) => {
        concat!(
            plain_products!(@quarter 0, begin, $step; $($tokens)*),
            plain_products!(@quarter 1, add, $step; $($tokens)*),
            plain_products!(@quarter 2, add, $step; $($tokens)*),
            plain_products!(@quarter 3, add, $step; $($tokens)*),
        )
    };
    (@quarter $quarter:literal, $first:ident, $step:tt; $($tokens:literal)*) => {
        concat!(
            weights!($quarter, , 0),
            $first!(plain $quarter 0, $step; $($tokens)*),
            weights!($quarter, 4, 0),
            add!(plain $quarter 1, $step; $($tokens)*),
        )
    };
}

/// The products of a fine block, as `plain_products`.
macro_rules! fine_products {
    ($step:tt; $($tokens:literal)*) => {
        concat!(
            fine_products!(@quarter 0, begin, $step; $($tokens)*),
            fine_products!(@quarter 1, add, $step; $($tokens)*),
            fine_products!(@quarter 2, add, $step; $($tokens)*),
            fine_products!(@quarter 3, add, $step; $($tokens)*),
        )
    };
    (@quarter $quarter:literal, $first:ident, $step:tt; $($tokens:literal)*) => {
        concat!(
            weights!($quarter, , 32),
            $first!(fine $quarter 0, $step; $($tokens)*),
            weights!($quarter, 8, 32),
            add!(fine $quarter 1, $step; $($tokens)*),
            weights!($quarter, 4, 32),
            add!(fine $quarter 2, $step; $($tokens)*),
            weights!($quarter, 12, ),
            add!(fine $quarter 3, $step; $($tokens)*),
        )
    };
}

/// AVX2's sums of a plain block.
macro_rules! plain_avx2 {
    ($($tokens:literal)*) => {
        concat!(
            plain_products!(("vpmaddubsw" "vpaddw"); $($tokens)*),
            widen!($($tokens)*),
            offsets!($($tokens)*),
        )
    };
}

/// AVX2's sums of a fine block.
macro_rules! fine_avx2 {
    ($($tokens:literal)*) => {
        concat!(fine_products!(("vpmaddwd" "vpaddd"); $($tokens)*), offsets!($($tokens)*))
    };
}

/// AVX-VNNI's sums of a plain block.
macro_rules! plain_avxvnni {
    ($($tokens:literal)*) => { plain_products!(("{{vex}} vpdpbusd"); $($tokens)*) };
}

/// AVX-VNNI's sums of a fine block.
macro_rules! fine_avxvnni {
    ($($tokens:literal)*) => { fine_products!(("{{vex}} vpdpwssd"); $($tokens)*) };
}

/// One block of a tile row for as many tokens as there are lines of a token and its two registers,
/// whose sums `$sums` makes.
macro_rules! block {
    ($sums:ident, $quants:expr, $words:expr, $y:expr, $width:literal, $($tokens:literal)*) => {
        // SAFETY: it reads the block's weights and scales, the panel's words of the block and the
        // constants, adds to `$width` x 16 results and touches nothing else but the registers
        // named here; the caller has the features and gives slices of these lengths.
        unsafe {
            asm!(
                $sums!($($tokens)*),
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

/// Defines the products for 3 to 6 tokens whose sums `$plain` and, of fine activations, `$fine` make.
macro_rules! product {
    ($name:ident, $features:literal, $plain:ident, $fine:ident) => {
        /// See [`Kernels::matmul`](crate::kernels::Kernels::matmul): 3 to 6 tokens; the caller has
        /// checked the lengths.
        #[target_feature(enable = $features)]
        pub fn $name<const WORDS: usize>(w: &[u8], x: Quantised<'_, WORDS>, y: &mut [f32]) {
            let tile_rows = w.chunks_exact(Format::Q4.tile_row_bytes(x.blocks()));
            for (w, y) in tile_rows.zip(y.chunks_exact_mut(x.width() * TILE_ROWS)) {
                y.fill(0.0);
                let words = x.words().chunks_exact(x.width() * WORDS);
                for (w, words) in w.chunks_exact(Format::Q4.block_bytes()).zip(words) {
                    prefetch(w, w.len());
                    if WORDS == FINE_WORDS {
                        blocks!($fine, w, words, y, x.width());
                    } else {
                        blocks!($plain, w, words, y, x.width());
                    }
                }
            }
        }
    };
}

/// One block for `$width` tokens.
macro_rules! blocks {
    ($sums:ident, $w:ident, $words:ident, $y:ident, $width:expr) => {
        match $width {
            3 => block!($sums, $w, $words, $y, 3, 0 0 1  1 2 3  2 4 5),
            4 => block!($sums, $w, $words, $y, 4, 0 0 1  1 2 3  2 4 5  3 6 7),
            5 => block!($sums, $w, $words, $y, 5, 0 0 1  1 2 3  2 4 5  3 6 7  4 8 9),
            6 => block!(
                $sums, $w, $words, $y, 6,
                0 0 1  1 2 3  2 4 5  3 6 7  4 8 9  5 10 11
            ),
            width => unreachable!("width {width} was checked"),
        }
    };
}

product!(avx2, "avx2,fma,f16c", plain_avx2, fine_avx2);
product!(avxvnni, "avxvnni,avx2,fma,f16c", plain_avxvnni, fine_avxvnni);
