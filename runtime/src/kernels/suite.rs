//! One suite for every table that this machine can run: the bits of the scalar table, on odd
//! shapes and extreme values.

use std::vec;
use std::vec::Vec;

use half::f16;
use proptest::prelude::*;
use proptest::sample::select;

use super::panel::{self, BLOCK_WORDS, FINE_WORDS};
use super::{
    Attend, Blocks, Conv, CpuFeatures, FinePanel, Head, KEY_BLOCK, KV_BLOCK, Kernels, KeyValues,
    MAX_WIDTH, Panel, SCALAR, all, best, by_name,
};
use crate::image::layout::{self, BLOCK, Format, TILE_ROWS};

/// A seeded stream of awkward values.
struct Noise {
    state: u64,
    /// Whether floats span the whole range of magnitudes.
    wild: bool,
}

impl Noise {
    /// One step of SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    /// A finite float: mostly in -4..4, or of any magnitude.
    fn float(&mut self) -> f32 {
        const SPECIAL: [f32; 10] =
            [0.0, -0.0, 1.0, -1.0, 1e-45, -f32::MIN_POSITIVE, 87.5, -1e4, f32::MAX, -f32::MAX];
        if self.wild && self.one_in(8) {
            return SPECIAL[self.next() as usize % SPECIAL.len()];
        }
        if self.wild && self.one_in(2) {
            let value = f32::from_bits(self.next() as u32);
            return if value.is_finite() { value } else { 0.5 };
        }
        (self.next() as u32 as f32 / u32::MAX as f32 - 0.5) * 8.0
    }

    fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float()).collect()
    }

    /// The bits of a finite f16.
    fn half(&mut self) -> u16 {
        if self.wild {
            let bits = self.next() as u16;
            return if f16::from_bits(bits).is_finite() { bits } else { 0 };
        }
        f16::from_f32(self.float()).to_bits()
    }

    /// An integer, now and then at an end.
    fn int8(&mut self) -> i8 {
        if self.wild && self.one_in(4) {
            return if self.one_in(2) { i8::MIN } else { i8::MAX };
        }
        self.next() as i8
    }

    /// 32 integers in `lowest..=highest`, now and then all at the ends.
    fn quants(&mut self, lowest: i8, highest: i8) -> [i8; BLOCK] {
        let span = (i16::from(highest) - i16::from(lowest) + 1) as u64;
        match self.next() % 8 {
            0 => [lowest; BLOCK],
            1 => [highest; BLOCK],
            2 => [0; BLOCK],
            3 => core::array::from_fn(|_| if self.one_in(2) { lowest } else { highest }),
            _ => core::array::from_fn(|_| (i16::from(lowest) + (self.next() % span) as i16) as i8),
        }
    }

    /// Whole tile rows of weights.
    fn weights(&mut self, format: Format, tile_rows: usize, blocks: usize) -> Vec<u8> {
        let row_bytes = format.tile_row_bytes(blocks);
        let mut w = vec![0; tile_rows * row_bytes];
        let lowest = if format == Format::Q4 { -8 } else { -128 };
        for tile_row in w.chunks_exact_mut(row_bytes) {
            for (row, block) in (0..TILE_ROWS).flat_map(|r| (0..blocks).map(move |b| (r, b))) {
                let quants = self.quants(lowest, -(lowest + 1));
                layout::put_block(format, tile_row, row, block, &quants, self.half());
            }
        }
        w
    }

    /// Values to quantise: blocks of zeros, around the smallest scale that counts, all of them at
    /// the ends of the range, or any.
    fn activations(&mut self, len: usize) -> Vec<f32> {
        let mut x = self.floats(len);
        for block in x.chunks_exact_mut(BLOCK) {
            match self.next() % 8 {
                0 => block.fill(0.0),
                1 => block.iter_mut().for_each(|x| *x *= 1e-36),
                2 => block.fill(self.float()),
                3 => {
                    let end = self.float();
                    block.iter_mut().for_each(|x| *x = if self.one_in(2) { end } else { -end });
                }
                _ => {}
            }
        }
        x
    }

    /// A token's row of activations.
    fn row(&mut self, blocks: usize) -> Vec<i32> {
        let mut row = vec![0; blocks * BLOCK_WORDS];
        for block in row.chunks_exact_mut(BLOCK_WORDS) {
            let scale = self.float().abs();
            panel::put_block(block, 1, 0, scale, &self.quants(-127, 127));
        }
        row
    }
}

