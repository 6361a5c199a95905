//! Keys and values of all attention layers, as f16 or as scaled int8.

use core::iter::once;

use bytemuck::Pod;

use crate::arena::{Arena, ArenaFull};
use crate::image::Manifest;
use crate::kernels::math::{from_f16, round_even, to_f16};
use crate::kernels::{Head, KEY_BLOCK, KeyValues};

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
        // A block fills whole cache lines: nothing of it is rounding.
        KvCache::bytes(manifest, KEY_BLOCK, self) / KEY_BLOCK
    }
}

/// Keys and values of all attention layers.
///
/// For each layer keys `(kv_heads, blocks of 16 positions, head_dim, 16)`, then values
/// `(kv_heads, positions, head_dim)`: what [`crate::kernels::Attend`] reads. The scales of int8
/// follow after all layers, in the same order with one of each in the place of `head_dim`.
#[derive(Debug)]
pub struct KvCache<'a> {
    stored: Stored<'a>,
    kv_heads: usize,
    head_dim: usize,
}

#[derive(Debug)]
enum Stored<'a> {
    F16(Heads<'a, u16>),
    Int8 { quants: Heads<'a, i8>, scales: Heads<'a, u16> },
}

impl<'a> KvCache<'a> {
    /// Bytes for `context` positions.
    pub fn bytes(manifest: &Manifest, context: usize, format: KvFormat) -> usize {
        let head_dim = manifest.shape.head_dim as usize;
        match format {
            KvFormat::F16 => Heads::<u16>::bytes(manifest, context, head_dim),
            KvFormat::Int8 => {
                Heads::<i8>::bytes(manifest, context, head_dim)
                    + Heads::<u16>::bytes(manifest, context, 1)
            }
        }
    }

    /// Takes its memory, for at least one position.
    pub fn new(
        manifest: &Manifest,
        context: usize,
        format: KvFormat,
        arena: &mut Arena<'a>,
    ) -> Result<Self, ArenaFull> {
        let head_dim = manifest.shape.head_dim as usize;
        let stored = match format {
            KvFormat::F16 => Stored::F16(Heads::new(manifest, context, head_dim, arena)?),
            KvFormat::Int8 => Stored::Int8 {
                quants: Heads::new(manifest, context, head_dim, arena)?,
                scales: Heads::new(manifest, context, 1, arena)?,
            },
        };
        Ok(Self { stored, kv_heads: manifest.shape.kv_heads as usize, head_dim })
    }

    /// How it keeps them.
    pub const fn format(&self) -> KvFormat {
        match self.stored {
            Stored::F16(_) => KvFormat::F16,
            Stored::Int8 { .. } => KvFormat::Int8,
        }
    }

    /// Stores key and value, each `(kv_heads, head_dim)`, of one position.
    pub fn put(&mut self, layer: usize, position: usize, key: &[f32], value: &[f32]) {
        for head in 0..self.kv_heads {
            let both = [key, value].map(|x| &x[head * self.head_dim..][..self.head_dim]);
            match &mut self.stored {
                Stored::F16(halves) => {
                    let both = both.map(|x| x.iter().map(|&x| to_f16(x)));
                    halves.put(layer, head, position, both);
                }
                Stored::Int8 { quants, scales } => {
                    let both = both.map(|x| (x, scale(x)));
                    scales.put(layer, head, position, both.map(|(_, scale)| once(scale)));
                    let both = both.map(|(x, scale)| quantise(x, scale));
                    quants.put(layer, head, position, both);
                }
            }
        }
    }

    /// Keys and values of one head, all positions.
    pub fn head(&self, layer: usize, head: usize) -> KeyValues<'_> {
        match &self.stored {
            Stored::F16(halves) => {
                let [keys, values] = halves.head(layer, head);
                KeyValues::F16(Head::unscaled(keys, values))
            }
            Stored::Int8 { quants, scales } => {
                let [keys, values] = quants.head(layer, head);
                let [key_scales, value_scales] = scales.head(layer, head);
                KeyValues::Int8(Head { keys, values, key_scales, value_scales })
            }
        }
    }

    /// Calls `each` with the memory of the first `positions` positions, always in the same order.
    pub fn visit<E>(
        &mut self,
        positions: usize,
        each: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match &mut self.stored {
            Stored::F16(halves) => halves.visit(positions, each),
            Stored::Int8 { quants, scales } => {
                quants.visit(positions, each)?;
                scales.visit(positions, each)
            }
        }
    }
}

/// `width` numbers for each key and each value: for each layer keys
/// `(kv_heads, blocks of 16 positions, width, 16)`, then values `(kv_heads, positions, width)`.
#[derive(Debug)]
struct Heads<'a, T> {
    data: &'a mut [T],
    kv_heads: usize,
    positions: usize,
    width: usize,
}

impl<'a, T: Pod> Heads<'a, T> {
    fn bytes(manifest: &Manifest, context: usize, width: usize) -> usize {
        Arena::cost::<T>(Self::numbers(manifest, context, width))
    }

    fn new(
        manifest: &Manifest,
        context: usize,
        width: usize,
        arena: &mut Arena<'a>,
    ) -> Result<Self, ArenaFull> {
        Ok(Self {
            data: arena.zeros(Self::numbers(manifest, context, width))?,
            kv_heads: manifest.shape.kv_heads as usize,
            positions: context.next_multiple_of(KEY_BLOCK),
            width,
        })
    }

    fn numbers(manifest: &Manifest, context: usize, width: usize) -> usize {
        let heads = manifest.attention_layers() * 2 * manifest.shape.kv_heads as usize;
        heads * context.next_multiple_of(KEY_BLOCK) * width
    }

    /// Stores the numbers of a key and a value.
    fn put(
        &mut self,
        layer: usize,
        head: usize,
        position: usize,
        [key, value]: [impl Iterator<Item = T>; 2],
    ) {
        let [keys, values] = self.starts(layer, head);
        let (block, lane) = (position / KEY_BLOCK, position % KEY_BLOCK);
        let len = self.width * KEY_BLOCK;
        let keys = &mut self.data[keys + block * len..][..len];
        for (lanes, key) in keys.as_chunks_mut::<KEY_BLOCK>().0.iter_mut().zip(key) {
            lanes[lane] = key;
        }
        let values = &mut self.data[values + position * self.width..][..self.width];
        for (to, value) in values.iter_mut().zip(value) {
            *to = value;
        }
    }

    /// All keys and all values of one head.
    fn head(&self, layer: usize, head: usize) -> [&[T]; 2] {
        self.starts(layer, head).map(|start| &self.data[start..][..self.head_len()])
    }

    fn visit<E>(
        &mut self,
        positions: usize,
        each: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let used = |unit: usize| positions.next_multiple_of(unit) * self.width;
        // Of a layer the keys of all heads, which lie in blocks, then their values.
        let lens = [used(KEY_BLOCK), used(1)];
        let (head_len, kv_heads) = (self.head_len(), self.kv_heads);
        for (index, head) in self.data.chunks_exact_mut(head_len).enumerate() {
            let used = lens[index / kv_heads % 2];
            each(bytemuck::cast_slice_mut(&mut head[..used]))?;
        }
        Ok(())
    }

    /// Where keys and values of one head begin.
    fn starts(&self, layer: usize, head: usize) -> [usize; 2] {
        let keys = layer * 2 * self.kv_heads + head;
        [keys, keys + self.kv_heads].map(|heads| heads * self.head_len())
    }

    /// Numbers of a head's keys, and of its values.
    fn head_len(&self) -> usize {
        self.positions * self.width
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
