//! Which piece size and queue depth suit this device.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rill::seams::{Read, Storage, Urgency};
use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::pieces::Tuning;
use crate::replace::replace;

/// What a probe found, as it is remembered in a small file beside the image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Which image it was; another one may lie elsewhere on the device.
    pub image: u64,
    /// Number of the device.
    pub device: u64,
    /// The back end.
    pub via: String,
    /// What suits it.
    pub tuning: Tuning,
    /// Speed of random reads with this tuning.
    pub bytes_per_second: u64,
}

/// The whole search ends after this.
const TOTAL: Duration = Duration::from_millis(100);
/// One measurement ends after this.
const ONE: Duration = Duration::from_millis(10);
/// A measurement that would keep a slow device busy for longer is not begun.
const DRAIN: f64 = 0.03;
/// What is larger must be this much faster: less in flight lets urgent reads through sooner.
const WORTH: f64 = 1.05;
/// Most RAM that a measurement reads into.
const MOST: usize = 16 << 20;

const FIRST_SPLIT: usize = 256 << 10;
const DEPTHS: [usize; 5] = [2, 4, 8, 16, 32];
const SPLITS: [usize; 4] = [128 << 10, 512 << 10, 1 << 20, 2 << 20];

/// The file that remembers the probe of an image.
pub fn probe_file(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".probe");
    name.into()
}

/// Tunes the reads of `disk`: by what is remembered in `file`, else by a probe of at most about
/// 100 ms that reads random parts of `pages` (offset and length in bytes) into `arena`, and
/// remembers what it finds where it may. Gives the arena back. `image` tells images apart.
///
/// Buffered reads keep the default: what a probe would see is the page cache.
pub fn tune(
    disk: &mut Disk,
    image: u64,
    pages: (u64, u64),
    file: &Path,
    arena: &'static mut [u8],
) -> &'static mut [u8] {
    if !disk.source().is_direct() {
        return arena;
    }
    let (device, via) = (disk.source().device(), disk.via());
    let fits = |p: &Probe| (p.image, p.device, p.via.as_str()) == (image, device, via);
    let remembered: Option<Probe> =
        fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).filter(fits);
    let (tuning, arena) = match remembered {
        Some(probe) => (probe.tuning, arena),
        None => {
            let mut search = Search {
                disk,
                pages,
                arena,
                random: Rng::with_seed(image),
                end: Instant::now() + TOTAL,
            };
            let (tuning, speed) = search.best();
            let arena = search.arena;
            if speed > 0.0 {
                let bytes_per_second = speed as u64;
                let probe = Probe { image, device, via: via.to_owned(), tuning, bytes_per_second };
                remember(&probe, file);
            }
            (tuning, arena)
        }
    };
    disk.queue().tune(tuning);
    arena
}

/// Writes the file whole or not at all. A folder that may not be written costs the next start a
/// tenth of a second, which is not worth a word.
fn remember(probe: &Probe, file: &Path) {
    let _ = replace(file, |out| Ok(serde_json::to_writer_pretty(out, probe)?));
}

struct Search<'d> {
    disk: &'d mut Disk,
    pages: (u64, u64),
    arena: &'static mut [u8],
    random: Rng,
    end: Instant,
}

impl Search<'_> {
    /// The best depth for a middling piece, then the best piece at that depth.
    fn best(&mut self) -> (Tuning, f64) {
        let mut best = (Tuning::default(), 0.0);
        for depth in DEPTHS {
            self.challenge(&mut best, Tuning { split: FIRST_SPLIT, depth });
        }
        let depth = best.0.depth;
        for split in SPLITS {
            self.challenge(&mut best, Tuning { split, depth });
        }
        best
    }

    fn challenge(&mut self, best: &mut (Tuning, f64), tuning: Tuning) {
        let bytes = tuning.split * tuning.depth;
        let too_large = bytes > MOST.min(self.arena.len()) || tuning.split as u64 > self.pages.1;
        let too_slow = best.1 > 0.0 && bytes as f64 / best.1 > DRAIN;
        if too_large || too_slow || Instant::now() >= self.end {
            return;
        }
        let speed = self.measure(tuning);
        let smaller = bytes < best.0.split * best.0.depth;
        if speed > best.1 * if smaller { 1.0 } else { WORTH } {
            *best = (tuning, speed);
        }
    }

    /// Bytes a second of random reads.
    fn measure(&mut self, tuning: Tuning) -> f64 {
        self.disk.queue().tune(tuning);
        let split = tuning.split;
        let (start, len) = (self.arena.as_mut_ptr(), self.arena.len());
        let begin = Instant::now();
        let mut bytes = 0;
        for number in 0..tuning.depth {
            // SAFETY: disjoint parts of the arena, which `self` owns and does not touch until all
            // of them have come back below; `split * depth` is within its length.
            let into = unsafe { std::slice::from_raw_parts_mut(start.add(number * split), split) };
            self.read(number as u32, into);
        }
        while let Some(done) = self.disk.wait() {
            bytes += if done.result.is_ok() { split } else { 0 };
            if done.result.is_ok() && begin.elapsed() < ONE {
                self.read(done.tag, done.into);
            }
        }
        // SAFETY: the whole arena again: `wait` said that no part of it is away.
        self.arena = unsafe { std::slice::from_raw_parts_mut(start, len) };
        bytes as f64 / begin.elapsed().as_secs_f64()
    }

    fn read(&mut self, tag: u32, into: &'static mut [u8]) {
        let (first, len) = self.pages;
        let offset = first + self.random.u64(..=len - into.len() as u64) / 4096 * 4096;
        let read = Read { tag, offset, into, urgency: Urgency::Demand, attempt: 0 };
        // Fewer are under way than the queue has room for; a buffer handed back is only not used.
        let _ = self.disk.submit(read);
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::Via;
    use super::*;

    #[test]
    fn a_probe_is_remembered_and_a_stale_one_is_not_used() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let image = folder.path().join("image.rill");
        fs::write(&image, vec![3; 4 << 20]).unwrap();
        let file = probe_file(&image);
        assert_eq!(file, folder.path().join("image.rill.probe"));
        let mut disk = Disk::open(&image, Via::Best).unwrap();
        let mut arena = crate::arena::Arena::new(8 << 20, 1).unwrap().bytes;
        let at = arena.as_ptr();
        let read = || -> Option<Probe> { serde_json::from_slice(&fs::read(&file).ok()?).ok() };

        for image in [5, 6] {
            arena = tune(&mut disk, image, (16 << 10, 3 << 20), &file, arena);
            assert_eq!((arena.as_ptr(), arena.len()), (at, 8 << 20));
            // Where the file system has no direct reads nothing is probed or remembered.
            assert_eq!(read().map(|probe| probe.image), disk.source().is_direct().then_some(image));
        }
        fs::write(&file, b"not json").unwrap();
        tune(&mut disk, 6, (16 << 10, 3 << 20), &file, arena);
        assert_eq!(read().is_some(), disk.source().is_direct());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left behind");
    }
}
