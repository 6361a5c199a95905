use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use rill::seams::{Completion, Geometry, Read, Storage, StorageError};

use super::disk::Queue;
use super::pieces::{Pieces, REQUESTS, Tuning};
use super::source::Source;

/// Reads by threads that block in `pread`: works everywhere.
#[derive(Debug)]
pub struct Threads {
    shared: Arc<Shared>,
    readers: Vec<JoinHandle<()>>,
}

/// More threads than this gain nothing on the devices of small boards.
const THREADS: usize = 8;
/// A reader only calls the kernel.
const STACK: usize = 64 << 10;

#[derive(Debug)]
struct Shared {
    source: Arc<Source>,
    state: Mutex<State>,
    /// There may be a piece to read, or it is time to stop.
    work: Condvar,
    /// A read is complete, or a reader has begun.
    done: Condvar,
}

#[derive(Debug)]
struct State {
    pieces: Pieces,
    /// Readers that have begun.
    started: usize,
    stop: bool,
}

impl Threads {
    /// Starts the readers and waits until they run.
    pub fn new(source: Arc<Source>) -> io::Result<Self> {
        let pieces = Pieces::new(Self::limit(Tuning::default()), source.alignment());
        let shared = Arc::new(Shared {
            source,
            state: Mutex::new(State { pieces, started: 0, stop: false }),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let mut threads = Self { shared, readers: Vec::with_capacity(THREADS) };
        for number in 0..THREADS {
            let shared = Arc::clone(&threads.shared);
            let thread = Builder::new().name(format!("rill-read-{number}")).stack_size(STACK);
            threads.readers.push(thread.spawn(move || shared.serve())?);
        }
        // A thread allocates while it starts: afterwards nothing does.
        let mut state = threads.shared.lock();
        while state.started < THREADS {
            state = threads.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        Ok(threads)
    }

    fn limit(tuning: Tuning) -> Tuning {
        Tuning { depth: tuning.depth.min(THREADS), ..tuning }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stop = true;
        state.pieces.cancel();
        drop(state);
        self.shared.work.notify_all();
        for reader in self.readers.drain(..) {
            // A reader that panicked holds no buffer any more.
            let _ = reader.join();
        }
    }
}

impl Queue for Threads {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn tune(&mut self, tuning: Tuning) {
        self.shared.lock().pieces.tune(Self::limit(tuning));
    }

    fn register(&mut self, _: &[u8]) -> bool {
        false
    }
}

impl Storage<'static> for Threads {
    fn geometry(&self) -> Geometry {
        let source = &self.shared.source;
        Geometry { len: source.len(), alignment: source.alignment() as u32, depth: REQUESTS as u16 }
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        self.shared.source.read_exact_at(offset, into)
    }

    fn submit(&mut self, read: Read<'static>) -> Result<(), Read<'static>> {
        self.shared.lock().pieces.accept(read)?;
        self.shared.work.notify_all();
        Ok(())
    }

    fn hurry(&mut self, tag: u32) {
        self.shared.lock().pieces.hurry(tag);
    }

    fn poll(&mut self) -> Option<Completion<'static>> {
        self.shared.lock().pieces.take_done()
    }

    fn wait(&mut self) -> Option<Completion<'static>> {
        let mut state = self.shared.lock();
        while !state.pieces.has_done() && state.pieces.is_busy() {
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.pieces.take_done()
    }
}

impl Shared {
    /// The bookkeeping stays whole even if a thread panicked elsewhere: no lock is held then.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a reader.
    fn serve(&self) {
        let mut state = self.lock();
        state.started += 1;
        self.done.notify_one();
        while !state.stop {
            let Some(mut piece) = state.pieces.next() else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let outcome = self.source.read_some(piece.offset(), piece.buffer());
            state = self.lock();
            state.pieces.finish(piece, outcome);
            if state.pieces.has_done() {
                self.done.notify_one();
            }
        }
    }
}
