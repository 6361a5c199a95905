//! Activations as the kernels read them.

use crate::image::layout::BLOCK;

/// 32-bit words of one token's block: scale, offset and 8 groups of four 8-bit activations.
pub const BLOCK_WORDS: usize = 2 + BLOCK / 4;
/// 32-bit words of one token's fine block: scale, offset and 32 activations of 16 bits.
pub const FINE_WORDS: usize = 2 + BLOCK / 2;
/// Most tokens of a panel, in any table.
pub const MAX_WIDTH: usize = 12;

/// The word of group `group` of token `token` within a block of `width` tokens.
#[inline(always)]
pub const fn group_at(width: usize, group: usize, token: usize) -> usize {
    2 * (width + group / 2 * width + token) + group % 2
}

/// The word of pair `pair` of token `token` within a fine block of `width` tokens.
#[inline(always)]
pub const fn pair_at(width: usize, pair: usize, token: usize) -> usize {
    (2 + pair) * width + token
}

/// Activations of `width` tokens as 8-bit integers, block by block.
///
/// One block of 32 columns is `width * BLOCK_WORDS` words:
///
/// | words | content |
/// |---|---|
/// | `width` | scale of each token's block, the bits of an f32 |
/// | `width` | offset of each token's block: -8 times the sum of its integers, i32 |
/// | 4 x 2 `width` | pair `p`, token `t`, half `h`: group `2 p + h` (columns 4 g .. 4 g + 4), four i8 in -127..=127, the lowest column in the lowest byte |
///
/// Eight columns of a token lie together, as the rows of `smmla` want them; products by lanes
/// broadcast single words and take any order. [`group_at`] tells where a group is.
///
/// The offset undoes the +8 of stored 4-bit weights: sum((w + 8) a) + offset = sum(w a).
/// With `width` 1 a panel is simply a token's row.
pub type Panel<'a> = Quantised<'a, BLOCK_WORDS>;

/// Activations of `width` tokens as 16-bit integers, block by block.
///
/// One block of 32 columns is `width * FINE_WORDS` words: scales and offsets as in a [`Panel`],
/// then 16 `width` words that a table arranges as its products want them. Here, pair `p`, token
/// `t` (see [`pair_at`]): columns `4 g + j` and `4 g + j + 2`, i16 in -32512..=32512, where
/// `p = 2 g + j`. So the weights of a pair are two bytes of a lane without what lies between them.
pub type FinePanel<'a> = Quantised<'a, FINE_WORDS>;

/// Quantised activations of some tokens, `WORDS` words for each token and block.
#[derive(Debug, Clone, Copy)]
pub struct Quantised<'a, const WORDS: usize> {
    words: &'a [i32],
    width: usize,
}

impl<'a, const WORDS: usize> Quantised<'a, WORDS> {
    /// Takes `words` as a panel of `width` tokens.
    pub fn new(words: &'a [i32], width: usize) -> Self {
        assert!((1..=MAX_WIDTH).contains(&width));
        assert!(words.len().is_multiple_of(width * WORDS));
        Self { words, width }
    }

    /// Words of a panel: also the words of `width` rows.
    pub const fn len(width: usize, cols: usize) -> usize {
        width * (cols / BLOCK) * WORDS
    }

    /// How many tokens.
    pub const fn width(&self) -> usize {
        self.width
    }

    /// How many blocks of 32 columns.
    pub const fn blocks(&self) -> usize {
        self.words.len() / (self.width * WORDS)
    }

    /// All of it.
    pub const fn words(&self) -> &'a [i32] {
        self.words
    }

    /// Block `block`.
    pub fn block(&self, block: usize) -> &'a [i32] {
        let len = self.width * WORDS;
        &self.words[block * len..][..len]
    }

    /// Scale and offset of token `token` in block `block`.
    pub fn scale_and_offset(&self, block: usize, token: usize) -> (f32, i32) {
        let block = self.block(block);
        (f32::from_bits(block[token] as u32), block[self.width + token])
    }
}

impl Panel<'_> {
    /// The four activations of group `group` of token `token` in block `block`.
    pub fn group(&self, block: usize, group: usize, token: usize) -> [i8; 4] {
        (self.block(block)[group_at(self.width, group, token)] as u32)
            .to_le_bytes()
            .map(|b| b as i8)
    }
}

