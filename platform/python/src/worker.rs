//! A thread of its own for each model: Python's threads come and go, and none of them waits for another
//! with the interpreter's lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use pyo3::prelude::*;
use rill_linux::engine::{Engine, Memory, Options};

use crate::engine::RillError;
use crate::model::{Model, Wrong};

/// What is done with a model.
type Job = Box<dyn for<'m> FnOnce(&mut Model<'m>) + Send>;

/// The thread of a model.
pub struct Worker {
    /// `None` when the model is closed.
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How often Python is asked whether the user wants to end the program.
const LOOK: Duration = Duration::from_millis(50);

impl Worker {
    /// Loads a model on a thread of its own.
    pub fn start(py: Python<'_>, options: Options) -> PyResult<Self> {
        let (jobs, queue) = channel::<Job>();
        let (loaded, outcome) = sync_channel(1);
        let live = move || {
            let mut memory = Memory::new();
            let engine = match Engine::load(&options, &mut memory, &mut |_| {}) {
                Ok(engine) => engine,
                Err(error) => {
                    // Who asked waits for it.
                    let _ = loaded.send(Err(error.to_string()));
                    return;
                }
            };
            let mut model = Model::new(engine);
            let _ = loaded.send(Ok(()));
            queue.into_iter().for_each(|job| job(&mut model));
        };
        let thread = Builder::new().name("rill-model".into()).spawn(live)?;
        let ended = || Err("the model's thread ended".to_owned());
        let outcome = py.detach(move || outcome.recv().unwrap_or_else(|_| ended()));
        outcome.map_err(RillError::new_err)?;
        Ok(Self { jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)) })
    }

    /// Has `body` done with the model and waits for what comes of it, without the interpreter's lock. A
    /// signal for which Python raises an exception ends it, and nothing that others have asked for.
    pub fn call<R: Send + 'static>(
        &self,
        py: Python<'_>,
        body: impl for<'m> FnOnce(&mut Model<'m>) -> Result<R, Wrong> + Send + 'static,
    ) -> PyResult<R> {
        let (sender, outcome) = sync_channel(1);
        let [begun, stop] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let (begins, stops) = (Arc::clone(&begun), Arc::clone(&stop));
        let job: Job = Box::new(move |model| {
            begins.store(true, SeqCst);
            // Who asked waits no longer: see below.
            if !stops.load(SeqCst) {
                model.stop = stops;
                let _ = sender.send(body(model));
            }
        });
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let jobs = jobs.ok_or_else(|| RillError::new_err("the model is closed"))?;
        let gone = || RillError::new_err("the model's thread ended: a fault of Rill's");
        jobs.send(job).map_err(|_| gone())?;
        drop(jobs);
        py.detach(move || {
            let mut interrupted = None;
            loop {
                match outcome.recv_timeout(LOOK) {
                    Ok(done) => {
                        return match interrupted {
                            Some(interrupt) => Err(interrupt),
                            None => done.map_err(|wrong| RillError::new_err(wrong.to_string())),
                        };
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(interrupted.unwrap_or_else(gone));
                    }
                    Err(RecvTimeoutError::Timeout) => {
                        if let Err(interrupt) = Python::attach(|py| py.check_signals()) {
                            stop.store(true, SeqCst);
                            // What waits behind others' calls will not begin.
                            if !begun.load(SeqCst) {
                                return Err(interrupt);
                            }
                            interrupted.get_or_insert(interrupt);
                        }
                    }
                }
            }
        })
    }

    /// Ends the thread, when what is under way is done, and gives back the memory.
    pub fn close(&self, py: Python<'_>) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // One that panicked has ended too.
        let _ = py.detach(|| thread.map(JoinHandle::join));
    }
}
