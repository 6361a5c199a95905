use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode, squeue, types};
use rill::seams::pieces::{Outcome, Piece};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::service::{Bell, MAX_DEPTH, Service, Shared};
use super::source::{Source, outcome};

/// Reads through io_uring: one thread keeps as many in flight as the device likes.
pub type Uring = Service<Chime>;

/// Wakes the thread in the kernel: a counter that the ring watches.
#[derive(Debug)]
pub struct Chime(OwnedFd);

impl Bell for Chime {
    const NAME: &'static str = "io_uring";
    const DEPTH: usize = MAX_DEPTH;

    fn ring(&self, _: &Shared<Self>) {
        // The counter cannot overflow: each answer resets it.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// Makes a ring and starts its thread; an error where the kernel has no io_uring, is too old or
/// forbids it.
pub fn uring(source: Arc<Source>) -> io::Result<Uring> {
    uring_telling(source, |_| {})
}

/// [`uring`]; tells the ring's descriptor.
fn uring_telling(source: Arc<Source>, tell: impl FnOnce(RawFd)) -> io::Result<Uring> {
    // A place for each piece, and one for the chime.
    let ring = IoUring::new(MAX_DEPTH as u32 + 1)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    if ![opcode::Read::CODE, opcode::PollAdd::CODE].iter().all(|&code| probe.is_supported(code)) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    tell(ring.as_raw_fd());
    let chime = Chime(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let lane = Lane {
        ring,
        table: (0..MAX_DEPTH).map(|_| None).collect(),
        queued: VecDeque::with_capacity(MAX_DEPTH + 1),
        listening: false,
        failures: 0,
    };
    Service::start(source, chime, vec![move |shared: &Shared<Chime>| lane.serve(shared)])
}

/// The thread's own.
struct Lane {
    ring: IoUring,
    /// The pieces in the hands of the kernel, by the number they were submitted under.
    table: Box<[Option<Piece<'static>>]>,
    /// Numbers that the kernel may not have taken out of the queue yet, oldest first.
    queued: VecDeque<u64>,
    /// The kernel watches the chime.
    listening: bool,
    /// How often in a row the kernel refused to be entered.
    failures: u32,
}

/// The chime's number.
const CHIME: u64 = u64::MAX;
/// After so many refusals the kernel is not asked again.
const MAX_FAILURES: u32 = 50;
/// Between two refusals.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_SPEC: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

impl Lane {
    /// The life of the thread.
    fn serve(mut self, shared: &Shared<Chime>) {
        let mut state = shared.begin();
        loop {
            while let Some(piece) = state.pieces.next(shared.now()) {
                self.push(piece, &shared.source);
            }
            if state.stop && state.pieces.in_flight() == 0 {
                return;
            }
            drop(state);
            if !self.listening {
                self.listen(&shared.bell);
            }
            self.enter();
            if self.failures > MAX_FAILURES {
                return self.serve_plainly(shared);
            }
            state = shared.lock();
            self.collect(&shared.bell, |piece, outcome| state.pieces.finish(piece, outcome));
            if state.pieces.has_done() {
                shared.done.notify_one();
            }
            if self.failures > MAX_FAILURES {
                drop(state);
                return self.serve_plainly(shared);
            }
        }
    }

    /// The life of the thread once the kernel refuses to be entered or to read: plain reads, and an
    /// eye on what it took before. It is not entered again, so what it has not taken it never will.
    fn serve_plainly(mut self, shared: &Shared<Chime>) {
        let mut state = shared.lock();
        loop {
            self.collect(&shared.bell, |piece, outcome| state.pieces.finish(piece, outcome));
            if state.pieces.has_done() {
                shared.done.notify_one();
            }
            let refused = self.queued.pop_front().and_then(|number| self.take(number));
            if let Some(mut piece) = refused.or_else(|| state.pieces.next(shared.now())) {
                drop(state);
                let answer = shared.source.read_some(piece.offset(), piece.buffer());
                state = shared.lock();
                state.pieces.finish(piece, outcome(answer));
                continue;
            }
            if state.stop && state.pieces.in_flight() == 0 {
                return;
            }
            drop(state);
            let busy = self.table.iter().any(Option::is_some);
            let mut chime = [PollFd::new(&shared.bell.0, PollFlags::IN)];
            // An interruption only means to look again.
            let _ = poll(&mut chime, busy.then_some(&PAUSE_SPEC));
            let _ = rustix::io::read(&shared.bell.0, &mut [0; 8]);
            state = shared.lock();
        }
    }

    /// Puts a piece in the queue.
    fn push(&mut self, mut piece: Piece<'static>, source: &Source) {
        let Some(number) = self.table.iter().position(Option::is_none) else {
            unreachable!("no more pieces are in flight than the table has places");
        };
        let entry = entry(&mut piece, source).user_data(number as u64);
        self.table[number] = Some(piece);
        self.queued.push_back(number as u64);
        // SAFETY: the entry's buffer belongs to the piece, which stays in the table, untouched,
        // until its completion or until the kernel never saw it; its memory is an arena's, which
        // is given back only after this thread has ended: never by a leaked ring.
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            unreachable!("the ring has as many places as the table, and one more");
        }
    }

    /// Lets the kernel watch the chime.
    fn listen(&mut self, chime: &Chime) {
        let fd = types::Fd(chime.0.as_raw_fd());
        let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).build().user_data(CHIME);
        // SAFETY: the entry has no buffer, and the chime lives as long as this thread.
        self.listening = unsafe { self.ring.submission().push(&entry) }.is_ok();
        self.queued.extend(self.listening.then_some(CHIME));
    }

    /// Hands over what is queued and waits until the kernel has finished something.
    fn enter(&mut self) {
        match self.ring.submit_and_wait(1) {
            Ok(_) => self.failures = 0,
            Err(error) if is_passing(&error) => {}
            // Nothing is known that would do this; what was handed over still comes back.
            Err(_) => {
                self.failures += 1;
                std::thread::sleep(PAUSE);
            }
        }
        let taken = self.queued.len() - self.ring.submission().len();
        self.queued.drain(..taken);
    }

    /// Takes a piece out of the table; the chime has no place there.
    fn take(&mut self, number: u64) -> Option<Piece<'static>> {
        self.table.get_mut(usize::try_from(number).ok()?)?.take()
    }

    /// Takes what the kernel has finished.
    fn collect(&mut self, chime: &Chime, mut finish: impl FnMut(Piece<'static>, Outcome)) {
        let Self { ring, table, queued, listening, failures } = self;
        for answer in ring.completion() {
            let number = answer.user_data();
            if number == CHIME {
                let _ = rustix::io::read(&chime.0, &mut [0; 8]);
                *listening = false;
                continue;
            }
            // Nobody asked for that: the kernel may start no thread for a read that has to wait. It is
            // done plainly, as if it had never been taken.
            if answer.result() == -libc::ECANCELED {
                queued.push_back(number);
                *failures = MAX_FAILURES + 1;
                continue;
            }
            let Some(piece) = table.get_mut(number as usize).and_then(Option::take) else {
                unreachable!("the kernel answers each piece once");
            };
            let answer = match answer.result() {
                error if error < 0 => Err(Errno::from_raw_os_error(-error)),
                bytes => Ok(bytes as usize),
            };
            finish(piece, outcome(answer));
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // The thread panicked with reads in the hands of the kernel, which nothing would stop from
        // writing to memory that is given back.
        if self.table.iter().any(Option::is_some) {
            std::process::abort();
        }
    }
}

/// The kernel's order for a piece.
fn entry(piece: &mut Piece<'_>, source: &Source) -> squeue::Entry {
    let fd = types::Fd(source.as_fd().as_raw_fd());
    let offset = source.place_of(piece.offset());
    let buffer = piece.buffer();
    // Registered buffers would save a little work at each read, for 24 bytes of the kernel's RAM
    // for each page of the arena where it has no huge pages.
    opcode::Read::new(fd, buffer.as_mut_ptr(), buffer.len() as u32).offset(offset).build()
}

fn is_passing(error: &io::Error) -> bool {
    let passing = [libc::EINTR, libc::EAGAIN, libc::EBUSY];
    error.raw_os_error().is_some_and(|code| passing.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Arena;
    use rill::seams::{Read, Storage, Urgency};

    #[test]
    fn a_ring_that_cannot_be_entered_any_more_is_done_without() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut file, &vec![7; 1 << 20]).unwrap();
        let source = Arc::new(Source::open(file.path(), 0).unwrap());
        let (sender, receiver) = std::sync::mpsc::channel();
        let Ok(mut service) = uring_telling(source, move |fd| sender.send(fd).unwrap()) else {
            eprintln!("io_uring is not there");
            return;
        };
        // Another file takes the place of the ring: entering it is an error from now on.
        let other = std::fs::File::open("/dev/null").unwrap();
        let fd = receiver.recv().unwrap();
        // SAFETY: both are open descriptors of this process.
        assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), fd) }, fd);
        let arena = Arena::new(1 << 20, 1).unwrap().leak();
        for (tag, into) in arena.chunks_exact_mut(256 << 10).enumerate() {
            let offset = (tag * into.len()) as u64;
            let read = Read { tag: tag as u32, offset, into, urgency: Urgency::Demand, attempt: 0 };
            service.submit(read).unwrap();
        }
        for _ in 0..4 {
            let done = service.wait().unwrap();
            done.result.unwrap();
            assert!(done.into.iter().all(|&byte| byte == 7));
        }
        assert!(service.wait().is_none());
    }
}
