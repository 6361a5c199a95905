//! Products with pages that nobody has checked yet.
//!
//! A chunk of such a page is summed by the core that has just multiplied its weights, and finds them
//! in its cache: the bytes come from RAM once for both, at the pace of the product. What was
//! computed counts only when the sums turn out right.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use super::product::{Cores, part_len};
use crate::image::{SUM_CHUNK, sum_chunk, sum_chunks};
use crate::seams::{Clock, Micros, Shared};

/// How the weights of a matrix are dealt out to cores.
#[derive(Debug, Clone, Copy)]
pub struct Deal {
    /// Pieces, one after the other: units or tile rows.
    pub count: usize,
    /// How many are computed together.
    pub step: usize,
    /// Bytes of each.
    pub bytes: usize,
}

/// Calls `multiply(index, pieces)` until every piece of each of `parts` had its turn, spread over
/// the cores. A part is `Some` bytes where they are to be summed: then the sums of its chunks are in
/// `sums[index * n..][..n]`, `n` being the number of chunks of such a part.
///
/// Returns the time that sums took.
pub fn multiply_and_sum(
    cores: Cores<'_>,
    clock: &dyn Clock,
    parts: &[Option<&[u8]>],
    deal: Deal,
    sums: &mut [u64],
    multiply: &(dyn Fn(usize, Range<usize>) + Sync),
) -> Micros {
    let Deal { count, step, bytes } = deal;
    let Cores { kernels, parallel } = cores;
    let sums = Shared::new(sums);
    let spent = AtomicU64::new(0);
    let share = part_len(parallel, count, step, bytes);
    let shares = count.div_ceil(share);
    parallel.run(parts.len() * shares, &|run| {
        let (index, number) = (run / shares, run % shares);
        let range = number * share..((number + 1) * share).min(count);
        let Some(part) = parts[index] else { return multiply(index, range) };
        let chunks = sum_chunks(part.len());
        let mut chunk = range.start * bytes / SUM_CHUNK;
        for from in range.clone().step_by(step) {
            let to = (from + step).min(range.end);
            multiply(index, from..to);
            // Whole chunks; those after the last piece are padding.
            let due = if to == count { chunks } else { to * bytes / SUM_CHUNK };
            if chunk < due {
                let start = clock.now();
                // SAFETY: a chunk is summed with the piece that its last byte is in, and each
                // piece has its turn once.
                let sums = unsafe { sums.part(index * chunks + chunk, due - chunk) };
                for (sum, at) in sums.iter_mut().zip(chunk..) {
                    *sum = (kernels.checksum)(sum_chunk(part, at));
                }
                spent.fetch_add(clock.now() - start, Ordering::Relaxed);
                chunk = due;
            }
        }
    });
    spent.into_inner() / parallel.width() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::vec::Vec;

    use super::*;
    use crate::image::{join_sums, page_checksum};
    use crate::kernels::SCALAR;
    use crate::seams::{ManualClock, Parallel, Serial};

    /// Cuts loops as for two cores, and runs them backwards.
    struct Backwards;

    impl Parallel for Backwards {
        fn width(&self) -> usize {
            2
        }
        fn run(&self, parts: usize, body: &(dyn Fn(usize) + Sync)) {
            (0..parts).rev().for_each(body);
        }
    }

    #[test]
    fn every_piece_is_multiplied_once_and_every_chunk_summed_once() {
        let cases =
            [(1, 1, 16, 0), (7, 4, 16_128, 100), (56, 1, 73_728, 0), (128, 4, 16_128, 4096)];
        for (count, step, bytes, padding) in cases {
            let len = count * bytes + padding;
            let part: Vec<u8> = (0..len).map(|i| ((i * 31) >> 3) as u8).collect();
            let parts = [Some(&part[..]), None, Some(&part)];
            let chunks = sum_chunks(len);
            for parallel in [&Serial as &dyn Parallel, &Backwards] {
                let mut sums = std::vec![1; 3 * chunks];
                let seen = Mutex::new(std::vec![0; 3 * count]);
                let clock = ManualClock::new(1);
                let deal = Deal { count, step, bytes };
                let cores = Cores { kernels: &SCALAR, parallel };
                multiply_and_sum(cores, &clock, &parts, deal, &mut sums, &|index, pieces| {
                    let mut seen = seen.lock().unwrap();
                    pieces.for_each(|piece| seen[index * count + piece] += 1);
                });
                assert!(seen.into_inner().unwrap().iter().all(|&times| times == 1));
                assert_eq!(join_sums(&sums[..chunks]), page_checksum(&part));
                assert!(sums[chunks..2 * chunks].iter().all(|&sum| sum == 1));
                assert_eq!(join_sums(&sums[2 * chunks..]), page_checksum(&part));
            }
        }
    }
}
