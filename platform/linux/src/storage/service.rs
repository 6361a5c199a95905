//! What both back ends share: reads are handed to workers of their own, so that the device stays
//! busy while the engine computes, and nothing that a read waits for holds up the engine.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rill::seams::pieces::{Pieces, Tuning, rest};
use rill::seams::{
    Clock, Completion, Geometry, Micros, Read, Storage, StorageError, StorageErrorKind,
};

use super::queue::Queue;
use super::source::Source;
use crate::clock::Monotonic;

/// How many reads may be under way.
pub const REQUESTS: usize = 64;
/// Most pieces that may be in the hands of the kernel.
pub const MAX_DEPTH: usize = 32;

/// The engine's side of a back end.
#[derive(Debug)]
pub struct Service<B: Bell> {
    shared: Arc<Shared<B>>,
    workers: Vec<JoinHandle<()>>,
}

/// How workers learn that there may be something to do.
pub trait Bell: Sized + Send + Sync + std::fmt::Debug + 'static {
    /// What the back end is called in statistics.
    const NAME: &'static str;
    /// Most pieces in flight.
    const DEPTH: usize;
    /// Wakes the workers.
    fn ring(&self, shared: &Shared<Self>);
}

/// What engine and workers see.
#[derive(Debug)]
pub struct Shared<B> {
    /// The file.
    pub source: Arc<Source>,
    /// What wakes workers that do not wait for `work`.
    pub bell: B,
    clock: Monotonic,
    state: Mutex<State>,
    /// There may be a piece to read, or it is time to stop.
    pub work: Condvar,
    /// A read is complete, or a worker has begun.
    pub done: Condvar,
}

/// The bookkeeping.
#[derive(Debug)]
pub struct State {
    /// The reads under way.
    pub pieces: Pieces<'static, REQUESTS, MAX_DEPTH>,
    /// Workers that have begun.
    pub started: usize,
    /// It is time to stop.
    pub stop: bool,
}

/// A worker only calls the kernel.
const STACK: usize = 64 << 10;

impl<B: Bell> Service<B> {
    /// Starts a worker for each of `bodies`, or for the first ones where the system refuses more, and
    /// waits until they run.
    pub fn start<W>(source: Arc<Source>, bell: B, bodies: Vec<W>) -> io::Result<Self>
    where
        W: FnOnce(&Shared<B>) + Send + 'static,
    {
        let tuning = Self::limit(Tuning::default());
        let pieces = Pieces::new(tuning, source.len(), source.alignment());
        let shared = Arc::new(Shared {
            source,
            bell,
            clock: Monotonic::start(),
            state: Mutex::new(State { pieces, started: 0, stop: false }),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let mut service = Self { shared, workers: Vec::with_capacity(bodies.len()) };
        for (number, body) in bodies.into_iter().enumerate() {
            let shared = Arc::clone(&service.shared);
            let thread = Builder::new().name(format!("rill-read-{number}")).stack_size(STACK);
            match thread.spawn(move || body(&shared)) {
                Ok(worker) => service.workers.push(worker),
                Err(error) if number == 0 => return Err(error),
                Err(_) => break,
            }
        }
        // A thread allocates while it starts: afterwards nothing does.
        let mut state = service.shared.lock();
        while state.started < service.workers.len() {
            state = service.shared.wait_done(state, None);
        }
        drop(state);
        Ok(service)
    }

    fn limit(tuning: Tuning) -> Tuning {
        Tuning { depth: tuning.depth.min(B::DEPTH), ..tuning }
    }
}

impl<B: Bell> Drop for Service<B> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stop = true;
        state.pieces.fail(ENDED);
        drop(state);
        self.shared.wake();
        for worker in self.workers.drain(..) {
            // A worker that panicked holds no buffer any more.
            let _ = worker.join();
        }
    }
}

impl<B: Bell> Queue for Service<B> {
    fn name(&self) -> &'static str {
        B::NAME
    }

    fn threads(&self) -> usize {
        self.workers.len()
    }

    fn tune(&mut self, tuning: Tuning) {
        self.shared.lock().pieces.tune(Self::limit(tuning));
    }

    fn confine(&mut self, arena: &[u8]) {
        self.shared.lock().pieces.confine(arena);
    }
}

impl<B: Bell> Storage<'static> for Service<B> {
    fn geometry(&self) -> Geometry {
        let source = &self.shared.source;
        Geometry { len: source.len(), alignment: source.alignment() as u32, depth: REQUESTS as u16 }
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        self.shared.source.read_exact_at(offset, into)
    }

    fn rest(&mut self, attempt: u8) {
        std::thread::sleep(Duration::from_micros(rest(attempt)));
    }

    fn submit(&mut self, read: Read<'static>) -> Result<(), Read<'static>> {
        let mut state = self.shared.lock();
        state.pieces.accept(read, self.shared.now())?;
        // With as many pieces in flight as may be, the next that comes back wakes a worker.
        let idle = state.pieces.has_room();
        drop(state);
        if idle {
            self.shared.wake();
        }
        Ok(())
    }

    fn hurry(&mut self, tag: u32) {
        self.shared.lock().pieces.hurry(tag);
    }

    fn abandon(&mut self, tag: u32) {
        self.shared.lock().pieces.abandon(tag);
    }

    fn poll(&mut self) -> Option<Completion<'static>> {
        let mut state = self.shared.lock();
        let rested = state.pieces.next_rested().is_some_and(|due| due <= self.shared.now());
        let done = state.pieces.take_done();
        drop(state);
        if rested {
            self.shared.wake();
        }
        done
    }

    fn wait(&mut self) -> Option<Completion<'static>> {
        let mut state = self.shared.lock();
        while !state.pieces.has_done() && state.pieces.is_busy() {
            let due = state.pieces.next_rested();
            if due.is_some_and(|due| due <= self.shared.now()) {
                self.shared.wake();
            }
            state = self.shared.wait_done(state, due);
        }
        state.pieces.take_done()
    }
}

impl<B> Shared<B> {
    /// The time by which reads rest.
    pub fn now(&self) -> Micros {
        self.clock.now()
    }

    /// The bookkeeping stays whole even if a thread panicked elsewhere: no lock is held then.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `done`, but not much longer than until `due`.
    fn wait_done<'s>(
        &self,
        state: MutexGuard<'s, State>,
        due: Option<Micros>,
    ) -> MutexGuard<'s, State> {
        let Some(due) = due else {
            return self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        // A worker that was woken for what is due needs a moment to take it.
        let left = due.saturating_sub(self.now()).max(LEAST_REST);
        let waited = self.done.wait_timeout(state, Duration::from_micros(left));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits for `work`.
    pub fn wait_work<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.work.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a worker has begun.
    pub fn begin(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.started += 1;
        self.done.notify_one();
        state
    }
}

/// The engine looks after what is due no more often than this.
const LEAST_REST: Micros = 500;
/// What a read ends with that is under way when its file is closed; nobody hears of it.
const ENDED: StorageError = StorageError { kind: StorageErrorKind::Permanent, code: 0 };

impl<B: Bell> Shared<B> {
    fn wake(&self) {
        self.bell.ring(self);
    }
}
