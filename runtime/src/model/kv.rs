//! Keys and values of all attention layers, as f16 or as scaled int8.

use core::iter::once;

use bytemuck::Pod;

use crate::arena::{Arena, ArenaFull};
use crate::image::Manifest;
use crate::kernels::math::{from_f16, round_even, to_f16};
use crate::kernels::{Blocks, Head, KEY_BLOCK, KV_BLOCK, KeyValues};

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum KvFormat {
    /// f16.
    #[default]
    F16,
    /// int8, with an f16 scale for the key and for the value of each head and position.
    Int8,
}

impl KvFormat {
    /// Every format, the default first.
    pub const ALL: [Self; 2] = [Self::F16, Self::Int8];

    /// As in options and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }

    /// Bytes of one token's keys and values.
    pub fn token_bytes(self, manifest: &Manifest) -> usize {
        let head_dim = manifest.shape.head_dim as usize;
        let numbers = 2 * manifest.attention_layers() * manifest.shape.kv_heads as usize;
        numbers
            * match self {
                Self::F16 => head_dim * size_of::<u16>(),
                Self::Int8 => head_dim + size_of::<u16>(),
            }
    }
}

/// Keys and values of all attention layers, in blocks of [`KV_BLOCK`] positions that belong to
/// whoever took them.
///
/// In a block, for each layer keys `(kv_heads, 4 sub-blocks of 16 positions, head_dim, 16)`, then
/// values `(kv_heads, 64 positions, head_dim)`: what [`crate::kernels::Attend`] reads. The scales of
/// int8 lie in a second pool with blocks of the same numbers, in the same order with one of each in
/// the place of `head_dim`.
#[derive(Debug)]
pub struct KvPool<'a> {
    stored: Stored<'a>,
    kv_heads: usize,
    head_dim: usize,
    /// How many sequences have each block.
    owners: &'a mut [u32],
    /// The first `free_len` are the numbers of blocks that nobody has.
    free: &'a mut [u32],
    free_len: usize,
    /// The tokens whose keys and values are in each block, `(blocks, KV_BLOCK)`, where somebody
    /// noted them.
    tokens: &'a mut [u32],
}

#[derive(Debug)]
enum Stored<'a> {
    F16(Heads<'a, u16>),
    Int8 { quants: Heads<'a, i8>, scales: Heads<'a, u16> },
}

impl<'a> KvPool<'a> {
    /// Bytes that tell who has which of `blocks` blocks, and what is in them.
    pub const fn index_bytes(blocks: usize) -> usize {
        2 * Arena::cost::<u32>(blocks) + Arena::cost::<u32>(blocks * KV_BLOCK)
    }

    /// Bytes of `blocks` blocks.
    pub fn bytes(manifest: &Manifest, blocks: usize, format: KvFormat) -> usize {
        let head_dim = manifest.shape.head_dim as usize;
        match format {
            KvFormat::F16 => Heads::<u16>::bytes(manifest, blocks, head_dim),
            KvFormat::Int8 => {
                Heads::<i8>::bytes(manifest, blocks, head_dim)
                    + Heads::<u16>::bytes(manifest, blocks, 1)
            }
        }
    }

    /// Takes its memory, [`Self::index_bytes`] of `index` and [`Self::bytes`] of `arena`.
    pub fn new(
        manifest: &Manifest,
        blocks: usize,
        format: KvFormat,
        index: &mut Arena<'a>,
        arena: &mut Arena<'a>,
    ) -> Result<Self, ArenaFull> {
        let head_dim = manifest.shape.head_dim as usize;
        let stored = match format {
            KvFormat::F16 => Stored::F16(Heads::new(manifest, blocks, head_dim, arena)?),
            KvFormat::Int8 => Stored::Int8 {
                quants: Heads::new(manifest, blocks, head_dim, arena)?,
                scales: Heads::new(manifest, blocks, 1, arena)?,
            },
        };
        let owners = index.zeros(blocks)?;
        // The last is taken first: the lowest number.
        let free = index.build(blocks, |index| Ok((blocks - 1 - index) as u32))?;
        let tokens = index.zeros(blocks * KV_BLOCK)?;
        let kv_heads = manifest.shape.kv_heads as usize;
        Ok(Self { stored, kv_heads, head_dim, owners, free, free_len: blocks, tokens })
    }

    /// How it keeps them.
    pub const fn format(&self) -> KvFormat {
        match self.stored {
            Stored::F16(_) => KvFormat::F16,
            Stored::Int8 { .. } => KvFormat::Int8,
        }
    }

