//! The products of quantised weights and activations, for any vector of 16.

use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use crate::image::layout::Format;

/// How far ahead of the sums the weights are fetched: the distance that reads fastest. The CPU's
/// own prefetcher stops at each 4 KiB page.
const PREFETCH_BYTES: usize = 8192;

/// The format that the parameter of the products stands for.
pub const fn format<const Q8: bool>() -> Format {
    if Q8 { Format::Q8 } else { Format::Q4 }
}

/// Fetches what lies `PREFETCH_BYTES` after a block of `bytes` bytes that starts as `block` does
/// into the first cache: into the second alone, AVX-512 reads a sixth less with one thread.
#[inline(always)]
pub fn prefetch(block: &[u8], bytes: usize) {
    for line in (0..bytes).step_by(64) {
        let ahead = block.as_ptr().wrapping_add(PREFETCH_BYTES + line);
        // SAFETY: a prefetch touches no memory that the program can see and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead.cast()) };
    }
}

/// Defines `matmul_q4` and `matmul_q8` of a table for `$features` and widths `$widths`, and the
/// same of fine activations, over these items of the place of use:
///
/// - the vectors of `float_kernels`;
/// - `unpack`, a quarter of a block's weights as the integers of two groups of 4 columns;
/// - `start`, the integer sums of 16 rows, which may begin with a token's offset; `step`, which
///   adds the product with a group; `finish`, which converts them to floats, and may add the
///   offset;
/// - `unpack_fine`, a quarter of a block's weights as signed or stored 16-bit integers, four pairs
///   as a [`FinePanel`] has them; `start_fine`, `step_fine`, `finish_fine`, as above.
///
/// `Q8` tells the formats apart: these functions are chosen at compile time.
///
/// After `but`, a table may name functions of `wide`, with the arguments of `matmul_q4` and
/// `matmul_fine_q4`, that take the widths after its own `q4`.
macro_rules! product_kernels {
    ($features:literal, $($width:literal)*) => {
        product_kernels!($features, $($width)*, but q4 $($width)* then unreachable, unreachable);
    };
    (
        $features:literal, $($width:literal)*,
        but q4 $($q4_width:literal)* then $wider:ident, $wider_fine:ident
    ) => {
        /// Most tokens at once.
        pub const WIDTH: usize = [$($width),*].len();

        product_kernels!(
            matmul_q4, Panel, BLOCK_WORDS, false, $features, $($q4_width)*, $wider
        );
        product_kernels!(matmul_q8, Panel, BLOCK_WORDS, true, $features, $($width)*, unreachable);
        product_kernels!(
            matmul_fine_q4, FinePanel, FINE_WORDS, false, $features, $($q4_width)*, $wider_fine
        );
        product_kernels!(
            matmul_fine_q8, FinePanel, FINE_WORDS, true, $features, $($width)*, unreachable
        );

        /// Tile row by tile row: one stream of weights is read faster than two.
        #[target_feature(enable = $features)]
        fn tile_rows<const W: usize, const Q8: bool, const WORDS: usize>(
            w: &[u8],
            x: Quantised<'_, WORDS>,
            y: &mut [f32],
        ) {
            let format = format::<Q8>();
            let row_bytes = format.tile_row_bytes(x.blocks());
            for (w, y) in w.chunks_exact(row_bytes).zip(y.chunks_exact_mut(W * TILE_ROWS)) {
                let mut accumulators = [splat(0.0); W];
                for (block, words) in x.words().chunks_exact(W * WORDS).enumerate() {
                    let quants = &w[format.quants_at(block)..][..format.quant_bytes()];
                    prefetch(quants, format.block_bytes());
                    let sums = if WORDS == FINE_WORDS {
                        fine_sums::<W, Q8>(quants, words)
                    } else {
                        plain_sums::<W, Q8>(quants, words)
                    };
                    let scales = &w[format.scales_at(block)..].as_chunks::<32>().0[0];
                    let scales = load_scales(scales);
                    for t in 0..W {
                        let scale = mul(scales, splat(f32::from_bits(words[t] as u32)));
                        accumulators[t] = fma(sums[t], scale, accumulators[t]);
                    }
                }
                for (accumulator, y) in accumulators.iter().zip(y.as_chunks_mut().0) {
                    store(*accumulator, y);
                }
            }
        }

        /// The sums of a block for each of `W` tokens.
        #[target_feature(enable = $features)]
        #[inline]
        fn plain_sums<const W: usize, const Q8: bool>(quants: &[u8], words: &[i32]) -> [V; W] {
            let mut sums = [start::<Q8>(words[W]); W];
            for t in 1..W {
                sums[t] = start::<Q8>(words[W + t]);
            }
            let quarters = quants.chunks_exact(format::<Q8>().quant_bytes() / 4);
            for (quarter, quants) in quarters.enumerate() {
                let [low, high] = unpack::<Q8>(quants);
                for t in 0..W {
                    let groups = [0, 1].map(|g| words[group_at(W, 2 * quarter + g, t)]);
                    sums[t] = step::<Q8>(sums[t], low, groups[0]);
                    sums[t] = step::<Q8>(sums[t], high, groups[1]);
                }
            }
            let mut floats = [splat(0.0); W];
            for t in 0..W {
                floats[t] = finish::<Q8>(sums[t], words[W + t]);
            }
            floats
        }

        /// As `plain_sums`, of a fine block.
        #[target_feature(enable = $features)]
        #[inline]
        fn fine_sums<const W: usize, const Q8: bool>(quants: &[u8], words: &[i32]) -> [V; W] {
            let mut sums = [start_fine::<Q8>(words[W]); W];
            for t in 1..W {
                sums[t] = start_fine::<Q8>(words[W + t]);
            }
            let quarters = quants.chunks_exact(format::<Q8>().quant_bytes() / 4);
            for (quarter, quants) in quarters.enumerate() {
                let weights = unpack_fine::<Q8>(quants);
                for t in 0..W {
                    for pair in 0..4 {
                        let two = words[pair_at(W, 4 * quarter + pair, t)];
                        sums[t] = step_fine(sums[t], weights[pair], two);
                    }
                }
            }
            let mut floats = [splat(0.0); W];
            for t in 0..W {
                floats[t] = finish_fine(sums[t]);
            }
            floats
        }
    };
    (
        $name:ident, $panel:ident, $words:ident, $q8:literal, $features:literal,
        $($width:literal)*, $wider:ident
    ) => {
        /// See [`Kernels::matmul`].
        #[target_feature(enable = $features)]
        pub fn $name(w: &[u8], x: $panel<'_>, y: &mut [f32]) {
            check_matmul(format::<$q8>(), w, x, y, WIDTH);
            match x.width() {
                $($width => tile_rows::<$width, $q8, $words>(w, x, y),)*
                _ => product_kernels!(@wider $wider, w, x, y),
            }
        }
    };
    (@wider unreachable, $w:ident, $x:ident, $y:ident) => {
        unreachable!("width {} was checked", $x.width())
    };
    (@wider $wider:ident, $w:ident, $x:ident, $y:ident) => {
        wide::$wider($w, $x, $y)
    };
}
