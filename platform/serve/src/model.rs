//! What the caller brings: a loaded model, and the machine that it runs on.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use rill::engine::Engine;
use rill::image::{ChatTemplate, Sampling};
use rill::plan::{Plan, Use};
use rill::seams::{Events, World};
use rill::sequence::Sequence;

use crate::clerk::Clerk;
use crate::form::{Marks, STACK};
use crate::job::Job;
use crate::room::Room;
use crate::server::Shared;
use crate::worker::{View, Worker};

/// The machine that a model runs on.
pub trait Machine<'a> {
    /// The world, for one call into the engine.
    fn world<'w>(&'w mut self, events: &'w mut dyn Events) -> World<'w, 'a>;

    /// Reads on towards slots that are all full, for when nobody asks anything; waits for one read at
    /// most. `false` when nothing is left to read.
    fn warm(&mut self, _: &mut Engine<'a>) -> bool {
        false
    }

    /// Keeps what was found out so far, in case the power goes. Answers wait for it where it is not
    /// `idle`: then only what takes a moment.
    fn keep(&mut self, _: &mut Engine<'a>, idle: bool) {
        let _ = idle;
    }
}

/// A loaded model.
pub struct Loaded<'l, 'a> {
    /// What it is called.
    pub name: String,
    /// Bytes of its image.
    pub bytes: u64,
    /// How its RAM is divided.
    pub memory: Memory<'l>,
    /// What tells its image from others.
    pub identity: u64,
    /// How its makers advise to choose tokens.
    pub sampling: Sampling,
    /// Its own chat template.
    pub template: Option<ChatTemplate<'l>>,
    /// What the local clock shows, in seconds since its 1970 began: for templates that tell the date.
    pub now: fn() -> i64,
    /// Is called when requests are answered from now on.
    pub ready: fn(),
    /// The engine.
    pub engine: &'l mut Engine<'a>,
    /// As many conversations as can be side by side.
    pub sequences: &'l mut [Sequence<'a>],
    /// What it runs on.
    pub machine: &'l mut dyn Machine<'a>,
}

/// How the RAM of a loaded model is divided.
#[derive(Debug, Clone, Copy)]
pub struct Memory<'l> {
    /// Bytes that the process may use.
    pub budget: u64,
    /// The engine's part.
    pub plan: &'l Plan,
    /// What is beside it, by name.
    pub beside: &'l [(&'static str, u64)],
}

impl Memory<'_> {
    fn parts(&self) -> Vec<(&'static str, u64)> {
        let planned = Use::ALL.iter().map(|&part| (part.name(), self.plan.bytes(part)));
        let parts = planned.chain(self.beside.iter().copied());
        parts.filter(|(_, bytes)| *bytes > 0).collect()
    }
}

/// What the door knows of a loaded model.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub name: String,
    pub bytes: u64,
    /// Bytes that the process may use, and for what.
    pub budget: u64,
    pub parts: Vec<(&'static str, u64)>,
    /// Experts that a token uses.
    pub cycle: u32,
    /// Experts that fit into RAM.
    pub slots: u32,
    pub identity: u64,
    pub sampling: Sampling,
    /// Tokens of a conversation.
    pub context: usize,
    pub vocab: u32,
    /// Conversations side by side.
    pub places: usize,
    pub kernels: &'static str,
    pub thinks: bool,
    pub template: Option<String>,
    /// What begins and ends calls of tools, where the vocabulary has it.
    pub marks: Option<Marks>,
    pub now: fn() -> i64,
    /// Seconds since 1970 when it was loaded.
    pub since: u64,
}

impl Facts {
    /// Whether the model can be shown tools and can call them.
    pub fn calls_tools(&self) -> bool {
        self.marks.is_some() && self.shows_tools()
    }

    /// Whether the chat template shows tools to the model.
    pub fn shows_tools(&self) -> bool {
        self.template.as_ref().is_some_and(|template| template.contains("tools"))
    }
}

/// Where the engine's side works.
pub struct Desk {
    pub(crate) shared: Arc<Shared>,
    pub(crate) jobs: Receiver<Command>,
}

/// What the door says to the worker.
pub(crate) enum Command {
    /// Do this.
    Job(Box<Job>),
    /// Say how the engine is.
    Look(tokio::sync::oneshot::Sender<View>),
    /// End: what is under way has had its time.
    End,
}

impl Desk {
    /// Answers with a loaded model until the server ends.
    pub fn serve(self, loaded: Loaded<'_, '_>) -> Result<(), crate::server::StartError> {
        let Self { shared, jobs } = self;
        let Loaded {
            name,
            bytes,
            memory,
            identity,
            sampling,
            template,
            now,
            ready,
            engine,
            sequences,
            machine,
        } = loaded;
        let marks = Marks::of(engine.tokenizer());
        let facts = Facts {
            name,
            bytes,
            budget: memory.budget,
            parts: memory.parts(),
            cycle: memory.plan.cycle,
            slots: memory.plan.slots,
            identity,
            sampling,
            context: sequences.first().map_or(0, Sequence::context),
            vocab: engine.vocab(),
            places: sequences.len(),
            kernels: engine.kernels().name,
            thinks: engine.chat().thinking.is_some(),
            template: template.map(|template| template.source.to_owned()),
            marks,
            now,
            since: crate::server::seconds(),
        };
        let (tokenizer, chat) = (engine.tokenizer().clone(), engine.chat().clone());
        let clerk = Clerk::new(tokenizer, chat, template, Room::new(shared.limits.forms));
        std::thread::scope(|scope| {
            let (requests, inbox) = tokio::sync::mpsc::unbounded_channel();
            let thread = std::thread::Builder::new().name("rill-clerk".into()).stack_size(STACK);
            thread.spawn_scoped(scope, move || clerk.work(inbox))?;
            if !shared.open(facts, requests) {
                return Ok(());
            }
            ready();
            Worker::new(engine, sequences, machine, &shared).work(jobs);
            // The clerk ends when nobody can ask it anything any more.
            shared.close();
            Ok(())
        })
    }
}
