//! Which piece size and queue depth suit this device.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rill::seams::pieces::Tuning;
use rill::seams::{Read, Storage, Urgency};
use serde::{Deserialize, Serialize};

use super::disk::Disk;
use crate::regular;
use crate::replace::{Access, replace, with_ending};

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
    /// Speed of random reads with this tuning; 0 where there was no time or room to measure any.
    pub bytes_per_second: u64,
}

/// The whole search ends after this.
const TOTAL: Duration = Duration::from_millis(800);
/// One measurement ends after this.
const ONE: Duration = Duration::from_millis(12);
/// Each tuning is measured so often, in turn with the others. What disturbs a measurement only
/// makes it slower, so the fastest one counts.
const ROUNDS: usize = 3;
/// A measurement that would keep a slow device busy for longer is not begun.
const DRAIN: f64 = 0.1;
/// What is larger must be this much faster: less in flight lets urgent reads through sooner.
const WORTH: f64 = 1.05;
/// Most bytes in flight. With more, all that a layer waits for arrives at the same time, and nothing
/// of it is computed while the rest is read; guesses that turn out wrong cannot be taken back.
const MOST: usize = 4 << 20;

/// Longest file that remembers a probe, in bytes.
const MOST_REMEMBERED: u64 = 4096;

const FIRST_SPLIT: usize = 256 << 10;
const DEPTHS: [usize; 5] = [2, 4, 8, 16, 32];
const SPLITS: [usize; 5] = [128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20];

/// The file that remembers the probe of an image.
pub fn probe_file(image: &Path) -> PathBuf {
    with_ending(image, ".probe")
}

/// Tunes the reads of `disk` by what [`probe`] finds. Gives the arena back.
pub fn tune(
    disk: &mut Disk,
    image: u64,
    pages: (u64, u64),
    file: &Path,
    arena: &'static mut [u8],
) -> &'static mut [u8] {
    let (found, arena) = probe(disk, image, pages, file, arena);
    if let Some(Probe { tuning, .. }) = found {
        disk.queue().tune(tuning);
    }
    arena
}

/// Which reads suit `disk`: what is remembered in `file`, else what less than a second of reading
/// random parts of `pages` (offset and length in bytes) into `arena` shows, which is remembered where
/// that may be. Gives the arena back. `image` tells images apart.
///
/// Nothing is found for buffered reads: what a probe would see is the page cache.
pub fn probe(
    disk: &mut Disk,
    image: u64,
    pages: (u64, u64),
    file: &Path,
    arena: &'static mut [u8],
) -> (Option<Probe>, &'static mut [u8]) {
    if !disk.source().is_direct() {
        return (None, arena);
    }
    let (device, via) = (disk.source().device(), disk.via());
    let fits = |p: &Probe| (p.image, p.device, p.via.as_str()) == (image, device, via);
    let remembered: Option<Probe> = regular::read(file, MOST_REMEMBERED)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .filter(fits);
    if remembered.is_some() {
        return (remembered, arena);
    }
    let random = Rng::with_seed(image);
    let mut search = Search { disk, pages, arena, random, end: Instant::now() + TOTAL };
    let (tuning, speed) = search.best();
    let bytes_per_second = speed as u64;
    let found = Probe { image, device, via: via.to_owned(), tuning, bytes_per_second };
    let arena = search.arena;
    if speed > 0.0 {
        remember(&found, file);
    }
    (Some(found), arena)
}