/// Fails unless both are the same bits; any NaN equals any other.
#[track_caller]
fn assert_same(kernels: &Kernels, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let same = g.to_bits() == e.to_bits() || (g.is_nan() && e.is_nan());
        assert!(same, "{}: element {i} is {g:e}, not {e:e}", kernels.name);
    }
}

/// Keys and values of one head, of either kind of element, in blocks of two pools.
struct Cached {
    head_dim: usize,
    table: Vec<u32>,
    halves: Vec<u16>,
    bytes: Vec<i8>,
    scales: Vec<u16>,
}

impl Cached {
    fn new(noise: &mut Noise, head_dim: usize, len: usize) -> Self {
        // What lies beyond `len` in the last block must not matter, a NaN included, nor may the
        // blocks of others.
        const NAN: u16 = 0x7e00;
        let count = len.div_ceil(KV_BLOCK) as u32;
        // Backwards, and every third block is somebody else's.
        let table: Vec<u32> = (0..count).rev().map(|block| block + block / 2).collect();
        Self {
            head_dim,
            halves: pool(&table, head_dim, len, NAN, || noise.half()),
            bytes: pool(&table, head_dim, len, i8::MIN, || noise.int8()),
            scales: pool(&table, 1, len, NAN, || noise.half()),
            table,
        }
    }

    fn kinds(&self) -> [KeyValues<'_>; 2] {
        let scales = blocks(&self.scales, &self.table, 1);
        [
            KeyValues::F16(Head::unscaled(blocks(&self.halves, &self.table, self.head_dim))),
            KeyValues::Int8(Head {
                elements: blocks(&self.bytes, &self.table, self.head_dim),
                scales,
            }),
        ]
    }
}

/// Where a pool of blocks that hold one head has its keys and values.
fn blocks<'k, T>(pool: &'k [T], table: &'k [u32], width: usize) -> Blocks<'k, T> {
    let values_at = KV_BLOCK * width;
    Blocks { pool, table, stride: 2 * values_at, keys_at: 0, values_at, width }
}

/// Keys and values of `len` positions as [`Blocks`] has them, `rest` wherever none is.
fn pool<E: Copy>(
    table: &[u32],
    width: usize,
    len: usize,
    rest: E,
    mut element: impl FnMut() -> E,
) -> Vec<E> {
    let block_len = 2 * KV_BLOCK * width;
    let count = table.iter().max().map_or(0, |&last| last as usize + 1);
    let mut pool = vec![rest; count * block_len];
    for position in 0..len {
        let block = table[position / KV_BLOCK] as usize * block_len;
        let within = position % KV_BLOCK;
        let keys = block + within / KEY_BLOCK * KEY_BLOCK * width + within % KEY_BLOCK;
        let values = block + KV_BLOCK * width + within * width;
        for d in 0..width {
            pool[keys + d * KEY_BLOCK] = element();
            pool[values + d] = element();
        }
    }
    pool
}

/// Fails unless every table gives the scalar table's bits.
#[track_caller]
fn assert_all_attend(a: &Attend<'_>) {
    let mut expected = vec![0.0; a.queries.len()];
    (SCALAR.attend)(a, &mut expected);
    for kernels in all(CpuFeatures::detect()) {
        let mut out = vec![f32::NAN; a.queries.len()];
        (kernels.attend)(a, &mut out);
        assert_same(kernels, &out, &expected);
    }
}

