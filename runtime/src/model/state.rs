//! What convolutions remember of a sequence: their last columns.

use crate::arena::{Arena, ArenaFull};
use crate::image::Manifest;

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
