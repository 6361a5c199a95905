use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use io_uring::{IoUring, Probe, opcode, squeue, types};
use rill::seams::{Completion, Geometry, Read, Storage, StorageError};
use rustix::io::Errno;

use super::disk::Queue;
use super::pieces::{MAX_DEPTH, Piece, Pieces, REQUESTS, Tuning};
use super::source::Source;

/// Reads through io_uring: one system call starts several, and completions are seen without any.
pub struct Uring {
    ring: IoUring,
    source: Arc<Source>,
    pieces: Pieces,
    /// The pieces in the hands of the kernel, by the number they were submitted under.
    table: Box<[Option<Piece>]>,
    registered: Registered,
}

/// The registered part of the address space: buffers of [`CHUNK`] bytes, the last may be shorter.
#[derive(Debug, Clone, Copy, Default)]
struct Registered {
    start: usize,
    len: usize,
}

/// The kernel's limit for one registered buffer.
const CHUNK: usize = 1 << 30;

impl Uring {
    /// Makes a ring; an error where the kernel has no io_uring, is too old or forbids it.
    pub fn new(source: Arc<Source>) -> io::Result<Self> {
        let ring = IoUring::new(MAX_DEPTH as u32)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Read::CODE) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let pieces = Pieces::new(Tuning::default(), source.alignment());
        let table = (0..MAX_DEPTH).map(|_| None).collect();
        Ok(Self { ring, source, pieces, table, registered: Registered::default() })
    }

    /// Hands the kernel all pieces that may go now.
    fn send(&mut self) {
        while let Some(mut piece) = self.pieces.next() {
            let Some(number) = self.table.iter().position(Option::is_none) else {
                unreachable!("no more pieces are in flight than the table has places");
            };
            let entry = self.entry(&mut piece).user_data(number as u64);
            self.table[number] = Some(piece);
            // SAFETY: the entry's buffer belongs to the piece, which stays in the table, untouched,
            // until its completion; its memory is the arena's and is never freed, so even a
            // leaked ring writes to memory that nobody else was given.
            if unsafe { self.ring.submission().push(&entry) }.is_err() {
                unreachable!("the ring has as many places as the table");
            }
        }
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Ok(_) => {}
                // Full or out of memory for a moment: what is under way makes room.
                Err(error) if is_passing(&error) => self.collect(),
                Err(error) => panic!("io_uring stopped taking reads: {error}"),
            }
        }
    }

    fn entry(&self, piece: &mut Piece) -> squeue::Entry {
        let fd = types::Fd(self.source.as_fd().as_raw_fd());
        let offset = piece.offset();
        let buffer = piece.buffer();
        let (start, len) = (buffer.as_mut_ptr(), buffer.len() as u32);
        match self.registered.chunk_of(buffer) {
            Some(chunk) => opcode::ReadFixed::new(fd, start, len, chunk).offset(offset).build(),
            None => opcode::Read::new(fd, start, len).offset(offset).build(),
        }
    }

    /// Takes what the kernel has finished.
    fn collect(&mut self) {
        for answer in self.ring.completion() {
            let number = answer.user_data() as usize;
            let Some(piece) = self.table.get_mut(number).and_then(Option::take) else {
                unreachable!("the kernel answers each piece once");
            };
            let outcome = match answer.result() {
                error if error < 0 => Err(Errno::from_raw_os_error(-error)),
                bytes => Ok(bytes as usize),
            };
            self.pieces.finish(piece, outcome);
        }
    }

    /// Waits until the kernel has finished something.
    fn await_one(&mut self) {
        match self.ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if is_passing(&error) => {}
            Err(error) => panic!("io_uring stopped answering: {error}"),
        }
        self.collect();
    }
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.pieces.cancel();
        while self.pieces.in_flight() > 0 {
            self.await_one();
            self.pieces.cancel();
        }
    }
}

impl Queue for Uring {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn tune(&mut self, tuning: Tuning) {
        self.pieces.tune(tuning);
    }

    fn register(&mut self, arena: &[u8]) -> bool {
        if self.registered.len > 0 && self.ring.submitter().unregister_buffers().is_err() {
            return false;
        }
        let chunks: Vec<libc::iovec> = arena
            .chunks(CHUNK)
            .map(|chunk| libc::iovec {
                iov_base: chunk.as_ptr().cast_mut().cast(),
                iov_len: chunk.len(),
            })
            .collect();
        // SAFETY: registering only pins the memory. The kernel writes to it when a piece says so,
        // and a piece owns its bytes; pinned pages outlive even their mapping.
        let accepted = unsafe { self.ring.submitter().register_buffers(&chunks) }.is_ok();
        self.registered = if accepted {
            Registered { start: arena.as_ptr().addr(), len: arena.len() }
        } else {
            Registered::default()
        };
        accepted
    }
}

impl Registered {
    /// The number of the registered buffer that holds all of `buffer`.
    fn chunk_of(&self, buffer: &[u8]) -> Option<u16> {
        let from = buffer.as_ptr().addr().checked_sub(self.start)?;
        let last = from + buffer.len().checked_sub(1)?;
        (last < self.len && from / CHUNK == last / CHUNK).then_some((from / CHUNK) as u16)
    }
}

impl Storage<'static> for Uring {
    fn geometry(&self) -> Geometry {
        Geometry {
            len: self.source.len(),
            alignment: self.source.alignment() as u32,
            depth: REQUESTS as u16,
        }
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        self.source.read_exact_at(offset, into)
    }

    fn submit(&mut self, read: Read<'static>) -> Result<(), Read<'static>> {
        self.collect();
        let accepted = self.pieces.accept(read);
        self.send();
        accepted
    }

    fn hurry(&mut self, tag: u32) {
        self.pieces.hurry(tag);
    }

    fn poll(&mut self) -> Option<Completion<'static>> {
        self.collect();
        self.send();
        self.pieces.take_done()
    }

    fn wait(&mut self) -> Option<Completion<'static>> {
        loop {
            if let Some(done) = self.poll() {
                return Some(done);
            }
            if !self.pieces.is_busy() {
                return None;
            }
            self.await_one();
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    let passing = [libc::EINTR, libc::EAGAIN, libc::EBUSY];
    error.raw_os_error().is_some_and(|code| passing.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_fixed_only_inside_one_registered_chunk() {
        let bytes = [0_u8; 64];
        let at = bytes.as_ptr().addr();
        assert_eq!(Registered { start: at, len: 64 }.chunk_of(&bytes), Some(0));
        assert_eq!(Registered { start: at, len: 63 }.chunk_of(&bytes), None);
        assert_eq!(Registered { start: at + 1, len: 64 }.chunk_of(&bytes), None);
        let before = Registered { start: at + 32 - CHUNK, len: 2 * CHUNK };
        assert_eq!(before.chunk_of(&bytes), None, "crosses from one chunk to the next");
        assert_eq!(before.chunk_of(&bytes[32..]), Some(1));
        assert_eq!(Registered::default().chunk_of(&bytes), None);
    }
}
