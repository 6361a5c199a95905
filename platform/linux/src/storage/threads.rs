use std::io;
use std::sync::Arc;

use super::service::{Bell, Service, Shared};
use super::source::{Source, outcome};

/// Reads by threads that block in `pread`: works everywhere.
pub type Threads = Service<Gong>;

/// More threads than this gain nothing on the devices of small boards.
const THREADS: usize = 8;

/// Wakes every thread that waits for work.
#[derive(Debug)]
pub struct Gong;

impl Bell for Gong {
    const NAME: &'static str = "threads";
    const DEPTH: usize = THREADS;

    fn ring(&self, shared: &Shared<Self>) {
        shared.work.notify_all();
    }
}

/// Starts the threads.
pub fn threads(source: Arc<Source>) -> io::Result<Threads> {
    Service::start(source, Gong, vec![serve; THREADS])
}

/// The life of a thread.
fn serve(shared: &Shared<Gong>) {
    let mut state = shared.begin();
    while !state.stop {
        let Some(mut piece) = state.pieces.next(shared.now()) else {
            state = shared.wait_work(state);
            continue;
        };
        drop(state);
        let answer = shared.source.read_some(piece.offset(), piece.buffer());
        state = shared.lock();
        state.pieces.finish(piece, outcome(answer));
        if state.pieces.has_done() {
            shared.done.notify_one();
        }
    }
}
