//! What a model remembers of a sequence: which blocks hold its keys and values, and the last columns
//! of its convolutions.

use super::kv::KvPool;
use crate::arena::{Arena, ArenaFull};
use crate::image::Manifest;
use crate::kernels::KV_BLOCK;

/// What a model remembers of one sequence.
///
/// Nothing in it changes while a batch is computed, but for keys and values after its end: what a
/// batch adds counts when [`Memory::commit`] says so.
#[derive(Debug)]
pub struct Memory<'a> {
    /// The first `blocks` are the numbers of its blocks, in order of position.
    table: &'a mut [u32],
    blocks: usize,
    /// Columns by position: of all convolutions, `(layers, ring, hidden)`, position `p` at
    /// `p % ring`.
    columns: Columns<'a>,
    /// Columns that the next token needs.
    window: usize,
    /// The first position whose column is known.
    oldest: usize,
    /// Positions that were computed.
    len: usize,
}

/// Where the columns of a run are staged: that of `position` at `place`, those after it follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staged {
    /// The first position that has one.
    pub position: usize,
    /// Its place.
    pub place: usize,
}

impl Staged {
    /// The place of a position from [`Self::position`] on.
    const fn of(self, position: usize) -> usize {
        self.place + position - self.position
    }
}

/// A few columns of every convolution, f32: `(layers, places, hidden)`.
#[derive(Debug)]
pub struct Columns<'a> {
    data: &'a mut [f32],
    places: usize,
    hidden: usize,
}

impl<'a> Memory<'a> {
    /// Bytes for a sequence of up to `context` positions that keeps `ring` columns.
    pub fn bytes(manifest: &Manifest, context: usize, ring: usize) -> usize {
        Arena::cost::<u32>(context.div_ceil(KV_BLOCK)) + Columns::bytes(manifest, ring)
    }

    /// Takes its memory.
    pub fn new(
        manifest: &Manifest,
        context: usize,
        ring: usize,
        arena: &mut Arena<'a>,
    ) -> Result<Self, ArenaFull> {
        let table = arena.zeros(context.div_ceil(KV_BLOCK))?;
        let columns = Columns::new(manifest, ring, arena)?;
        Ok(Self { table, blocks: 0, columns, window: window(manifest), oldest: 0, len: 0 })
    }

    /// Positions that were computed.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Most positions that it has room for.
    pub const fn most(&self) -> usize {
        self.table.len() * KV_BLOCK
    }

    /// Whether nothing was computed.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the columns that it keeps.
    pub fn column_bytes(&self) -> usize {
        size_of_val(self.columns.data)
    }

    /// The numbers of the blocks of keys and values, in order of position.
    pub fn table(&self) -> &[u32] {
        &self.table[..self.blocks]
    }

    /// Blocks that [`Self::reserve`] would take.
    pub fn needs(&self, pool: &KvPool<'_>, end: usize) -> usize {
        let tail = self.table().get(self.len / KV_BLOCK);
        let shared = tail.is_some_and(|&block| !pool.is_sole(block));
        end.div_ceil(KV_BLOCK).saturating_sub(self.blocks) + usize::from(shared)
    }

    /// Sees to it that the positions from [`Self::len`] to `end` can be written. Says whether there
    /// are enough blocks; what it took stays.
    pub fn reserve(&mut self, pool: &mut KvPool<'_>, end: usize) -> bool {
        // A block that others have too is not written in.
        let tail = self.len / KV_BLOCK;
        if let Some(&shared) = self.table().get(tail).filter(|&&block| !pool.is_sole(block)) {
            let Some(own) = pool.take() else { return false };
            pool.copy(shared, own);
            pool.give_back(shared);
            self.table[tail] = own;
        }
        while self.blocks * KV_BLOCK < end {
            let Some(block) = pool.take() else { return false };
            self.table[self.blocks] = block;
            self.blocks += 1;
        }
        true
    }

    /// The columns of layer `layer` before position [`Self::len`], oldest first: `(conv_width - 1,
    /// hidden)`, zeros before the beginning.
    pub fn window(&self, layer: usize, window: &mut [f32]) {
        let hidden = self.columns.hidden;
        let width = window.len() / hidden;
        for (index, column) in window.chunks_exact_mut(hidden).enumerate() {
            match (self.len + index).checked_sub(width) {
                None => column.fill(0.0),
                Some(at) => column.copy_from_slice(self.columns.get(layer, self.columns.place(at))),
            }
        }
    }

    /// The next positions, up to `end`, were computed by a run whose last columns are `staged`.
    pub fn commit(&mut self, end: usize, staged: &Columns<'_>, at: Staged) {
        let from = self.len.max(end.saturating_sub(self.columns.places));
        for position in from..end {
            let place = self.columns.place(position);
            for layer in 0..self.columns.layers() {
                let column = staged.get(layer, at.of(position));
                self.columns.get_mut(layer, place).copy_from_slice(column);
            }
        }
        self.oldest = self.oldest.max(end.saturating_sub(self.columns.places));
        self.len = end;
    }

