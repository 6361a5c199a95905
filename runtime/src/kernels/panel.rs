//! Activations as the kernels read them.

use bytemuck::{cast_slice, cast_slice_mut};

use crate::image::layout::BLOCK;

/// 32-bit words of one token's block: scale, offset and 8 groups of four 8-bit activations.
pub const BLOCK_WORDS: usize = 2 + BLOCK / 4;
/// Most tokens of a panel, in any table.
pub const MAX_WIDTH: usize = 16;

/// Quantised activations of `width` tokens, block by block.
///
/// One block of 32 columns is `width * BLOCK_WORDS` words:
///
/// | words | content |
/// |---|---|
/// | `width` | scale of each token's block, the bits of an f32 |
/// | `width` | offset of each token's block: -8 times the sum of its integers, i32 |
/// | 8 x `width` | group `g` (columns 4 g .. 4 g + 4), token `t`: four i8, lowest column in the lowest byte |
///
/// The offset undoes the +8 of stored 4-bit weights: sum((w + 8) a) + offset = sum(w a).
/// With `width` 1 a panel is simply a token's row.
#[derive(Debug, Clone, Copy)]
pub struct Panel<'a> {
    words: &'a [i32],
    width: usize,
}

impl<'a> Panel<'a> {
    /// Takes `words` as a panel of `width` tokens.
    pub fn new(words: &'a [i32], width: usize) -> Self {
        assert!((1..=MAX_WIDTH).contains(&width));
        assert!(words.len().is_multiple_of(width * BLOCK_WORDS));
        Self { words, width }
    }

    /// Words of a panel: also the words of `width` rows.
    pub const fn len(width: usize, cols: usize) -> usize {
        width * (cols / BLOCK) * BLOCK_WORDS
    }

    /// How many tokens.
    pub const fn width(&self) -> usize {
        self.width
    }

    /// How many blocks of 32 columns.
    pub const fn blocks(&self) -> usize {
        self.words.len() / (self.width * BLOCK_WORDS)
    }

    /// All of it.
    pub const fn words(&self) -> &'a [i32] {
        self.words
    }

    /// Block `block`.
    pub fn block(&self, block: usize) -> &'a [i32] {
        let len = self.width * BLOCK_WORDS;
        &self.words[block * len..][..len]
    }

    /// Scale and offset of token `token` in block `block`.
    pub fn scale_and_offset(&self, block: usize, token: usize) -> (f32, i32) {
        let block = self.block(block);
        (f32::from_bits(block[token] as u32), block[self.width + token])
    }

    /// The four activations of group `group` of token `token` in block `block`.
    pub fn group(&self, block: usize, group: usize, token: usize) -> [i8; 4] {
        (self.block(block)[(2 + group) * self.width + token] as u32).to_le_bytes().map(|b| b as i8)
    }
}

/// Writes one token's block into a panel's block of `width` tokens.
pub fn put_block(
    panel_block: &mut [i32],
    width: usize,
    token: usize,
    scale: f32,
    quants: &[i8; BLOCK],
) {
    panel_block[token] = scale.to_bits() as i32;
    panel_block[width + token] = -8 * quants.iter().map(|&q| i32::from(q)).sum::<i32>();
    for (group, four) in quants.as_chunks::<4>().0.iter().enumerate() {
        panel_block[(2 + group) * width + token] = i32::from_le_bytes(four.map(|q| q as u8));
    }
}

/// Gathers `tokens.len()` rows (panels of width 1, each `blocks` blocks, at `rows`) into one panel.
pub fn gather(rows: &[i32], blocks: usize, tokens: &[u32], panel: &mut [i32]) {
    let width = tokens.len();
    let row_words = blocks * BLOCK_WORDS;
    for (t, &token) in tokens.iter().enumerate() {
        let row = &rows[token as usize * row_words..][..row_words];
        for (from, to) in
            row.chunks_exact(BLOCK_WORDS).zip(panel.chunks_exact_mut(width * BLOCK_WORDS))
        {
            for (word, &value) in from.iter().enumerate() {
                to[word * width + t] = value;
            }
        }
    }
}

/// The integers of a token's row, for tests and tools.
pub fn row_quants(row: &[i32]) -> impl Iterator<Item = &[i8]> {
    row.chunks_exact(BLOCK_WORDS).map(|block| cast_slice(&block[2..]))
}

/// The integers of one block of a row, to write.
pub fn block_quants_mut(block: &mut [i32]) -> &mut [i8] {
    cast_slice_mut(&mut block[2..])
}
