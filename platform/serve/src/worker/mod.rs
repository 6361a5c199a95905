//! The engine's thread: one batch after the other, for all answers under way.
//!
//! Between two batches places are filled from the queue, in order of arrival, and freed of those whose
//! client left, whose time is over, or who are answered. An answer whose client reads too slowly waits;
//! the others do not.

mod decision;
mod known;
mod place;
mod speech;
mod view;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use rill::draft::Drafter;
use rill::engine::Engine;
use rill::seams::Silent;
use rill::sequence::{Sequence, SequenceError};
use tokio::sync::oneshot::Sender;

use crate::job::{Event, Job, Trouble};
use crate::model::{Command, Machine};
use crate::server::Shared;
use place::Place;

pub use view::{Experts, View};

/// After so long without a request, what was found out is kept.
const IDLE: Duration = Duration::from_secs(30);
/// It is kept at least this often.
const KEEP: Duration = Duration::from_secs(900);

/// The engine's side of a server.
pub struct Worker<'l, 'a> {
    engine: &'l mut Engine<'a>,
    machine: &'l mut dyn Machine<'a>,
    places: Vec<Place<'l, 'a>>,
    queue: VecDeque<Box<Job>>,
    shared: Arc<Shared>,
    /// Answers begun so far: who came first is served first.
    begun: u64,
    /// Whether it was asked to end.
    ends: bool,
    /// When what was found out was kept last.
    kept: Instant,
}

