//! The products of quantised weights and activations, for any vector of 16 and any format.

use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use crate::image::layout::Format;
use crate::kernels::Quantised;

/// 64 bytes of integers, four for each of 16 rows, in as many vectors as a table needs.
///
/// # Safety
/// The CPU has the features of the table whose vectors they are, here and in [`Weights`].
pub trait Lanes: Copy {
    /// The bytes of a run.
    unsafe fn load(run: &[u8; 64]) -> Self;
    /// `word`, two bytes, in all lanes.
    unsafe fn splat(word: i16) -> Self;
    /// The bits that both have.
    unsafe fn and(a: Self, b: Self) -> Self;
    /// The bits that one of them has.
    unsafe fn xor(a: Self, b: Self) -> Self;
    /// Words shifted left.
    unsafe fn shl(a: Self, bits: i32) -> Self;
    /// Words shifted right, zeros after them.
    unsafe fn shr(a: Self, bits: i32) -> Self;
    /// Words shifted right, their signs after them.
    unsafe fn sar(a: Self, bits: i32) -> Self;
}

/// Implements [`Lanes`], to be inlined into functions with the features before anything else.
macro_rules! lanes {
    ($lanes:ty; $(fn $name:ident($($argument:ident: $type:ty),*) { $($body:tt)* })*) => {
        impl Lanes for $lanes {
            $(
                #[inline(always)]
                unsafe fn $name($($argument: $type),*) -> Self {
                    // SAFETY: the caller vouches for the features, and a run is 64 readable bytes.
                    unsafe { $($body)* }
                }
            )*
        }
    };
}

/// A format of weights, as the products read it.
pub trait Weights {
    /// What it is in the image.
    const FORMAT: Format;
    /// What stored weights are more than the weights: 8, or 0 of signed ones.
    const BIAS: i32;

    /// The stored weights of a quarter of a block's integers: two groups of 4 columns.
    unsafe fn groups<L: Lanes>(quarter: &[u8]) -> [L; 2];

    /// The same as 16-bit integers: four pairs of columns, as a [`FinePanel`] has them.
    ///
    /// [`FinePanel`]: crate::kernels::FinePanel
    unsafe fn pairs<L: Lanes>(quarter: &[u8]) -> [L; 4];

    /// Computes the product by hand, with AVX2 and, if `VNNI`, AVX-VNNI, where the format has that
    /// for so many tokens, and says whether it did.
    unsafe fn by_hand<const VNNI: bool, const WORDS: usize>(
        _w: &[u8],
        _x: Quantised<'_, WORDS>,
        _y: &mut [f32],
    ) -> bool {
        false
    }
}

/// [`Weights::groups`] for products of unsigned weights: those of signed ones plus 128.
#[inline(always)]
pub unsafe fn unsigned<W: Weights, L: Lanes>(quarter: &[u8]) -> [L; 2] {
    // SAFETY: the caller vouches for the features.
    unsafe {
        let [low, high] = W::groups::<L>(quarter);
        if W::BIAS != 0 {
            return [low, high];
        }
        let signs = L::splat(i16::from_ne_bytes([0x80; 2]));
        [L::xor(low, signs), L::xor(high, signs)]
    }
}

/// What a sum of unsigned weights begins with, which takes their bias off: `offset` does for 8.
#[inline(always)]
pub const fn unsigned_start<W: Weights>(offset: i32) -> i32 {
    if W::BIAS != 0 { W::BIAS / 8 * offset } else { 128 / 8 * offset }
}

/// How far ahead of the sums the weights are fetched: the distance that reads fastest. The CPU's
/// own prefetcher stops at each 4 KiB page.
const PREFETCH_BYTES: usize = 8192;

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