impl FinePanel<'_> {
    /// The four activations of group `group` of token `token` in block `block`, of a panel whose
    /// words are arranged in pairs.
    pub fn group(&self, block: usize, group: usize, token: usize) -> [i16; 4] {
        let block = self.block(block);
        let [even, odd] = [0, 1].map(|j| block[pair_at(self.width, 2 * group + j, token)]);
        [even as i16, odd as i16, (even >> 16) as i16, (odd >> 16) as i16]
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
        panel_block[group_at(width, group, token)] = i32::from_le_bytes(four.map(|q| q as u8));
    }
}

/// Writes one token's fine block, arranged in pairs, into a panel's block of `width` tokens.
pub fn put_fine_block(
    panel_block: &mut [i32],
    width: usize,
    token: usize,
    scale: f32,
    quants: &[i16; BLOCK],
) {
    panel_block[token] = scale.to_bits() as i32;
    panel_block[width + token] = -8 * quants.iter().map(|&q| i32::from(q)).sum::<i32>();
    for (group, four) in quants.as_chunks::<4>().0.iter().enumerate() {
        for j in 0..2 {
            let pair = i32::from(four[j + 2]) << 16 | i32::from(four[j] as u16);
            panel_block[pair_at(width, 2 * group + j, token)] = pair;
        }
    }
}

/// Calls `body(x, words, token)` for each block of each row of `x` and its place in a panel.
#[inline(always)]
pub fn for_each_block<const WORDS: usize>(
    x: &[f32],
    width: usize,
    panel: &mut [i32],
    body: impl Fn(&[f32; BLOCK], &mut [i32], usize),
) {
    assert!(width > 0 && x.len().is_multiple_of(width * BLOCK));
    let cols = x.len() / width;
    assert_eq!(panel.len(), Quantised::<WORDS>::len(width, cols));
    for (token, row) in x.chunks_exact(cols.max(1)).enumerate() {
        let blocks = panel.chunks_exact_mut(width * WORDS);
        for (x, words) in row.as_chunks::<BLOCK>().0.iter().zip(blocks) {
            body(x, words, token);
        }
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
            to[t] = from[0];
            to[width + t] = from[1];
            for (group, &four) in from[2..].iter().enumerate() {
                to[group_at(width, group, t)] = four;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fine_block_gives_its_integers_back() {
        const WIDTH: usize = 3;
        let mut words = [-1; WIDTH * FINE_WORDS];
        let quants = |token: i16| core::array::from_fn(|i| (i as i16 - 16) * (2039 - token));
        for token in 0..WIDTH {
            put_fine_block(&mut words, WIDTH, token, token as f32, &quants(token as i16));
        }
        let panel = FinePanel::new(&words, WIDTH);
        for token in 0..WIDTH {
            let quants: [i16; BLOCK] = quants(token as i16);
            let sum: i32 = quants.iter().map(|&q| i32::from(q)).sum();
            assert_eq!(panel.scale_and_offset(0, token), (token as f32, -8 * sum));
            for (group, four) in quants.as_chunks::<4>().0.iter().enumerate() {
                assert_eq!(panel.group(0, group, token), *four);
            }
        }
    }

    #[test]
    fn every_group_has_its_own_word_and_rows_gather() {
        const WIDTH: usize = 3;
        let rows: [i32; 2 * WIDTH * BLOCK_WORDS] = core::array::from_fn(|i| i as i32);
        let mut panel = [-1; 2 * WIDTH * BLOCK_WORDS];
        gather(&rows, 2, &[2, 0, 1], &mut panel);
        let panel = Panel::new(&panel, WIDTH);
        for (t, row) in [2, 0, 1].into_iter().enumerate() {
            let row = Panel::new(&rows[row * 2 * BLOCK_WORDS..][..2 * BLOCK_WORDS], 1);
            for block in 0..2 {
                assert_eq!(panel.scale_and_offset(block, t), row.scale_and_offset(block, 0));
                for group in 0..BLOCK / 4 {
                    assert_eq!(panel.group(block, group, t), row.group(block, group, 0));
                }
            }
        }
    }
}
