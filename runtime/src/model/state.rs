//! What the model remembers of a sequence: keys and values, and the convolutions' last columns.

use crate::arena::{Arena, ArenaFull};
use crate::image::Manifest;
use crate::kernels::math::to_f16;
use crate::kernels::{Head, KEY_BLOCK, KeyValues};

/// Keys and values of all attention layers, f16.
///
/// For each layer keys `(kv_heads, blocks of 16 positions, head_dim, 16)`, then values
/// `(kv_heads, positions, head_dim)`: what [`crate::kernels::Attend`] reads.
#[derive(Debug)]
pub struct KvCache<'a> {
    data: &'a mut [u16],
    kv_heads: usize,
    head_dim: usize,
    positions: usize,
}

impl<'a> KvCache<'a> {
    /// Bytes for `context` positions.
    pub fn bytes(manifest: &Manifest, context: usize) -> usize {
        Arena::cost::<u16>(Self::elements(manifest, context))
    }

    /// Takes its memory.
    pub fn new(
        manifest: &Manifest,
        context: usize,
        arena: &mut Arena<'a>,
    ) -> Result<Self, ArenaFull> {
        Ok(Self {
            data: arena.zeros(Self::elements(manifest, context))?,
            kv_heads: manifest.shape.kv_heads as usize,
            head_dim: manifest.shape.head_dim as usize,
            positions: context.next_multiple_of(KEY_BLOCK),
        })
    }

    fn elements(manifest: &Manifest, context: usize) -> usize {
        let head = manifest.shape.kv_heads as usize * manifest.shape.head_dim as usize;
        manifest.attention_layers() * 2 * head * context.next_multiple_of(KEY_BLOCK)
    }

    /// Stores key and value, each `(kv_heads, head_dim)`, of one position.
    pub fn put(&mut self, layer: usize, position: usize, key: &[f32], value: &[f32]) {
        let (block, lane) = (position / KEY_BLOCK, position % KEY_BLOCK);
        let head_dim = self.head_dim;
        for head in 0..self.kv_heads {
            let (keys, values) = self.head_mut(layer, head);
            let keys = &mut keys[block * head_dim * KEY_BLOCK..][..head_dim * KEY_BLOCK];
            let key = &key[head * head_dim..][..head_dim];
            for (keys, &k) in keys.as_chunks_mut::<KEY_BLOCK>().0.iter_mut().zip(key) {
                keys[lane] = to_f16(k);
            }
            let values = &mut values[position * head_dim..][..head_dim];
            for (to, &v) in values.iter_mut().zip(&value[head * head_dim..]) {
                *to = to_f16(v);
            }
        }
    }

    /// Keys and values of one head, all positions.
    pub fn head(&self, layer: usize, head: usize) -> KeyValues<'_> {
        let (keys, values) = self.places(layer, head);
        KeyValues::F16(Head::unscaled(&self.data[keys], &self.data[values]))
    }

    /// Calls `each` with the memory of the first `positions` positions, always in the same order.
    pub fn visit<E>(
        &mut self,
        positions: usize,
        each: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let len = self.positions * self.head_dim;
        if len == 0 {
            return Ok(());
        }
        let used = |unit: usize| positions.div_ceil(unit) * unit * self.head_dim;
        // Of a layer the keys of all heads, which lie in blocks, then their values.
        let lens = [used(KEY_BLOCK), used(1)];
        for (index, head) in self.data.chunks_exact_mut(len).enumerate() {
            let used = lens[index / self.kv_heads % 2];
            each(bytemuck::cast_slice_mut(&mut head[..used]))?;
        }
        Ok(())
    }

    fn head_mut(&mut self, layer: usize, head: usize) -> (&mut [u16], &mut [u16]) {
        let (keys, values) = self.places(layer, head);
        let (before, after) = self.data.split_at_mut(values.start);
        (&mut before[keys], &mut after[..values.len()])
    }

    fn places(
        &self,
        layer: usize,
        head: usize,
    ) -> (core::ops::Range<usize>, core::ops::Range<usize>) {
        let len = self.positions * self.head_dim;
        let keys = (layer * 2 * self.kv_heads + head) * len;
        let values = keys + self.kv_heads * len;
        (keys..keys + len, values..values + len)
    }
}

/// The earlier columns of all convolutions, f32: `(layers, conv_width - 1, hidden)`.
#[derive(Debug)]
pub struct ConvState<'a> {
    data: &'a mut [f32],
    layer_len: usize,
}

impl<'a> ConvState<'a> {
    /// Bytes it takes.
    pub fn bytes(manifest: &Manifest) -> usize {
        Arena::cost::<f32>(manifest.conv_layers() * Self::layer_len(manifest))
    }

    /// Takes its memory.
    pub fn new(manifest: &Manifest, arena: &mut Arena<'a>) -> Result<Self, ArenaFull> {
        let layer_len = Self::layer_len(manifest);
        Ok(Self { data: arena.zeros(manifest.conv_layers() * layer_len)?, layer_len })
    }

    fn layer_len(manifest: &Manifest) -> usize {
        (manifest.shape.conv_width as usize - 1) * manifest.shape.hidden as usize
    }

    /// The state of one layer, `(conv_width - 1, hidden)`, oldest first.
    pub fn layer(&mut self, layer: usize) -> &mut [f32] {
        &mut self.data[layer * self.layer_len..][..self.layer_len]
    }

    /// All of it.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(self.data)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.data.fill(0.0);
    }
}