impl<'l, 'a> Worker<'l, 'a> {
    /// With a place for each sequence.
    pub fn new(
        engine: &'l mut Engine<'a>,
        sequences: &'l mut [Sequence<'a>],
        machine: &'l mut dyn Machine<'a>,
        shared: &Arc<Shared>,
    ) -> Self {
        let places = sequences.iter_mut().map(Place::new).collect();
        let shared = Arc::clone(shared);
        let (queue, kept) = (VecDeque::new(), Instant::now());
        Self { engine, machine, places, queue, shared, begun: 0, ends: false, kept }
    }

    /// Works until it is asked to end.
    pub fn work(mut self, jobs: Receiver<Command>) {
        self.shared.metrics.beat();
        while !self.ends {
            self.receive(&jobs);
            self.free();
            self.fill();
            self.lend();
            self.step();
            self.collect();
            self.shared.metrics.beat();
            if self.kept.elapsed() > KEEP {
                self.keep(false);
            }
        }
        for place in &mut self.places {
            place.end(self.engine, Err(Trouble::Engine("the server ends".into())));
        }
    }

    /// Takes what has come; waits when there is nothing to do.
    fn receive(&mut self, jobs: &Receiver<Command>) {
        let mut may_warm = true;
        loop {
            let is_idle = self.queue.is_empty() && self.places.iter().all(Place::is_free);
            let command = match jobs.try_recv() {
                Ok(command) => Some(command),
                Err(TryRecvError::Disconnected) => None,
                Err(TryRecvError::Empty) if !is_idle => return,
                Err(TryRecvError::Empty) if may_warm => {
                    // One read at most: who asks meanwhile is heard, and nothing is stuck.
                    self.shared.metrics.load(0, 0);
                    self.shared.metrics.beat();
                    may_warm = self.machine.warm(self.engine);
                    continue;
                }
                Err(TryRecvError::Empty) => {
                    self.shared.metrics.load(0, 0);
                    self.shared.metrics.idle();
                    let command = self.wait(jobs);
                    // From here on it has something to do, and may be stuck at it.
                    self.shared.metrics.beat();
                    command
                }
            };
            match command {
                Some(Command::Job(job)) => self.queue.push_back(job),
                Some(Command::Look(tell)) => self.tell(tell),
                Some(Command::End) | None => {
                    self.ends = true;
                    return;
                }
            }
        }
    }

    /// Waits for something to do; after a while what was found out is kept, also while somebody looks.
    fn wait(&mut self, jobs: &Receiver<Command>) -> Option<Command> {
        let until = Instant::now() + IDLE;
        let mut is_kept = false;
        loop {
            let command = match is_kept {
                true => jobs.recv().ok(),
                false => match jobs.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Err(RecvTimeoutError::Timeout) => {
                        self.keep(true);
                        is_kept = true;
                        continue;
                    }
                    command => command.ok(),
                },
            };
            match command {
                Some(Command::Look(tell)) => self.tell(tell),
                command => return command,
            }
        }
    }

    /// Says how the engine is.
    fn tell(&self, tell: Sender<View>) {
        // Whoever asked may have left, long ago after a long batch.
        if tell.is_closed() {
            return;
        }
        let _ = tell.send(View::of(self.engine, &self.places));
    }

    fn keep(&mut self, idle: bool) {
        self.machine.keep(self.engine, idle);
        self.kept = Instant::now();
    }

    /// Frees places and the queue of those who are not to be answered any more.
    fn free(&mut self) {
        let now = Instant::now();
        for place in &mut self.places {
            place.check(self.engine, now, self.shared.limits.patience);
        }
        self.queue.retain(|job| {
            let late = now >= job.deadline;
            if late {
                // The queue is empty: there is room.
                let _ = job.events.try_send((job.choice, Event::Failed(Trouble::Waited)));
            }
            !late && !job.events.is_closed()
        });
    }

    /// Gives free places to who waits.
    fn fill(&mut self) {
        for place in self.places.iter_mut().filter(|place| place.is_free()) {
            let Some(job) = self.queue.pop_front() else { break };
            self.begun += 1;
            place.begin(self.engine, job, self.begun);
        }
        let busy = self.places.iter().filter(|place| !place.is_free()).count();
        self.shared.metrics.load(busy, self.queue.len());
    }

    /// Has choices of decisions weighed side by side: in their own place and in those that are free.
    fn lend(&mut self) {
        let Self { engine, places, .. } = self;
        for owner in 0..places.len() {
            let mut left = places[owner].left();
            left.retain(|branch| !places.iter().any(|place| place.helps(branch)));
            let Some(own) = left.pop() else { continue };
            for helper in 0..places.len() {
                if !places[helper].is_free() {
                    continue;
                }
                let Some(branch) = left.pop() else { break };
                if let Ok([owner, helper]) = places.get_disjoint_mut([owner, helper]) {
                    helper.help(engine, owner, branch);
                }
            }
            places[owner].take(engine, own);
        }
    }

    /// Tells decisions what was weighed for them.
    fn collect(&mut self) {
        let Self { engine, places, .. } = self;
        let helped: Vec<_> = places.iter_mut().filter_map(|place| place.helped(engine)).collect();
        for place in places {
            helped.iter().for_each(|branch| place.hear(engine, Some(branch)));
            place.hear(engine, None);
        }
    }

    /// One batch, and what came of it.
    fn step(&mut self) {
        let Self { engine, machine, places, shared, .. } = self;
        let (mut at_work, mut others): (Vec<_>, Vec<_>) =
            places.iter_mut().partition(|place| place.can_go_on() && !place.waits_for_choices());
        if at_work.is_empty() {
            // All wait for their clients: there is nothing to do until one of them reads.
            if others.iter().any(|place| !place.is_free()) {
                std::thread::sleep(Duration::from_millis(2));
            }
            return;
        }
        at_work.sort_by_key(|place| place.order);
        let mut silent = Silent;
        let mut world = machine.world(&mut silent);
        let parts = at_work.iter_mut().map(|place| {
            let Place { sequence, state, .. } = &mut **place;
            (&mut **sequence, state as &mut dyn Drafter)
        });
        let (mut sequences, mut drafters): (Vec<_>, Vec<_>) = parts.unzip();
        match engine.advance_with(&mut world, &mut sequences, &mut drafters) {
            Ok(advance) => {
                // Who has still to be heard of may have the memory that is wanted; and nobody is refused for
                // those that wait for their clients, or for the choices of a decision.
                if let Some(number) = advance.refused.filter(|_| advance.is_stuck())
                    && at_work.iter().all(|place| !place.sequence.pending().is_empty())
                {
                    others.sort_by_key(|place| place.order);
                    if !others.iter_mut().rev().any(|place| engine.park(place.sequence)) {
                        at_work[number].end(engine, Err(SequenceError::NoBlocks.into()));
                    }
                }
            }
            // One of them cannot be computed: the others are, one by one.
            Err(_) => {
                for place in &mut at_work {
                    let Place { sequence, state, .. } = &mut **place;
                    let alone =
                        engine.advance_with(&mut world, &mut [&mut **sequence], &mut [state]);
                    match alone {
                        Ok(_) => place.speak(engine, &mut world, &shared.metrics),
                        Err(error) => place.end(engine, Err(error.into())),
                    }
                }
                shared.metrics.engine(engine.stats());
                return;
            }
        }
        for place in at_work.iter_mut().filter(|place| !place.is_free()) {
            place.speak(engine, &mut world, &shared.metrics);
        }
        shared.metrics.engine(engine.stats());
    }
}
