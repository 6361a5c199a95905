//! What finds damage.
//!
//! A page is checked each time it is read, at a price that every miss pays. XXH3 runs at the speed
//! of memory (20 GB/s in cache, 10 GB/s from RAM on one core of a 2021 server, where a fast drive
//! reads 1 to 2 GB/s), so another hash would not be faster; not reading the page twice is. That is
//! why a page's checksum is made of chunks, which any core may sum in any order: each chunk is
//! summed by the core that multiplies its weights next, which then finds them in its cache.

use crate::seams::{Parallel, Shared};

/// Bytes that are summed at a time in a page; the last chunk of a part may be shorter.
pub const SUM_CHUNK: usize = 64 << 10;
/// Chunks that are summed before they are joined.
const AT_ONCE: usize = 128;

/// How many chunks `len` bytes have.
pub const fn sum_chunks(len: usize) -> usize {
    len.div_ceil(SUM_CHUNK)
}

/// Chunk `index` of a page's part.
pub fn sum_chunk(bytes: &[u8], index: usize) -> &[u8] {
    let from = index * SUM_CHUNK;
    &bytes[from..bytes.len().min(from + SUM_CHUNK)]
}

/// [`page_checksum`] from the sums of all chunks in order.
pub fn join_sums(sums: &[u64]) -> u64 {
    sums.iter().fold(0, |sum, &chunk| join(sum, chunk))
}

/// The checksum of a section: XXH3, 64 bits.
pub fn checksum(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// The checksum of a page's part: from 0 on, XXH3-64 of each chunk's XXH3-64 (little-endian) with
/// the sum so far for a seed.
pub fn page_checksum(bytes: &[u8]) -> u64 {
    bytes.chunks(SUM_CHUNK).fold(0, |sum, chunk| join(sum, checksum(chunk)))
}

/// [`page_checksum`] by all cores.
pub fn page_checksum_on(parallel: &dyn Parallel, bytes: &[u8]) -> u64 {
    let mut sums = [0; AT_ONCE];
    bytes.chunks(SUM_CHUNK * AT_ONCE).fold(0, |sum, group| {
        let count = sum_chunks(group.len());
        let shared = Shared::new(&mut sums[..count]);
        parallel.run(count, &|index| {
            // SAFETY: `run` calls each index exactly once, and each writes its own element.
            unsafe { shared.part(index, 1)[0] = checksum(sum_chunk(group, index)) };
        });
        sums[..count].iter().fold(sum, |sum, &chunk| join(sum, chunk))
    })
}

fn join(sum: u64, chunk: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(&chunk.to_le_bytes(), sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::Serial;
    use std::vec::Vec;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    }

    #[test]
    fn cores_compute_the_same() {
        let all = bytes(SUM_CHUNK * AT_ONCE * 2 + 7);
        for len in [0, 1, SUM_CHUNK - 1, SUM_CHUNK, SUM_CHUNK + 1, SUM_CHUNK * AT_ONCE, all.len()] {
            let sum = page_checksum(&all[..len]);
            assert_eq!(page_checksum_on(&Serial, &all[..len]), sum, "{len} bytes");
            let chunks: Vec<u64> =
                (0..sum_chunks(len)).map(|i| checksum(sum_chunk(&all[..len], i))).collect();
            assert_eq!(join_sums(&chunks), sum, "{len} bytes");
        }
    }

    #[test]
    fn chunks_that_change_places_or_are_missing_are_found() {
        let mut all = bytes(4 * SUM_CHUNK);
        let sum = page_checksum(&all);
        assert_ne!(page_checksum(&all[..3 * SUM_CHUNK]), sum);
        let (a, b) = all.split_at_mut(SUM_CHUNK);
        a.swap_with_slice(&mut b[..SUM_CHUNK]);
        assert_ne!(page_checksum(&all), sum);
        let zeros = std::vec![0; 3 * SUM_CHUNK];
        assert_ne!(page_checksum(&zeros), page_checksum(&zeros[SUM_CHUNK..]));
    }

    #[test]
    fn every_bit_counts() {
        let mut all = bytes(SUM_CHUNK + 100);
        let sum = page_checksum(&all);
        for bit in (0..all.len() * 8).step_by(997) {
            all[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(page_checksum(&all), sum, "bit {bit}");
            all[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