    /// Blocks that nobody has.
    pub const fn free(&self) -> usize {
        self.free_len
    }

    /// What `look` sees where those who have the blocks of `tables` have them no more; a block may be in
    /// several tables.
    pub fn without<'t, R>(
        &mut self,
        tables: impl Iterator<Item = &'t [u32]> + Clone,
        look: impl FnOnce(&Self) -> R,
    ) -> R {
        tables.clone().flatten().for_each(|&block| self.owners[block as usize] -= 1);
        let seen = look(self);
        tables.flatten().for_each(|&block| self.owners[block as usize] += 1);
        seen
    }

    /// Blocks that have no owner: see [`Self::without`].
    pub fn unowned(&self) -> usize {
        self.owners.iter().filter(|owners| **owners == 0).count()
    }

    /// A block for one owner; `None` when all are taken.
    pub fn take(&mut self) -> Option<u32> {
        self.free_len = self.free_len.checked_sub(1)?;
        let block = self.free[self.free_len];
        self.owners[block as usize] = 1;
        Some(block)
    }

    /// One more owner of a block that somebody has.
    pub fn share(&mut self, block: u32) {
        self.owners[block as usize] += 1;
    }

    /// Whether a block has one owner, who may write in it.
    pub fn is_sole(&self, block: u32) -> bool {
        self.owners[block as usize] == 1
    }

    /// One owner less.
    pub fn give_back(&mut self, block: u32) {
        let owners = &mut self.owners[block as usize];
        *owners -= 1;
        if *owners == 0 {
            self.free[self.free_len] = block;
            self.free_len += 1;
        }
    }

    /// Notes whose keys and values are in the blocks of `table`: those of `tokens`, from the first on.
    pub fn note(&mut self, table: &[u32], tokens: &[u32]) {
        for (&block, tokens) in table.iter().zip(tokens.chunks(KV_BLOCK)) {
            self.noted_mut(block)[..tokens.len()].copy_from_slice(tokens);
        }
    }

    /// Whether `tokens` were noted for the blocks of `table`.
    pub fn holds(&self, table: &[u32], tokens: &[u32]) -> bool {
        self.common(table, tokens) == tokens.len()
    }

    /// How many of `tokens`, from the first on, were noted for the blocks of `table`.
    pub fn common(&self, table: &[u32], tokens: &[u32]) -> usize {
        let mut common = 0;
        for (&block, tokens) in table.iter().zip(tokens.chunks(KV_BLOCK)) {
            let noted = self.noted(block);
            if !noted.starts_with(tokens) {
                return common + noted.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            }
            common += tokens.len();
        }
        common
    }

    /// The tokens that were noted for a block, (KV_BLOCK,).
    pub fn noted(&self, block: u32) -> &[u32] {
        &self.tokens[block as usize * KV_BLOCK..][..KV_BLOCK]
    }

    /// Room for the tokens of a block, as [`Self::note`] notes them.
    pub fn noted_mut(&mut self, block: u32) -> &mut [u32] {
        &mut self.tokens[block as usize * KV_BLOCK..][..KV_BLOCK]
    }

    /// Bytes that [`Self::visit`] gives of so many positions; `None` for more than there can be.
    pub fn visited_bytes(&self, positions: u64) -> Option<u64> {
        // As many for keys as for values; keys lie in sub-blocks.
        let one = (self.block_bytes() / (2 * KV_BLOCK)) as u64;
        let keys = positions.checked_next_multiple_of(KEY_BLOCK as u64)?;
        keys.checked_add(positions)?.checked_mul(one)
    }

    /// Bytes of one block.
    pub fn block_bytes(&self) -> usize {
        match &self.stored {
            Stored::F16(halves) => halves.stride * size_of::<u16>(),
            Stored::Int8 { quants, scales } => quants.stride + scales.stride * size_of::<u16>(),
        }
    }

    /// Copies all that is in a block.
    pub fn copy(&mut self, from: u32, to: u32) {
        match &mut self.stored {
            Stored::F16(halves) => halves.copy(from, to),
            Stored::Int8 { quants, scales } => {
                quants.copy(from, to);
                scales.copy(from, to);
            }
        }
    }

    /// Stores key and value, each `(kv_heads, head_dim)`, of one position of the sequence whose
    /// blocks are in `table`.
    pub fn put(
        &mut self,
        table: &[u32],
        layer: usize,
        position: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let place = (table[position / KV_BLOCK], position % KV_BLOCK);
        for head in 0..self.kv_heads {
            let both = [key, value].map(|x| &x[head * self.head_dim..][..self.head_dim]);
            match &mut self.stored {
                Stored::F16(halves) => {
                    let both = both.map(|x| x.iter().map(|&x| to_f16(x)));
                    halves.put(layer, head, place, both);
                }
                Stored::Int8 { quants, scales } => {
                    let both = both.map(|x| (x, scale(x)));
                    scales.put(layer, head, place, both.map(|(_, scale)| once(scale)));
                    let both = both.map(|(x, scale)| quantise(x, scale));
                    quants.put(layer, head, place, both);
                }
            }
        }
    }

    /// Keys and values of one head of the sequence whose blocks are in `table`.
    pub fn head<'k>(&'k self, table: &'k [u32], layer: usize, head: usize) -> KeyValues<'k> {
        match &self.stored {
            Stored::F16(halves) => {
                KeyValues::F16(Head::unscaled(halves.blocks(table, layer, head)))
            }
            Stored::Int8 { quants, scales } => KeyValues::Int8(Head {
                elements: quants.blocks(table, layer, head),
                scales: scales.blocks(table, layer, head),
            }),
        }
    }

    /// Calls `each` with the memory of the first `positions` positions of the sequence whose blocks
    /// are in `table`, always in the same order.
    pub fn visit<E>(
        &mut self,
        table: &[u32],
        positions: usize,
        each: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for (index, &block) in table.iter().enumerate() {
            let here = positions.saturating_sub(index * KV_BLOCK).min(KV_BLOCK);
            match &mut self.stored {
                Stored::F16(halves) => halves.visit(block, here, each)?,
                Stored::Int8 { quants, scales } => {
                    quants.visit(block, here, each)?;
                    scales.visit(block, here, each)?;
                }
            }
        }
        Ok(())
    }
}