/// Writes the file whole or not at all. A folder that may not be written costs the next start a
/// moment, which is not worth a word.
fn remember(probe: &Probe, file: &Path) {
    let _ = replace(file, Access::Ordinary, |out| Ok(serde_json::to_writer_pretty(out, probe)?));
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
        // What sleeps in the device or was never touched makes the first reads slow.
        let warm_up = Tuning { split: FIRST_SPLIT, depth: DEPTHS[0] };
        if self.is_worth_measuring(warm_up, 0.0) {
            self.measure(warm_up);
        }
        let first = self.best_of(DEPTHS.map(|depth| Tuning { split: FIRST_SPLIT, depth }));
        let second = self.best_of(SPLITS.map(|split| Tuning { split, ..first.0 }));
        // On a slow device time may be over.
        if second.1 > 0.0 { second } else { first }
    }

    /// The fastest of some tunings, ordered by what they have in flight, and its speed; 0 when
    /// there was no time to measure any.
    fn best_of<const N: usize>(&mut self, tunings: [Tuning; N]) -> (Tuning, f64) {
        let mut speeds = [0.0_f64; N];
        for _ in 0..ROUNDS {
            for (index, tuning) in tunings.into_iter().enumerate() {
                let known = speeds.iter().copied().fold(0.0, f64::max);
                if self.is_worth_measuring(tuning, known) {
                    speeds[index] = speeds[index].max(self.measure(tuning));
                }
            }
        }
        tunings.into_iter().zip(speeds).fold((Tuning::default(), 0.0), |best, new| {
            if new.1 > best.1 * WORTH { new } else { best }
        })
    }

    /// Whether there is memory and time for it, on a device that reads `known` bytes a second or
    /// more. Once it is measured, however late.
    fn is_worth_measuring(&self, tuning: Tuning, known: f64) -> bool {
        let bytes = tuning.split * tuning.depth;
        let fits = bytes <= MOST.min(self.arena.len()) && tuning.split as u64 <= self.pages.1;
        let quick = || bytes as f64 / known <= DRAIN && Instant::now() < self.end;
        fits && (known == 0.0 || quick())
    }

    /// Bytes a second of random reads; 0 where not even one fits.
    fn measure(&mut self, tuning: Tuning) -> f64 {
        self.disk.queue().tune(tuning);
        let arena: &'static mut [u8] = std::mem::take(&mut self.arena);
        let whole: *mut [u8] = arena;
        // SAFETY: the arena, which was `self`'s alone and is not there until all parts of it have
        // come back below.
        let parts = unsafe { &mut *whole }.chunks_exact_mut(tuning.split).take(tuning.depth);
        let begin = Instant::now();
        let mut bytes = 0;
        for (number, into) in parts.enumerate() {
            self.read(number as u32, into);
        }
        while let Some(done) = self.disk.wait() {
            let len = done.into.len();
            bytes += if done.result.is_ok() { len } else { 0 };
            if done.result.is_ok() && begin.elapsed() < ONE {
                self.read(done.tag, done.into);
            }
        }
        // SAFETY: the whole arena again: `wait` said that no part of it is away.
        self.arena = unsafe { &mut *whole };
        bytes as f64 / begin.elapsed().as_secs_f64()
    }

    /// Reads into `into` from anywhere in the pages; not at all where they are fewer bytes.
    fn read(&mut self, tag: u32, into: &'static mut [u8]) {
        let (first, len) = self.pages;
        let Some(last) = len.checked_sub(into.len() as u64) else { return };
        let offset = first + self.random.u64(..=last) / 4096 * 4096;
        let read = Read { tag, offset, into, urgency: Urgency::Demand, attempt: 0 };
        // Fewer are under way than the queue has room for; a buffer handed back is only not used.
        let _ = self.disk.submit(read);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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
        let mut arena = crate::arena::Arena::new(8 << 20, 1).unwrap().leak();
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
    /// The image's own bytes once lay over the stack of a thread.
    #[test]
    fn a_probe_stays_inside_a_small_arena_and_a_small_image() {
        const CANARY: u8 = 0x5a;
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let image = folder.path().join("image.rill");
        let file = probe_file(&image);
        for (pages, arena) in
            [(512 << 10, 192 << 10), (512 << 10, 4096), (16 << 10, 4 << 20), (3 << 20, 256 << 10)]
        {
            fs::write(&image, vec![3; pages + (16 << 10)]).unwrap();
            let mut disk = Disk::open(&image, Via::Best).unwrap();
            let bytes = crate::arena::Arena::new(8 << 20, 1).unwrap().leak();
            let (arena, beside) = bytes.split_at_mut(arena);
            beside.fill(CANARY);
            let (at, len) = (arena.as_ptr(), arena.len());
            let arena = tune(&mut disk, 1, (16 << 10, pages as u64), &file, arena);
            assert_eq!((arena.as_ptr(), arena.len()), (at, len));
            drop(disk);
            assert!(beside.iter().all(|&byte| byte == CANARY), "{len} bytes, {pages} of pages");
        }
    }
}