/// Lengths around the widths of vectors.
fn lengths() -> impl Strategy<Value = usize> {
    select(&[1_usize, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 129, 256][..])
}

fn noise() -> impl Strategy<Value = Noise> {
    (any::<u64>(), any::<bool>()).prop_map(|(state, wild)| Noise { state, wild })
}

impl core::fmt::Debug for Noise {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Noise {{ state: {}, wild: {} }}", self.state, self.wild)
    }
}

#[test]
fn names_find_their_tables() {
    assert_eq!(all(CpuFeatures::detect()).last().map(|k| k.name), Some("scalar"));
    assert_eq!(all(CpuFeatures::NONE).count(), 1);
    assert_eq!(best(CpuFeatures::NONE).name, "scalar");
    for kernels in all(CpuFeatures::detect()) {
        assert!((1..=MAX_WIDTH).contains(&kernels.width));
        assert!((1..=MAX_WIDTH).contains(&kernels.fine_width));
        assert_eq!(
            by_name(kernels.name, CpuFeatures::detect()).map(|k| k.name),
            Some(kernels.name)
        );
    }
    // Who emulates a CPU says what it must be able to do, or a table would be left out in silence.
    if let Ok(expected) = std::env::var("RILL_TEST_KERNELS") {
        assert_eq!(best(CpuFeatures::detect()).name, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn matmul(
        mut noise in noise(),
        format in select(&[Format::Q4, Format::Q8][..]),
        tile_rows in 1..=5_usize,
        blocks in 1..=9_usize,
    ) {
        let w = noise.weights(format, tile_rows, blocks);
        let rows: Vec<_> = (0..MAX_WIDTH).map(|_| noise.row(blocks)).collect();
        let expected: Vec<_> = rows
            .iter()
            .map(|row| {
                let mut y = vec![0.0; tile_rows * TILE_ROWS];
                SCALAR.matmul(format, &w, Panel::new(row, 1), &mut y);
                y
            })
            .collect();
        for kernels in all(CpuFeatures::detect()) {
            for width in 1..=kernels.width {
                let tokens: Vec<u32> = (0..width as u32).collect();
                let mut words = vec![0; width * blocks * BLOCK_WORDS];
                panel::gather(&rows.concat(), blocks, &tokens, &mut words);
                let mut y = vec![f32::NAN; tile_rows * width * TILE_ROWS];
                kernels.matmul(format, &w, Panel::new(&words, width), &mut y);
                for (i, tile) in y.chunks_exact(TILE_ROWS).enumerate() {
                    let (tile_row, token) = (i / width, i % width);
                    let expected = &expected[token][tile_row * TILE_ROWS..][..TILE_ROWS];
                    assert_same(kernels, tile, expected);
                }
            }
        }
    }

    #[test]
    fn matmul_f32(mut noise in noise(), tile_rows in 1..=3_usize, cols in lengths()) {
        let w = noise.floats(tile_rows * cols * TILE_ROWS);
        let x = noise.floats(cols);
        let mut expected = vec![0.0; tile_rows * TILE_ROWS];
        (SCALAR.matmul_f32)(&w, &x, &mut expected);
        for kernels in all(CpuFeatures::detect()) {
            let mut y = vec![f32::NAN; expected.len()];
            (kernels.matmul_f32)(&w, &x, &mut y);
            assert_same(kernels, &y, &expected);
        }
    }

    #[test]
    fn quantise(mut noise in noise(), width in 1..=MAX_WIDTH, blocks in 1..=5_usize) {
        let x = noise.activations(width * blocks * BLOCK);
        let mut expected = vec![0; Panel::len(width, blocks * BLOCK)];
        (SCALAR.quantise)(&x, width, &mut expected);
        for kernels in all(CpuFeatures::detect()) {
            let mut words = vec![-1; expected.len()];
            (kernels.quantise)(&x, width, &mut words);
            assert_eq!(words, expected, "{}", kernels.name);
        }
    }

    #[test]
    fn quantise_fine(mut noise in noise(), width in 1..=MAX_WIDTH, blocks in 1..=5_usize) {
        let x = noise.activations(width * blocks * BLOCK);
        let mut expected = vec![0; FinePanel::len(width, blocks * BLOCK)];
        (SCALAR.quantise_fine)(&x, width, &mut expected);
        for kernels in all(CpuFeatures::detect()) {
            let mut words = vec![-1; expected.len()];
            (kernels.quantise_fine)(&x, width, &mut words);
            // The integers are arranged as the table likes them: its products show them.
            let len = width * FINE_WORDS;
            for (words, expected) in words.chunks_exact(len).zip(expected.chunks_exact(len)) {
                assert_eq!(words[..2 * width], expected[..2 * width], "{}", kernels.name);
            }
        }
        let panel = FinePanel::new(&expected, width);
        for (token, row) in x.chunks_exact(blocks * BLOCK).enumerate() {
            for (block, x) in row.chunks_exact(BLOCK).enumerate() {
                let scale = f64::from(panel.scale_and_offset(block, token).0);
                for (i, &x) in x.iter().enumerate() {
                    let value = scale * f64::from(panel.group(block, i / 4, token)[i % 4]);
                    // Half a step, and what rounding the scale and its inverse adds at the ends.
                    let most = if scale > 0.0 { 0.51 * scale } else { 4e-34 };
                    assert!((f64::from(x) - value).abs() <= most, "{x:e} became {value:e}");
                }
            }
        }
    }

    #[test]
    fn matmul_fine(
        mut noise in noise(),
        format in select(&[Format::Q4, Format::Q8][..]),
        tile_rows in 1..=5_usize,
        blocks in 1..=9_usize,
    ) {
        let w = noise.weights(format, tile_rows, blocks);
        let x = noise.activations(MAX_WIDTH * blocks * BLOCK);
        let run = |kernels: &Kernels, x: &[f32], width: usize| {
            let mut words = vec![-1; FinePanel::len(width, blocks * BLOCK)];
            (kernels.quantise_fine)(x, width, &mut words);
            let mut y = vec![f32::NAN; tile_rows * width * TILE_ROWS];
            kernels.matmul_fine(format, &w, FinePanel::new(&words, width), &mut y);
            y
        };
        let expected: Vec<_> =
            x.chunks_exact(blocks * BLOCK).map(|x| run(&SCALAR, x, 1)).collect();
        for kernels in all(CpuFeatures::detect()) {
            for width in 1..=kernels.fine_width {
                let y = run(kernels, &x[..width * blocks * BLOCK], width);
                for (i, tile) in y.chunks_exact(TILE_ROWS).enumerate() {
                    let (tile_row, token) = (i / width, i % width);
                    let expected = &expected[token][tile_row * TILE_ROWS..][..TILE_ROWS];
                    assert_same(kernels, tile, expected);
                }
            }
        }
    }

    #[test]
    fn swiglu(mut noise in noise(), len in lengths()) {
        let gate = noise.floats(len);
        let up = noise.floats(len);
        let mut expected = gate.clone();
        (SCALAR.swiglu)(&mut expected, &up);
        for kernels in all(CpuFeatures::detect()) {
            let mut y = gate.clone();
            (kernels.swiglu)(&mut y, &up);
            assert_same(kernels, &y, &expected);
        }
    }

    #[test]
    fn rms_norm(mut noise in noise(), half in lengths()) {
        let x = noise.floats(2 * half);
        let weight = noise.floats(2 * half);
        let mut expected = vec![0.0; 2 * half];
        (SCALAR.rms_norm)(&x, &weight, 1e-5, &mut expected);
        for kernels in all(CpuFeatures::detect()) {
            let mut y = vec![f32::NAN; 2 * half];
            (kernels.rms_norm)(&x, &weight, 1e-5, &mut y);
            assert_same(kernels, &y, &expected);
        }
    }

    #[test]
    fn add_scaled(mut noise in noise(), len in lengths()) {
        let (y, x, scale) = (noise.floats(len), noise.floats(len), noise.float());
        let mut expected = y.clone();
        (SCALAR.add_scaled)(&mut expected, &x, scale);
        for kernels in all(CpuFeatures::detect()) {
            let mut y = y.clone();
            (kernels.add_scaled)(&mut y, &x, scale);
            assert_same(kernels, &y, &expected);
        }
    }

    #[test]
    fn attend(
        mut noise in noise(),
        head_dim in select(&[2_usize, 6, 32, 64, 80, 128][..]),
        queries in 1..=9_usize,
        len in prop_oneof![lengths(), 1..=129_usize, 129..=300_usize],
    ) {
        let queries = noise.floats(queries * head_dim);
        for kv in Cached::new(&mut noise, head_dim, len).kinds() {
            assert_all_attend(&Attend { queries: &queries, kv, head_dim, len });
        }
    }

    #[test]
    fn int8_is_f16_where_both_are_exact(
        mut noise in noise(),
        head_dim in select(&[2_usize, 6, 64][..]),
        len in 1..=50_usize,
    ) {
        noise.wild = false;
        let queries = noise.floats(head_dim);
        let mut cached = Cached::new(&mut noise, head_dim, len);
        let scale = f16::from_f32(1.0 / 64.0);
        let exact = |&b: &i8| (f16::from_f32(f32::from(b)) * scale).to_bits();
        cached.halves = cached.bytes.iter().map(exact).collect();
        cached.scales.fill(scale.to_bits());
        let [expected, out] = cached.kinds().map(|kv| {
            let mut out = vec![0.0; head_dim];
            (SCALAR.attend)(&Attend { queries: &queries, kv, head_dim, len }, &mut out);
            out
        });
        assert_same(&SCALAR, &out, &expected);
    }

    #[test]
    fn attention_survives_infinite_scores(
        mut noise in noise(),
        queries in 1..=5_usize,
        len in 1..=50_usize,
        least in any::<bool>(),
    ) {
        let head_dim = 6;
        let queries = vec![if least { -f32::MAX } else { f32::MAX }; queries * head_dim];
        for kv in Cached::new(&mut noise, head_dim, len).kinds() {
            assert_all_attend(&Attend { queries: &queries, kv, head_dim, len });
        }
    }

    #[test]
    fn checksum(
        mut noise in noise(),
        len in select(&[0_usize, 1, 16, 240, 241, 256, 257, 1023, 1024, 1025, 1088, 5000, 65_536][..]),
        skip in 0..70_usize,
    ) {
        let bytes: Vec<u8> = (0..len + skip).map(|_| noise.next() as u8).collect();
        let expected = (SCALAR.checksum)(&bytes[skip..]);
        for kernels in all(CpuFeatures::detect()) {
            assert_eq!((kernels.checksum)(&bytes[skip..]), expected, "{}", kernels.name);
        }
    }

    #[test]
    fn conv(mut noise in noise(), hidden in lengths(), width in 2..=5_usize) {
        let bcx = noise.floats(3 * hidden);
        let taps = noise.floats(width * hidden);
        let state = noise.floats((width - 1) * hidden);
        let run = |kernels: &Kernels| {
            let (mut state, mut y) = (state.clone(), vec![f32::NAN; hidden]);
            (kernels.conv)(Conv { bcx: &bcx, taps: &taps, state: &mut state, y: &mut y });
            (state, y)
        };
        let (expected_state, expected) = run(&SCALAR);
        for kernels in all(CpuFeatures::detect()) {
            let (state, y) = run(kernels);
            assert_same(kernels, &state, &expected_state);
            assert_same(kernels, &y, &expected);
        }
    }
}