/// Defines `matmul` of a table for `$features`, whose formats are `$weights`, and widths `$width`,
/// over these items of the place of use:
///
/// - the vectors of `float_kernels`, and `I`, the [`Lanes`] of the table;
/// - `unpack`, [`Weights::groups`] as `step` wants them; `start`, the integer sums of 16 rows, which
///   may begin with a token's offset; `step`, which adds the product with a group; `finish`, which
///   converts them to floats, and may add the offset;
/// - `step_fine`, which adds the product of a pair, and `to_floats`;
///
/// `by hand` has [`Weights::by_hand`] asked first.
macro_rules! product_kernels {
    ($features:literal, $weights:ident, $($width:literal)* $(, by hand $vnni:literal)?) => {
        /// Most tokens at once.
        const WIDTH: usize = [$($width),*].len();

        /// See [`Kernels::matmul`] and [`Kernels::matmul_fine`].
        #[target_feature(enable = $features)]
        fn matmul<W: $weights, const WORDS: usize>(
            w: &[u8],
            x: Quantised<'_, WORDS>,
            y: &mut [f32],
        ) {
            check_matmul(W::FORMAT, w, x, y, WIDTH);
            $(
                // SAFETY: this function was compiled for the features of these products.
                if unsafe { W::by_hand::<$vnni, WORDS>(w, x, y) } {
                    return;
                }
            )?
            match x.width() {
                $($width => tile_rows::<W, $width, WORDS>(w, x, y),)*
                width => unreachable!("width {width} was checked"),
            }
        }

        /// Tile row by tile row: one stream of weights is read faster than two.
        #[target_feature(enable = $features)]
        fn tile_rows<W: $weights, const T: usize, const WORDS: usize>(
            w: &[u8],
            x: Quantised<'_, WORDS>,
            y: &mut [f32],
        ) {
            let row_bytes = W::FORMAT.tile_row_bytes(x.blocks());
            for (w, y) in w.chunks_exact(row_bytes).zip(y.chunks_exact_mut(T * TILE_ROWS)) {
                let mut accumulators = [splat(0.0); T];
                for (block, words) in x.words().chunks_exact(T * WORDS).enumerate() {
                    let quants = &w[W::FORMAT.quants_at(block)..][..W::FORMAT.quant_bytes()];
                    prefetch(quants, W::FORMAT.block_bytes());
                    let sums = if WORDS == FINE_WORDS {
                        fine_sums::<W, T>(quants, words)
                    } else {
                        plain_sums::<W, T>(quants, words)
                    };
                    let scales = &w[W::FORMAT.scales_at(block)..].as_chunks::<32>().0[0];
                    let scales = load_scales(scales);
                    for t in 0..T {
                        let scale = mul(scales, splat(f32::from_bits(words[t] as u32)));
                        accumulators[t] = fma(sums[t], scale, accumulators[t]);
                    }
                }
                for (accumulator, y) in accumulators.iter().zip(y.as_chunks_mut().0) {
                    store(*accumulator, y);
                }
            }
        }

        /// The sums of a block for each of `T` tokens.
        #[target_feature(enable = $features)]
        #[inline]
        fn plain_sums<W: $weights, const T: usize>(quants: &[u8], words: &[i32]) -> [V; T] {
            let mut sums = [start::<W>(words[T]); T];
            for t in 1..T {
                sums[t] = start::<W>(words[T + t]);
            }
            let quarters = quants.chunks_exact(W::FORMAT.quant_bytes() / 4);
            for (quarter, quants) in quarters.enumerate() {
                let [low, high] = unpack::<W>(quants);
                for t in 0..T {
                    let groups = [0, 1].map(|g| words[group_at(T, 2 * quarter + g, t)]);
                    sums[t] = step::<W>(sums[t], low, groups[0]);
                    sums[t] = step::<W>(sums[t], high, groups[1]);
                }
            }
            let mut floats = [splat(0.0); T];
            for t in 0..T {
                floats[t] = finish::<W>(sums[t], words[T + t]);
            }
            floats
        }

        /// As `plain_sums`, of a fine block.
        #[target_feature(enable = $features)]
        #[inline]
        fn fine_sums<W: $weights, const T: usize>(quants: &[u8], words: &[i32]) -> [V; T] {
            let mut sums = [splat_word(W::BIAS / 8 * words[T]); T];
            for t in 1..T {
                sums[t] = splat_word(W::BIAS / 8 * words[T + t]);
            }
            let quarters = quants.chunks_exact(W::FORMAT.quant_bytes() / 4);
            for (quarter, quants) in quarters.enumerate() {
                // SAFETY: this function was compiled for the features of these vectors.
                let weights = unsafe { W::pairs::<I>(quants) };
                for t in 0..T {
                    for pair in 0..4 {
                        let two = words[pair_at(T, 4 * quarter + pair, t)];
                        sums[t] = step_fine(sums[t], weights[pair], two);
                    }
                }
            }
            let mut floats = [splat(0.0); T];
            for t in 0..T {
                floats[t] = to_floats(sums[t]);
            }
            floats
        }
    };
}