    /// Whether [`Self::rewind`] can go back to `len` positions.
    pub fn can_rewind(&self, len: usize) -> bool {
        let first = len.saturating_sub(self.window);
        len == 0 || len <= self.len && first >= self.oldest
    }

    /// Goes back to `len` positions, for which [`Self::can_rewind`] holds, and gives back what blocks
    /// are not needed for them.
    pub fn rewind(&mut self, pool: &mut KvPool<'_>, len: usize) {
        debug_assert!(self.can_rewind(len));
        if len == 0 {
            self.oldest = 0;
        }
        self.len = len;
        self.trim(pool);
    }

    /// Gives back what blocks no computed position needs.
    pub fn trim(&mut self, pool: &mut KvPool<'_>) {
        while self.blocks > self.len.div_ceil(KV_BLOCK) {
            self.blocks -= 1;
            pool.give_back(self.table[self.blocks]);
        }
    }

    /// Becomes the positions in the first `blocks` blocks of `other`, which keeps them; no column is
    /// known.
    pub fn share_blocks(&mut self, pool: &mut KvPool<'_>, other: &Memory<'_>, blocks: usize) {
        self.rewind(pool, 0);
        self.blocks = blocks;
        for (to, &block) in self.table.iter_mut().zip(&other.table()[..blocks]) {
            pool.share(block);
            *to = block;
        }
        self.len = blocks * KV_BLOCK;
        self.oldest = self.len;
    }

    /// Becomes a copy of the first `len` positions of `other`, which keeps what it has: blocks are
    /// shared. Columns of positions that `other` does not count yet are `staged`.
    ///
    /// `other` knows the columns that the position after them needs, or they are staged.
    pub fn copy_from(
        &mut self,
        pool: &mut KvPool<'_>,
        other: &Memory<'_>,
        len: usize,
        staged: Option<(&Columns<'_>, Staged)>,
    ) {
        self.share_blocks(pool, other, len.div_ceil(KV_BLOCK));
        let oldest = other.oldest.max(len.saturating_sub(self.columns.places));
        for position in oldest..len {
            let (from, at) = match staged {
                Some((columns, at)) if position >= at.position => (columns, at.of(position)),
                _ => (&other.columns, other.columns.place(position)),
            };
            let place = self.columns.place(position);
            for layer in 0..self.columns.layers() {
                self.columns.get_mut(layer, place).copy_from_slice(from.get(layer, at));
            }
        }
        (self.oldest, self.len) = (oldest, len);
    }

    /// Calls `each` with all memory that the computed positions have changed, always in the same
    /// order; without the keys and values of the first `blocks` blocks.
    pub fn visit_from<E>(
        &mut self,
        pool: &mut KvPool<'_>,
        blocks: usize,
        each: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let positions = self.len.saturating_sub(blocks * KV_BLOCK);
        pool.visit(&self.table[blocks.min(self.blocks)..self.blocks], positions, each)?;
        each(bytemuck::cast_slice_mut(self.columns.data))
    }

    /// As if `len` positions had been computed, which are reserved: [`Self::visit_from`] is then given
    /// their memory.
    pub fn restore(&mut self, len: usize) {
        self.len = len;
        self.oldest = len.saturating_sub(self.columns.places);
    }
}

impl<'a> Columns<'a> {
    /// Bytes for `places` columns of each convolution.
    pub fn bytes(manifest: &Manifest, places: usize) -> usize {
        Arena::cost::<f32>(Self::numbers(manifest, places))
    }

    /// Takes its memory.
    pub fn new(
        manifest: &Manifest,
        places: usize,
        arena: &mut Arena<'a>,
    ) -> Result<Self, ArenaFull> {
        let hidden = manifest.shape.hidden as usize;
        Ok(Self { data: arena.zeros(Self::numbers(manifest, places))?, places, hidden })
    }

    fn numbers(manifest: &Manifest, places: usize) -> usize {
        manifest.conv_layers() * places * manifest.shape.hidden as usize
    }

    /// The column of a layer at a place.
    pub fn get(&self, layer: usize, place: usize) -> &[f32] {
        &self.data[(layer * self.places + place) * self.hidden..][..self.hidden]
    }

    /// The column of a layer at a place.
    pub fn get_mut(&mut self, layer: usize, place: usize) -> &mut [f32] {
        &mut self.data[(layer * self.places + place) * self.hidden..][..self.hidden]
    }

    /// How many there are of each layer.
    pub const fn places(&self) -> usize {
        self.places
    }

    /// Where the column of a position is, of those that are kept by position.
    const fn place(&self, position: usize) -> usize {
        position % self.places
    }

    fn layers(&self) -> usize {
        self.data.len() / (self.places * self.hidden)
    }
}

/// Columns that the next token of a sequence needs.
pub fn window(manifest: &Manifest) -> usize {
    manifest.shape.conv_width as usize - 1
}

/// Columns that a sequence keeps: twice as many as the next token needs, so that it can go back
/// by as many tokens.
pub fn ring(manifest: &Manifest) -> usize {
    2 * window(manifest)
}
