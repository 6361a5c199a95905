//! How fast the cores multiply weights.

use std::time::{Duration, Instant};

use rill::image::layout::{Format, TILE_ROWS};
use rill::kernels::{self, CpuFeatures, Kernels, Panel};
use rill::seams::{Parallel, for_each_chunk};
use rill_linux::arena::Arena;
use rill_linux::engine::LoadError;
use rill_linux::pool::Pool;

/// Columns of a product, as many as the hidden width of LFM2-8B-A1B.
const COLS: usize = 2048;
const BLOCKS: usize = COLS / 32;
/// Rows that a core takes at a time.
const ROWS: usize = 16 * TILE_ROWS;
const CHUNK: usize = Format::Q4.tile_row_bytes(BLOCKS) * (ROWS / TILE_ROWS);
/// Weights that lie in RAM, and most of them in no cache.
const BYTES: usize = 256 << 20;
/// What disturbs a measurement only makes it slower: the fastest pass counts.
const PASSES: usize = 4;

/// Bytes of 4-bit weights a second that `threads` cores multiply with a token, while there are
/// `available` bytes of RAM.
pub fn weights_per_second(threads: usize, available: u64) -> Result<f64, LoadError> {
    let table = kernels::best(CpuFeatures::detect());
    let pool = Pool::new(threads);
    let mut product = Product::new(table, bytes(available), threads)?;
    let best = (0..PASSES).map(|_| {
        let begin = Instant::now();
        product.pass(&pool);
        begin.elapsed()
    });
    let best = best.min().unwrap_or_default().max(Duration::from_nanos(1));
    Ok(product.weights.len() as f64 / best.as_secs_f64())
}

/// As many bytes of weights as leave others most of what is available.
fn bytes(available: u64) -> usize {
    usize::try_from(available / 4).unwrap_or(usize::MAX).clamp(CHUNK, BYTES)
}

/// Rows of weights that are all alike, and a token.
struct Product {
    table: &'static Kernels,
    weights: Arena,
    words: Vec<i32>,
    sums: Vec<f32>,
}

impl Product {
    fn new(table: &'static Kernels, bytes: usize, threads: usize) -> Result<Self, LoadError> {
        let chunks = bytes / CHUNK;
        let mut weights = Arena::new(chunks * CHUNK, threads)
            .map_err(|error| LoadError::Ram { bytes: bytes as u64, error })?;
        weights.fill(0x11);
        let mut words = vec![0; Panel::len(1, COLS)];
        (table.quantise)(&[0.5; COLS], 1, &mut words);
        Ok(Self { table, weights, words, sums: vec![0.0; chunks * ROWS] })
    }

    /// Multiplies all rows once.
    fn pass(&mut self, pool: &Pool) {
        let Self { table, weights, words, sums } = self;
        let panel = Panel::new(words, 1);
        for_each_chunk(pool as &dyn Parallel, sums, ROWS, |number, sums| {
            table.matmul(Format::Q4, &weights[number * CHUNK..][..CHUNK], panel, sums);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_multiplied() {
        let of = |table, threads| {
            let mut product = Product::new(table, 5 * CHUNK, threads).unwrap();
            assert!(product.sums.len() == 5 * ROWS && product.weights.len() == 5 * CHUNK);
            product.pass(&Pool::new(threads));
            product.sums
        };
        let sums = of(kernels::best(CpuFeatures::detect()), 2);
        assert_eq!(sums, of(kernels::best(CpuFeatures::NONE), 1));
        assert!(sums[0] != 0.0 && sums.iter().all(|sum| *sum == sums[0]), "{:?}", &sums[..9]);
    }

    #[test]
    fn it_takes_little_of_a_small_machine() {
        assert_eq!([bytes(0), bytes(64 << 20), bytes(u64::MAX)], [CHUNK, 16 << 20, BYTES]);
        assert!(weights_per_second(2, 64 << 20).unwrap() > 0.0);
    }
}
