//! The one allocation: RAM for weights, caches and slots.

use std::ffi::c_void;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::{Mutex, PoisonError};

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use rustix::param::page_size;
use rustix::process::{Resource, getrlimit};

use crate::crew::crew;

/// RAM that is there when this returns, all zero, beginning at a multiple of 2 MiB. It is given back
/// when this is dropped.
#[derive(Debug)]
pub struct Arena {
    start: NonNull<u8>,
    len: usize,
    note: Option<String>,
}

// SAFETY: an arena owns its bytes, as a boxed slice does.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

/// Size and alignment of a huge page on x86-64 and on aarch64 with 4 KiB pages.
const HUGE: usize = 2 << 20;
/// Smaller arenas are not worth starting threads for.
const PARALLEL_FROM: usize = 128 << 20;

impl Arena {
    /// Maps `len` bytes, makes the system back all of them by RAM (with `threads` threads, as
    /// clearing gigabytes takes seconds) and locks them where that is permitted.
    pub fn new(len: usize, threads: usize) -> io::Result<Self> {
        let mut arena = Self { start: map(len)?.cast(), len, note: None };
        let threads = if len < PARALLEL_FROM { 1 } else { threads.max(1) };
        let share = len.div_ceil(threads).next_multiple_of(HUGE);
        let parts = Mutex::new(arena.chunks_mut(share));
        // Whoever is free takes the next part: where threads are refused, fewer do the same work.
        let work = || {
            loop {
                let part = parts.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(part) = part else { return Ok(()) };
                populate(part)?;
            }
        };
        crew(threads, work).into_iter().collect::<io::Result<()>>()?;
        // SAFETY: exactly the mapping made above.
        let locked = unsafe { rustix::mm::mlock(arena.start.as_ptr().cast(), len) };
        let refused = locked.err().filter(|_| has_swap());
        arena.note = refused.map(|error| lock_note(len, error.into()));
        Ok(arena)
    }

    /// What could not be had, in one line for the user.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Where its first byte is, for who has lent the bytes and must not touch them.
    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// How many bytes it has.
    pub(crate) const fn size(&self) -> usize {
        self.len
    }

    /// Its bytes, for as long as the process lives.
    pub fn leak(self) -> &'static mut [u8] {
        let mut arena = ManuallyDrop::new(self);
        // SAFETY: nobody else has the bytes, and they are not given back any more.
        unsafe { slice::from_raw_parts_mut(arena.as_mut_ptr(), arena.len) }
    }
}

impl Deref for Arena {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping was made for this value, which has its address alone; its bytes were
        // zero to begin with.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Arena {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let guard = page_size();
        let start = self.start.as_ptr().wrapping_sub(guard).cast();
        // SAFETY: what `map` left of its mapping: the bytes, which nobody borrows any more, and a page
        // on each side. Their lengths were added up there.
        // An error, of a kernel short of memory, leaves them mapped.
        let _ = unsafe { rustix::mm::munmap(start, self.len.next_multiple_of(guard) + 2 * guard) };
    }
}

/// A private anonymous mapping that begins at a multiple of [`HUGE`], with a page on each side that
/// nobody can touch: what runs over an end is stopped there.
fn map(len: usize) -> io::Result<NonNull<c_void>> {
    let guard = page_size();
    let mapped = len.checked_next_multiple_of(guard);
    let guarded = mapped.and_then(|len| len.checked_add(2 * guard));
    let room = guarded.and_then(|len| len.checked_add(HUGE));
    let (Some(len), Some(room)) = (mapped, room) else {
        return Err(io::ErrorKind::OutOfMemory.into());
    };
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping wherever the kernel likes; it overlaps nothing.
    let room_start =
        unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), room, ProtFlags::empty(), flags)? };
    let before = (room_start.addr() + guard).next_multiple_of(HUGE) - guard - room_start.addr();
    let start = room_start.wrapping_byte_add(before + guard);
    // SAFETY: all three parts belong to the mapping made above, and nobody has seen their addresses.
    // The unmapped ones lie outside `start..start + len` and its guards. Empty parts are skipped.
    unsafe {
        if before > 0 {
            rustix::mm::munmap(room_start, before)?;
        }
        if before < HUGE {
            rustix::mm::munmap(start.wrapping_byte_add(len + guard), HUGE - before)?;
        }
        rustix::mm::mprotect(start, len, MprotectFlags::READ | MprotectFlags::WRITE)?;
        // Fewer TLB misses, and the device is given a few long runs of memory instead of one for
        // every 4 KiB: fio reads 512 KiB at a time four to five times as fast on a virtual disk
        // (`--iomem=mmaphuge`). A kernel without huge pages refuses, and nothing is lost.
        let _ = rustix::mm::madvise(start, len, Advice::LinuxHugepage);
    }
    NonNull::new(start).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Backs every page of `part` by RAM.
