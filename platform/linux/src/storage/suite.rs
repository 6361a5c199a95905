//! One suite for every back end.

use std::path::Path;

use rill::image::{MAGIC, PAGE_ALIGN};
use rill::seams::pieces::Tuning;
use rill::seams::{InMemory, Read, Storage, StorageErrorKind, Urgency};

use super::*;
use crate::arena::Arena;

const LEN: usize = 1 << 20;
const PAGE: usize = 48 << 10;
/// Every back end is content with this.
const ALIGN: usize = 4096;

/// Noise that begins as an image.
fn content(len: usize) -> Vec<u8> {
    let noise = (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8);
    MAGIC.into_iter().chain(noise.skip(MAGIC.len())).collect()
}

/// Runs the suite for a file of `len` bytes in `folder`, through both back ends, cut in several
/// ways.
fn check_files_in(folder: &Path, len: usize) {
    let folder = tempfile::tempdir_in(folder).unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, content(len)).unwrap();
    check_file(&path);
}

/// Runs the suite for a file.
fn check_file(path: &Path) {
    for via in [Via::Threads, Via::Uring] {
        let open = || Disk::open(path, via);
        match open() {
            // Containers often forbid io_uring; then threads take over.
            Err(OpenError::Queue(error)) if via == Via::Uring => {
                eprintln!("io_uring is not there: {error}");
                assert_eq!(Disk::open(path, Via::Best).unwrap().via(), "threads");
                continue;
            }
            result => check(&mut result.unwrap()),
        }
        for tuning in [Tuning { split: 4096, depth: 1 }, Tuning { split: 20 << 10, depth: 32 }] {
            let mut disk = open().unwrap();
            disk.queue().tune(tuning);
            check(&mut disk);
        }
        check_dropped_while_reading(|| Box::new(open().unwrap()));
        let mut disk = open().unwrap();
        let arena = Arena::new(4 << 20, 1).unwrap().leak();
        disk.queue().confine(arena);
        check_reads(&mut disk, arena);
    }
}

fn check(storage: &mut dyn Storage<'static>) {
    let arena = Arena::new(4 << 20, 1).unwrap().leak();
    let len = storage.geometry().len as usize;
    assert!(storage.geometry().depth >= 1);
    assert!(ALIGN.is_multiple_of(storage.geometry().alignment as usize));
    assert!(storage.poll().is_none());
    assert!(storage.wait().is_none());

    let block = &mut arena[..2 * ALIGN];
    storage.read_at(3 * ALIGN as u64, block).unwrap();
    assert_eq!(block, &content(len)[3 * ALIGN..5 * ALIGN]);
    let past = storage.read_at((len / ALIGN - 1) as u64 * ALIGN as u64, block).unwrap_err();
    assert_eq!(past.kind, StorageErrorKind::PastEnd);
    check_reads(storage, arena);
}

/// Many reads at once, some past the end, until the queue is full; each comes back once.
fn check_reads(storage: &mut dyn Storage<'static>, arena: &'static mut [u8]) {
    let len = storage.geometry().len as usize;
    let content = content(len);
    let offset_of = |tag: usize| tag * 7 % (len / ALIGN) * ALIGN;
    let mut buffers: Vec<_> = arena.chunks_exact_mut(PAGE).take(80).collect();
    let count = buffers.len();
    let mut seen = vec![false; count];
    let (mut next, mut handed_back) = (0, 0);
    while seen.iter().any(|seen| !seen) {
        while let Some(into) = buffers.pop() {
            let urgency = if next % 3 == 0 { Urgency::Ahead } else { Urgency::Demand };
            let read = Read {
                tag: next as u32,
                offset: offset_of(next) as u64,
                into,
                urgency,
                attempt: 0,
            };
            if let Err(read) = storage.submit(read) {
                buffers.push(read.into);
                handed_back += 1;
                break;
            }
            storage.hurry(next as u32 / 2);
            next += 1;
        }
        let done = match storage.poll() {
            Some(done) => done,
            None => storage.wait().expect("some are under way"),
        };
        let tag = done.tag as usize;
        assert!(!std::mem::replace(&mut seen[tag], true), "read {tag} came back twice");
        assert_eq!(done.into.len(), PAGE);
        let offset = offset_of(tag);
        match content.get(offset..offset + PAGE) {
            Some(bytes) => {
                done.result.unwrap();
                assert!(done.into == bytes, "read {tag} has the right bytes");
            }
            None => assert_eq!(done.result.unwrap_err().kind, StorageErrorKind::PastEnd),
        }
    }
    assert!(storage.wait().is_none());
    assert!(handed_back > 0 || count < usize::from(storage.geometry().depth));
}

/// A back end that is dropped with reads under way waits for them.
fn check_dropped_while_reading(open: impl Fn() -> Box<dyn Storage<'static>>) {
    let arena = Arena::new(REQUESTS * PAGE, 1).unwrap().leak();
    let mut storage = open();
    for (tag, into) in arena.chunks_exact_mut(PAGE).take(REQUESTS).enumerate() {
        let read = Read { tag: tag as u32, offset: 0, into, urgency: Urgency::Demand, attempt: 0 };
        storage.submit(read).unwrap();
    }
    drop(storage);
}

#[test]
fn in_memory() {
    check(&mut InMemory::new(content(LEN).leak()));
}

#[test]
fn files_read_directly() {
    check_files_in(&std::env::temp_dir(), LEN);
}

#[test]
fn images_in_programs() {
    // Between the head of a program and what is none of it.
    let mut program = vec![0xee; 5 * PAGE_ALIGN];
    program[4..12].copy_from_slice(b"ET12eh00");
    program[12..16].copy_from_slice(&32_u32.to_le_bytes());
    for (at, word) in [(16, 64), (24, 3 * PAGE_ALIGN as u64), (32, LEN as u64)] {
        program[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    program.splice(3 * PAGE_ALIGN..3 * PAGE_ALIGN, content(LEN));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), program).unwrap();
    check_file(file.path());
}

#[test]
fn files_in_shared_memory() {
    // A tmpfs: direct reads work since Linux 6.6, buffered ones take over before.
    check_files_in(Path::new("/dev/shm"), LEN);
}

#[test]
fn files_read_through_the_page_cache() {
    // What is not made of whole pages is always read so.
    let len = LEN + ALIGN + 5;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, &content(len)).unwrap();
    let disk = Disk::open(file.path(), Via::Best).unwrap();
    assert!(!disk.source().is_direct());
    assert_eq!(disk.geometry().alignment, 1);
    check_files_in(&std::env::temp_dir(), len);
}

#[test]
fn an_image_may_begin_within_a_file() {
    let image = content(LEN);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, &vec![7; PAGE_ALIGN]).unwrap();
    std::io::Write::write_all(&mut file, &image).unwrap();
    let mut disk = Disk::open_at(file.path(), PAGE_ALIGN as u64, Via::Best).unwrap();
    assert_eq!(disk.geometry().len, LEN as u64);
    check(&mut disk);
    let beyond = Disk::open_at(file.path(), 64 * LEN as u64, Via::Best).unwrap();
    assert_eq!(beyond.geometry().len, 0);
}

#[test]
fn what_is_no_file_is_refused_with_its_name() {
    for path in ["/nonexistent/image.rill", "/tmp"] {
        let error = Disk::open(Path::new(path), Via::Best).unwrap_err().to_string();
        assert!(error.contains(path), "{error}");
    }
}