/// `width` numbers for each key and each value: in a block for each layer keys
/// `(kv_heads, 4, width, 16)`, then values `(kv_heads, 64, width)`.
#[derive(Debug)]
struct Heads<'a, T> {
    data: &'a mut [T],
    kv_heads: usize,
    width: usize,
    /// Numbers of a block.
    stride: usize,
}

impl<'a, T: Pod> Heads<'a, T> {
    fn bytes(manifest: &Manifest, blocks: usize, width: usize) -> usize {
        Arena::cost::<T>(blocks * Self::stride(manifest, width))
    }

    fn new(
        manifest: &Manifest,
        blocks: usize,
        width: usize,
        arena: &mut Arena<'a>,
    ) -> Result<Self, ArenaFull> {
        let stride = Self::stride(manifest, width);
        let kv_heads = manifest.shape.kv_heads as usize;
        Ok(Self { data: arena.zeros(blocks * stride)?, kv_heads, width, stride })
    }

    fn stride(manifest: &Manifest, width: usize) -> usize {
        let kv_heads = manifest.shape.kv_heads as usize;
        manifest.attention_layers() * 2 * kv_heads * KV_BLOCK * width
    }

    /// Stores the numbers of a key and a value at a place: a block and a position in it.
    fn put(
        &mut self,
        layer: usize,
        head: usize,
        (block, within): (u32, usize),
        [key, value]: [impl Iterator<Item = T>; 2],
    ) {
        let [keys, values] = self.starts(layer, head).map(|at| block as usize * self.stride + at);
        let (keys_block, lane) = (within / KEY_BLOCK, within % KEY_BLOCK);
        let len = self.width * KEY_BLOCK;
        let keys = &mut self.data[keys + keys_block * len..][..len];
        for (lanes, key) in keys.as_chunks_mut::<KEY_BLOCK>().0.iter_mut().zip(key) {
            lanes[lane] = key;
        }
        let values = &mut self.data[values + within * self.width..][..self.width];
        for (to, value) in values.iter_mut().zip(value) {
            *to = value;
        }
    }

    /// The keys and values of one head.
    fn blocks<'k>(&'k self, table: &'k [u32], layer: usize, head: usize) -> Blocks<'k, T> {
        let [keys_at, values_at] = self.starts(layer, head);
        Blocks {
            pool: self.data,
            table,
            stride: self.stride,
            keys_at,
            values_at,
            width: self.width,
        }
    }

    fn copy(&mut self, from: u32, to: u32) {
        let [from, to] = [from, to].map(|block| block as usize * self.stride);
        self.data.copy_within(from..from + self.stride, to);
    }

