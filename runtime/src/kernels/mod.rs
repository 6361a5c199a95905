//! The arithmetic, behind one table of functions.
//!
//! [`scalar`] is the specification: it is plain Rust, and every other table must give **the same
//! bits** for every function. That is possible because each result's operations and their order
//! are fixed here, in a form that vectors of 4, 8 or 16 lanes can all follow:
//!
//! - a quantised product accumulates block by block: `acc = fma(integer_sum as f32, w_scale *
//!   a_scale, acc)`; the integer sum is exact, so its order is free;
//! - a sum over a vector of floats is 16 partial sums (element `i` goes to lane `i % 16`, by fma
//!   where it is a sum of products), then halves are added: lane `i` += lane `i + 8`, then 4, 2, 1;
//! - exponentials are the polynomial of [`math::exp`], made of fmas and exact steps;
//! - division, square root, rounding to nearest even and conversions are exact in IEEE 754.
//!
//! A function computes a range of rows for a caller that split the work: no table knows threads,
//! memory or state. Every entry checks the lengths of its slices.

#[cfg(target_arch = "aarch64")]
mod aarch64;
pub mod math;
mod matrix;
pub mod panel;
pub mod scalar;
mod select;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(any(test, feature = "std"))]
mod detect;
#[cfg(test)]
mod suite;

pub use matrix::Matrix;
pub use panel::{
    BLOCK_WORDS, FINE_WORDS, FinePanel, MAX_WIDTH, Panel, Quantised, group_at, pair_at,
};
pub use scalar::SCALAR;
pub use select::{CpuFeatures, all, best, by_name, tables};

use core::ops::Range;

use crate::image::layout::{Format, TILE_ROWS};

/// Positions whose keys lie side by side: see [`Attend`].
pub const KEY_BLOCK: usize = 16;
/// Positions of a block of keys and values: see [`Blocks`]. Whole groups of as many keys as any table
/// scores at once.
pub const KV_BLOCK: usize = 64;