fn populate(part: &mut [u8]) -> io::Result<()> {
    let start = part.as_mut_ptr().cast();
    // SAFETY: populating does not change the content of the range, which is ours.
    match unsafe { rustix::mm::madvise(start, part.len(), Advice::LinuxPopulateWrite) } {
        Ok(()) => Ok(()),
        // Older than Linux 5.14: a write to each page does the same.
        Err(rustix::io::Errno::INVAL) => {
            for byte in part.iter_mut().step_by(page_size()) {
                // SAFETY: a reference is valid for writes. Volatile, so that the zero written
                // over a zero is not left out.
                unsafe { ptr::from_mut(byte).write_volatile(0) };
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Without swap the kernel has nowhere to move anonymous memory to: locking changes nothing.
fn has_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1)
}

fn lock_note(len: usize, error: io::Error) -> String {
    let limit = match getrlimit(Resource::Memlock).current {
        Some(limit) => format!("limit {} MiB", limit >> 20),
        None => error.to_string(),
    };
    format!(
        "could not lock {} MiB in RAM ({limit}), so it may be swapped out; raise `ulimit -l`",
        len >> 20
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_zero_writable_and_aligned() {
        for len in [1, 4096, HUGE + 5, 5 * HUGE] {
            let mut arena = Arena::new(len, 2).unwrap();
            assert_eq!(arena.len(), len);
            assert!(arena.as_ptr().addr().is_multiple_of(HUGE));
            assert!(arena.iter().all(|&byte| byte == 0));
            arena.fill(7);
        }
    }

    #[test]
    fn nobody_can_touch_what_lies_beside() {
        for len in [1, 4096, 192 << 10, HUGE + 5] {
            let arena = Arena::new(len, 1).unwrap();
            let range = arena.as_ptr_range();
            let end = range.end.addr().next_multiple_of(page_size());
            assert_eq!(rights(range.start.addr()), "rw-p");
            assert_eq!(rights(range.start.addr() - 1), "---p", "before an arena of {len} bytes");
            assert_eq!(rights(end), "---p", "after an arena of {len} bytes");
        }
    }

    #[test]
    fn a_dropped_arena_is_given_back_with_its_guards() {
        // Nothing else here ends so far from a multiple of a huge page.
        let arena = Arena::new(HUGE + 5 * page_size(), 1).unwrap();
        let range = arena.as_ptr_range();
        let places = [range.start.addr() - 1, range.start.addr(), range.end.addr()];
        assert_eq!(places.map(rights), ["---p", "rw-p", "---p"]);
        drop(arena);
        assert_ne!(places.map(rights), ["---p", "rw-p", "---p"]);
    }

    /// What this process may do at an address, as `/proc/self/maps` says.
    fn rights(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|line| {
            let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            let bound = |text| usize::from_str_radix(text, 16).unwrap();
            (bound(start)..bound(end)).contains(&address)
        });
        line.map_or("none", |line| line.split(' ').nth(1).unwrap()).to_owned()
    }

    #[test]
    fn parts_are_populated_by_several_threads() {
        let arena = Arena::new(PARALLEL_FROM + 3, 3).unwrap();
        assert!(arena.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn more_than_there_is_address_space_is_an_error() {
        assert!(Arena::new(1 << 60, 1).is_err());
        assert!(Arena::new(usize::MAX - 4096, 1).is_err());
    }
}
