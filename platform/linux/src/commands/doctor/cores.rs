//! How fast the cores multiply weights.

use std::time::{Duration, Instant};

use rill::image::layout::{Format, TILE_ROWS};
use rill::kernels::{self, CpuFeatures, Panel};
use rill::seams::{Parallel, for_each_chunk};
use rill_linux::arena::Arena;
use rill_linux::engine::LoadError;
use rill_linux::pool::Pool;

/// Columns of a product, as many as the hidden width of LFM2-8B-A1B.
const COLS: usize = 2048;
const BLOCKS: usize = COLS / 32;
/// Rows that a core takes at a time.
const ROWS: usize = 16 * TILE_ROWS;
/// Weights that lie in RAM and in no cache.
const BYTES: usize = 32 << 20;
/// What disturbs a measurement only makes it slower: the fastest pass counts.
const PASSES: usize = 4;

/// Bytes of 4-bit weights a second that `threads` cores multiply with a token.
pub fn weights_per_second(threads: usize) -> Result<f64, LoadError> {
    let table = kernels::best(CpuFeatures::detect());
    let pool = Pool::new(threads);
    let chunk = Format::Q4.tile_row_bytes(BLOCKS) * (ROWS / TILE_ROWS);
    let chunks = BYTES / chunk;
    let mut weights = Arena::new(chunks * chunk, threads)
        .map_err(|error| LoadError::Ram { bytes: BYTES as u64, error })?;
    weights.fill(0x11);
    let mut words = vec![0; Panel::len(1, COLS)];
    (table.quantise)(&[0.5; COLS], 1, &mut words);
    let panel = Panel::new(&words, 1);
    let mut sums = vec![0.0; chunks * ROWS];
    let best = (0..PASSES).map(|_| {
        let begin = Instant::now();
        for_each_chunk(&pool as &dyn Parallel, &mut sums, ROWS, |number, sums| {
            table.matmul(Format::Q4, &weights[number * chunk..][..chunk], panel, sums);
        });
        begin.elapsed()
    });
    let best = best.min().unwrap_or_default().max(Duration::from_nanos(1));
    Ok(weights.len() as f64 / best.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_measured_by_products_that_are_right() {
        let speed = weights_per_second(2).unwrap();
        assert!(speed.is_finite() && speed > 0.0, "{speed}");
    }
}