/// The functions chosen for this CPU.
#[derive(Debug)]
pub struct Kernels {
    /// As in `--kernels NAME`.
    pub name: &'static str,
    /// Most tokens that `products` take at once, 1..=[`MAX_WIDTH`].
    pub width: usize,
    /// Most tokens that `fine_products` take at once, 1..=[`MAX_WIDTH`].
    pub fine_width: usize,
    /// Products with weights of each [`Format`], in its order; see [`Kernels::matmul`].
    pub products: [MatmulFn; Format::ALL.len()],
    /// Products with what `quantise_fine` of this table made; see [`Kernels::matmul_fine`].
    pub fine_products: [FineMatmulFn; Format::ALL.len()],
    /// `y[r] = sum_k w[r, k] x[k]` in f32, for the router.
    ///
    /// Shapes: w `(tile rows, cols, 16)`, x `(cols,)`, y `(tile rows, 16)`. Four partial sums by
    /// fma, column `k` in number `k % 4`, then `(0 + 1) + (2 + 3)`.
    pub matmul_f32: fn(w: &[f32], x: &[f32], y: &mut [f32]),
    /// Quantises the rows of a panel: `x` holds `width` rows of equal length (a multiple of 32),
    /// row after row; `panel` is [`Panel::len`] words.
    ///
    /// For each block: the scale is `d = max |x| / 127`, the integers `round_even(x * (1 / d))`;
    /// all are 0 when `d` is below the smallest normal number. The values must be finite.
    pub quantise: fn(x: &[f32], width: usize, panel: &mut [i32]),
    /// Quantises the rows of a fine panel, as `quantise` does, but with `d = max |x| / 32512`: each
    /// integer is 255 times one in -127..=127 plus another. `panel` is [`FinePanel`]'s `len` words.
    pub quantise_fine: fn(x: &[f32], width: usize, panel: &mut [i32]),
    /// `gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i]`.
    pub swiglu: fn(gate: &mut [f32], up: &[f32]),
    /// `y[i] = (x[i] * (1 / sqrt(mean(x^2) + eps))) * weight[i]`; the mean is the 16-lane sum
    /// divided by the length, a multiple of 2; missing lanes of the last 16 count as zero.
    pub rms_norm: fn(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]),
    /// `y[i] = fma(scale, x[i], y[i])`.
    pub add_scaled: fn(y: &mut [f32], x: &[f32], scale: f32),
    /// Attention of a few query heads that share one key-value head; see [`Attend`].
    pub attend: fn(&Attend<'_>, out: &mut [f32]),
    /// One token of the gated short convolution; see [`Conv`].
    pub conv: fn(Conv<'_>),
    /// XXH3-64, see [`image::checksum`](crate::image::checksum): pages are summed beside the
    /// products that use them, so it must keep pace.
    pub checksum: fn(&[u8]) -> u64,
}

/// A product of quantised weights and activations.
///
/// Shapes: `w` whole tile rows of `x.blocks()` blocks each; `x` a panel of `x.width()` tokens;
/// `y` `(tile rows, width, 16)` f32, overwritten.
pub type MatmulFn = fn(w: &[u8], x: Panel<'_>, y: &mut [f32]);

/// As [`MatmulFn`], of fine activations.
pub type FineMatmulFn = fn(w: &[u8], x: FinePanel<'_>, y: &mut [f32]);

/// One pass over the keys and values of the first `len` positions.
///
/// For each query: positions come in blocks of 16, with `m = -inf`, `l = 0`, `acc = 0` at first.
/// A block's scores are `s[i] = sum_d q[d] k[d, i]` (fma, d ascending from 0), of int8 keys
/// `s[i] = (sum_d q[d] k[d, i]) * key_scale[i]`; they are `-inf` beyond `len`. Then
/// `m' = max(m, max s)`; `c = exp(m - m')` and `p[i] = exp(s[i] - m')`, except that both are 0 for
/// an argument of `-inf`; `l = fma(l, c, sum16(p))`, `acc[d] = acc[d] * c`. The weights are
/// `w[i] = p[i]`, of int8 values `w[i] = p[i] * value_scale[i]`; then
/// `acc[d] = fma(w[i], v[i, d], acc[d])` for ascending `i < len`. Finally `out[d] = acc[d] / l`.
///
/// Elements and scales become f32 exactly; what lies beyond `len` in the last block is not used.
#[derive(Debug, Clone, Copy)]
pub struct Attend<'k> {
    /// `(queries, head_dim)` f32, already multiplied by 1 / sqrt(head_dim).
    pub queries: &'k [f32],
    /// Keys and values of the head.
    pub kv: KeyValues<'k>,
    /// Width of a head.
    pub head_dim: usize,
    /// How many positions count; at least 1.
    pub len: usize,
}

/// Keys and values of one head, as their cache keeps them.
#[derive(Debug, Clone, Copy)]
pub enum KeyValues<'k> {
    /// f16 bits, without scales.
    F16(Head<'k, u16>),
    /// Integers, with a scale for each key and each value.
    Int8(Head<'k, i8>),
}

/// Keys and values of one head, elements `E`.
#[derive(Debug, Clone, Copy)]
pub struct Head<'k, E> {
    /// The elements, `width` of them for a key and for a value.
    pub elements: Blocks<'k, E>,
    /// f16 bits, one for a key and one for a value; not used for elements without scales.
    pub scales: Blocks<'k, u16>,
}

impl<'k, E> Head<'k, E> {
    /// Of elements without scales.
    pub const fn unscaled(elements: Blocks<'k, E>) -> Self {
        Self { elements, scales: Blocks::EMPTY }
    }
}

/// Numbers for the keys and values of one head, in blocks of [`KV_BLOCK`] positions that lie
/// anywhere in a pool.
#[derive(Debug, Clone, Copy)]
pub struct Blocks<'k, T> {
    /// The pool: all blocks of all heads.
    pub pool: &'k [T],
    /// The numbers of the blocks, in order of position.
    pub table: &'k [u32],
    /// Numbers from a block to the next.
    pub stride: usize,
    /// Where in a block the head's keys begin, `(sub-blocks of 16 positions, width, 16)`: the keys
    /// of a sub-block lie side by side.
    pub keys_at: usize,
    /// Where in a block its values begin, `(KV_BLOCK, width)`.
    pub values_at: usize,
    /// Numbers of a key, and of a value.
    pub width: usize,
}

impl<'k, T> Blocks<'k, T> {
    /// None.
    pub const EMPTY: Self =
        Self { pool: &[], table: &[], stride: 0, keys_at: 0, values_at: 0, width: 0 };

    /// The keys of `count` positions from `from` on, both multiples of 16, all in one block.
    #[inline(always)]
    pub fn keys(&self, from: usize, count: usize) -> &'k [T] {
        self.part(from, self.keys_at, count)
    }

    /// The values of the positions `range`, all in one block.
    #[inline(always)]
    pub fn values(&self, range: Range<usize>) -> &'k [T] {
        self.part(range.start, self.values_at, range.len())
    }

    #[inline(always)]
    fn part(&self, from: usize, at: usize, count: usize) -> &'k [T] {
        let block = self.table[from / KV_BLOCK] as usize * self.stride;
        &self.pool[block + at + from % KV_BLOCK * self.width..][..count * self.width]
    }

    /// Whether all keys and values of the first `len` positions can be read.
    fn hold(&self, len: usize) -> bool {
        let last = self.keys_at.max(self.values_at) + KV_BLOCK * self.width;
        let ends = |&block: &u32| block as usize * self.stride + last <= self.pool.len();
        self.table.get(..len.div_ceil(KV_BLOCK)).is_some_and(|table| table.iter().all(ends))
    }
}

