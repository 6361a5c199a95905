//! The products of quantised weights and activations, for any vector of 16.

use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use crate::image::layout::Format;

/// How far ahead of the sums the weights are fetched, into the second cache: the distance that
/// reads fastest. The CPU's own prefetcher stops at each 4 KiB page, and the first cache has fewer
/// requests under way than memory needs.
pub const PREFETCH_BYTES: usize = 8192;
/// Up to this many tokens, memory is what limits the product, and two tile rows at once are
/// faster: it serves two streams better than one.
pub const PAIRED_WIDTH: usize = 4;

/// The format that the parameter of the products stands for.
pub const fn format<const Q8: bool>() -> Format {
    if Q8 { Format::Q8 } else { Format::Q4 }
}

/// Fetches the `bytes` bytes that lie `ahead` after `block` into the second cache.
#[inline(always)]
pub fn prefetch(block: &[u8], ahead: usize, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        let ahead = block.as_ptr().wrapping_add(ahead + line);
        // SAFETY: a prefetch touches no memory that the program can see and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(ahead.cast()) };
    }
}

/// Defines `matmul_q4` and `matmul_q8` of a table for `$features` and widths `$widths`, over these
/// items of the place of use:
///
/// - the vectors of `float_kernels`;
/// - `unpack`, a quarter of a block's weights as the integers of two groups of 4 columns;
/// - `start`, the integer sums of 16 rows, which may begin with a token's offset; `step`, which
///   adds the product with a group; `finish`, which converts them to floats, and may add the
///   offset.
///
/// `Q8` tells the formats apart: these functions are chosen at compile time.
///
/// After `but`, a table may name a function with the arguments of `matmul_q4` that takes the
/// widths after its own `q4`.
macro_rules! product_kernels {
    ($features:literal, $($width:literal)*) => {
        product_kernels!($features, $($width)*, but q4 $($width)* then |_, x: Panel<'_>, _| {
            unreachable!("width {} was checked", x.width())
        });
    };
    (
        $features:literal, $($width:literal)*, but q4 $($q4_width:literal)* then $wider:expr
    ) => {
        /// Most tokens at once.
        pub const WIDTH: usize = [$($width),*].len();

        /// See [`Kernels::matmul`].
        #[target_feature(enable = $features)]
        pub fn matmul_q4(w: &[u8], x: Panel<'_>, y: &mut [f32]) {
            check_matmul(Format::Q4, w, x, y, WIDTH);
            match x.width() {
                $($q4_width => tile_rows::<$q4_width, false>(w, x, y),)*
                _ => $wider(w, x, y),
            }
        }

        /// See [`Kernels::matmul`].
        #[target_feature(enable = $features)]
        pub fn matmul_q8(w: &[u8], x: Panel<'_>, y: &mut [f32]) {
            check_matmul(Format::Q8, w, x, y, WIDTH);
            match x.width() {
                $($width => tile_rows::<$width, true>(w, x, y),)*
                width => unreachable!("width {width} was checked"),
            }
        }

        /// All tile rows, two at once up to [`PAIRED_WIDTH`].
        #[target_feature(enable = $features)]
        fn tile_rows<const W: usize, const Q8: bool>(w: &[u8], x: Panel<'_>, y: &mut [f32]) {
            let row_bytes = format::<Q8>().tile_row_bytes(x.blocks());
            let pairs = if W <= PAIRED_WIDTH { w.len() / (2 * row_bytes) } else { 0 };
            let row_len = W * TILE_ROWS;
            let (paired_w, single_w) = w.split_at(pairs * 2 * row_bytes);
            let (paired_y, single_y) = y.split_at_mut(pairs * 2 * row_len);
            let paired_w = paired_w.chunks_exact(2 * row_bytes);
            for (w, y) in paired_w.zip(paired_y.chunks_exact_mut(2 * row_len)) {
                rows_together::<2, W, Q8>(w, x, y);
            }
            let single_w = single_w.chunks_exact(row_bytes);
            for (w, y) in single_w.zip(single_y.chunks_exact_mut(row_len)) {
                rows_together::<1, W, Q8>(w, x, y);
            }
        }

        /// `R` tile rows.
        #[target_feature(enable = $features)]
        #[inline]
        fn rows_together<const R: usize, const W: usize, const Q8: bool>(
            w: &[u8],
            x: Panel<'_>,
            y: &mut [f32],
        ) {
            let format = format::<Q8>();
            let row_bytes = format.tile_row_bytes(x.blocks());
            let mut accumulators = [[splat(0.0); W]; R];
            for (block, words) in x.words().chunks_exact(W * BLOCK_WORDS).enumerate() {
                for r in 0..R {
                    let tile_row = &w[r * row_bytes..][..row_bytes];
                    let quants = &tile_row[format.quants_at(block)..][..format.quant_bytes()];
                    // After the end of a row comes the row that is read next after it, beyond
                    // those that are read beside it.
                    let ends = format.quants_at(block) + PREFETCH_BYTES >= row_bytes;
                    let beside = if ends { (R - 1) * row_bytes } else { 0 };
                    prefetch(quants, PREFETCH_BYTES + beside, format.block_bytes());
                    let mut sums = [start::<Q8>(words[W]); W];
                    for t in 1..W {
                        sums[t] = start::<Q8>(words[W + t]);
                    }
                    let pairs = quants.chunks_exact(format.quant_bytes() / 4);
                    for (pair, quants) in pairs.enumerate() {
                        let [low, high] = unpack::<Q8>(quants);
                        for t in 0..W {
                            let groups = [0, 1].map(|g| words[group_at(W, 2 * pair + g, t)]);
                            sums[t] = step::<Q8>(sums[t], low, groups[0]);
                            sums[t] = step::<Q8>(sums[t], high, groups[1]);
                        }
                    }
                    let scales = &tile_row[format.scales_at(block)..].as_chunks::<32>().0[0];
                    let scales = load_scales(scales);
                    for t in 0..W {
                        let scale = mul(scales, splat(f32::from_bits(words[t] as u32)));
                        let sum = finish::<Q8>(sums[t], words[W + t]);
                        accumulators[r][t] = fma(sum, scale, accumulators[r][t]);
                    }
                }
            }
            let tokens = accumulators.as_flattened();
            for (accumulator, y) in tokens.iter().zip(y.as_chunks_mut::<TILE_ROWS>().0) {
                store(*accumulator, y);
            }
        }
    };
}