    fn visit<E>(
        &mut self,
        block: u32,
        positions: usize,
        each: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let used = |unit: usize| positions.next_multiple_of(unit) * self.width;
        // Of a layer the keys of all heads, which lie in sub-blocks, then their values.
        let lens = [used(KEY_BLOCK), used(1)];
        let (head_len, kv_heads) = (self.head_len(), self.kv_heads);
        let block = &mut self.data[block as usize * self.stride..][..self.stride];
        for (index, head) in block.chunks_exact_mut(head_len).enumerate() {
            let used = lens[index / kv_heads % 2];
            each(bytemuck::cast_slice_mut(&mut head[..used]))?;
        }
        Ok(())
    }

    /// Where in a block keys and values of one head begin.
    fn starts(&self, layer: usize, head: usize) -> [usize; 2] {
        let keys = layer * 2 * self.kv_heads + head;
        [keys, keys + self.kv_heads].map(|heads| heads * self.head_len())
    }

    /// Numbers of a head's keys in a block, and of its values.
    const fn head_len(&self) -> usize {
        KV_BLOCK * self.width
    }
}

/// The bits of the least f16 that is at least `max |x| / 127`, or of the largest f16.
///
/// Rounded up, no element lies beyond 127 of it: an f16 below the smallest normal one may be far
/// from what it is rounded from.
fn scale(x: &[f32]) -> u16 {
    const LARGEST: u16 = 0x7bff;
    let largest = x.iter().fold(0.0_f32, |m, x| if x.abs() > m { x.abs() } else { m });
    let exact = largest / 127.0;
    let nearest = to_f16(exact);
    let above = nearest + u16::from(from_f16(nearest) < exact);
    above.min(LARGEST)
}

/// Integers in -127..=127, `round_even(x * (1 / scale))`; all are 0 when the scale is.
fn quantise(x: &[f32], scale: u16) -> impl Iterator<Item = i8> {
    let scale = from_f16(scale);
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    x.iter().map(move |x| round_even(x * inverse).clamp(-127.0, 127.0) as i8)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// What is kept of a vector: its scale, its integers and their products.
    fn kept(x: &[f32]) -> (f32, Vec<i8>, Vec<f32>) {
        let bits = scale(x);
        let scale = from_f16(bits);
        let quants: Vec<i8> = quantise(x, bits).collect();
        let values = quants.iter().map(|&q| scale * f32::from(q)).collect();
        (scale, quants, values)
    }

    #[test]
    fn zeros_stay_zeros() {
        for x in [[0.0; 4], [-0.0; 4]] {
            assert_eq!(kept(&x), (0.0, [0; 4].into(), [0.0; 4].into()));
        }
    }

    #[test]
    fn the_smallest_and_the_largest_floats_are_safe() {
        const LEAST_F16: f32 = 5.960_464_5e-8;
        let tiny = [f32::from_bits(1), -f32::MIN_POSITIVE, 0.0];
        let (scale, quants, _) = kept(&tiny);
        assert!(scale <= LEAST_F16 && quants == [0, 0, 0], "{scale:e}");
        assert_eq!(kept(&[127.0 * LEAST_F16, -LEAST_F16]).1, [127, -1]);

        let huge = [f32::MAX, -f32::MAX, 1e6, 1.0];
        assert_eq!(kept(&huge).0, 65504.0);
        assert_eq!(kept(&huge).1, [127, -127, 15, 0]);
        assert_eq!(kept(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN]).1, [127, -127, 0]);
    }

    proptest! {
        #[test]
        fn an_element_is_off_by_half_a_scale_and_the_largest_by_little(
            mut x in prop::collection::vec(-1.0_f32..1.0, 1..80),
            magnitude in -26..20_i32,
        ) {
            let magnitude = 2.0_f32.powi(magnitude);
            x.iter_mut().for_each(|x| *x *= magnitude);
            let (scale, quants, values) = kept(&x);
            let largest = x.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
            prop_assert!(scale * 127.0 >= largest * 0.999_999);
            prop_assert!(quants.iter().all(|q| (-127..=127).contains(q)));
            for (x, value) in x.iter().zip(values) {
                prop_assert!((x - value).abs() <= scale * 0.500_1, "{x:e} as {value:e}");
            }
            // Above the subnormal f16 the scale is no coarser than its rounding.
            if scale >= 6.2e-5 {
                prop_assert!(scale * 127.0 <= largest * 1.001);
            }
        }
    }
}