/// An element of keys and values.
pub(crate) trait Element: Copy {
    /// Whether each key and each value has a scale.
    const SCALED: bool;

    /// Its value, exactly, without the scale.
    fn to_f32(self) -> f32;
}

impl Element for u16 {
    const SCALED: bool = false;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        math::from_f16(self)
    }
}

impl Element for i8 {
    const SCALED: bool = true;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from(self)
    }
}

/// One token of the gated short convolution.
///
/// With `z = b * x`: `y = c * (taps[0] * state[0] + taps[1] * state[1] + ... + taps[last] * z)`,
/// the sum by fma from the oldest tap, beginning with a plain product; then the state moves up by
/// one and takes `z`.
#[derive(Debug)]
pub struct Conv<'k> {
    /// `(3, hidden)`: B, C, x as the input projection gives them.
    pub bcx: &'k [f32],
    /// `(width, hidden)`, oldest first.
    pub taps: &'k [f32],
    /// `(width - 1, hidden)`: earlier `z`, oldest first.
    pub state: &'k mut [f32],
    /// `(hidden,)`.
    pub y: &'k mut [f32],
}

impl Kernels {
    /// `y[tile, t, r] = sum_k w[16 tile + r, k] x[t, k]`.
    ///
    /// Shapes: `w` whole tile rows in `format`; `x` a panel no wider than [`Kernels::width`];
    /// `y` (tile rows, tokens, 16).
    pub fn matmul(&self, format: Format, w: &[u8], x: Panel<'_>, y: &mut [f32]) {
        (self.products[format as usize])(w, x, y);
    }

    /// As [`Kernels::matmul`], of a fine panel no wider than [`Kernels::fine_width`].
    pub fn matmul_fine(&self, format: Format, w: &[u8], x: FinePanel<'_>, y: &mut [f32]) {
        (self.fine_products[format as usize])(w, x, y);
    }
}

/// Checks the lengths of a product's operands and returns its number of tile rows.
pub(crate) fn check_matmul<const WORDS: usize>(
    format: Format,
    w: &[u8],
    x: Quantised<'_, WORDS>,
    y: &[f32],
    widest: usize,
) -> usize {
    let row = format.tile_row_bytes(x.blocks());
    let tile_rows = w.len() / row;
    assert!(w.len().is_multiple_of(row), "weights are not whole tile rows");
    assert!(x.width() <= widest, "panel is wider than this table takes");
    assert_eq!(y.len(), tile_rows * x.width() * TILE_ROWS, "output has the wrong length");
    tile_rows
}

/// Checks the lengths of attention's operands; `head` is what `a.kv` holds.
pub(crate) fn check_attend<E: Element>(a: &Attend<'_>, head: &Head<'_, E>, out: &[f32]) {
    assert!(a.len >= 1 && a.queries.len().is_multiple_of(a.head_dim));
    assert!(head.elements.width == a.head_dim && head.elements.hold(a.len), "too few of them");
    let scales = &head.scales;
    assert!(!E::SCALED || scales.width == 1 && scales.hold(a.len), "too few scales");
    assert_eq!(out.len(), a.queries.len());
}

/// Checks the lengths of a convolution's operands and returns the hidden width.
pub(crate) fn check_conv(c: &Conv<'_>) -> usize {
    let hidden = c.y.len();
    assert_eq!(c.bcx.len(), 3 * hidden);
    assert!(c.taps.len() >= 2 * hidden && c.taps.len().is_multiple_of(hidden));
    assert_eq!(c.state.len(), c.taps.len() - hidden);
    hidden
}
