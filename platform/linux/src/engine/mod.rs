//! A model, loaded within a budget: what every program on Linux stands on.
//!
//! ```
//! use rill_linux::engine::{Engine, Memory, Options};
//! use rill_linux::answer::AnswerOptions;
//! use rill_linux::talk::Talk;
//!
//! let mut memory = Memory::new();
//! // The model that is built in; `Options::model` names an image.
//! let mut engine = Engine::load(&Options::default(), &mut memory, &mut |_| {})?;
//! let mut talk = Talk::begin(&mut engine, None)?;
//! talk.ask(&mut engine, "Where is the lift?")?;
//! let mut text = String::new();
//! let options = AnswerOptions::default();
//! engine.answer(Some(&mut talk), &options, |_, piece| text.push_str(piece))?;
//! assert!(!text.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod beginnings;
mod beside;
mod budget;
mod error;
mod memory;
mod overhead;
mod usage;

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rill::experts::{Policy, Reuse};
use rill::image::{ChatTemplate, Image, ImageError, Section};
use rill::kernels::{self, CpuFeatures, Kernels};
use rill::report::{Report, Surroundings};
use rill::seams::{Events, Parallel, Silent, World};
use rill::sequence::Sequence;
use rill::session::Session;
use rill_template::{Template, TemplateError, Words};

use beginnings::Beginnings;
pub use beginnings::BeginningsError;
use budget::within;
pub use budget::{Beside, Budget, BudgetOptions};
pub use error::LoadError;
pub use memory::Memory;
pub use overhead::Overhead;
pub use usage::kept_uses;

use crate::arena::Arena;
use crate::clock::Monotonic;
use crate::memory::{group_limit, page_faults, peak_resident};
use crate::model::{Model, SectionBytes};
use crate::pool::Pool;
use crate::storage::Via;
use memory::Lent;

/// Which model, and how it may use this machine.
#[derive(Clone)]
pub struct Options {
    /// The image; `None` for the small one that is built in.
    pub model: Option<PathBuf>,
    /// How it is read.
    pub via: Via,
    /// How much RAM, and for what.
    pub budget: BudgetOptions,
    /// Cores to use, at most [`Pool::MOST`]; `None` for all.
    pub threads: Option<NonZeroUsize>,
    /// Name of the table of functions; `None` for the best of this CPU.
    pub kernels: Option<String>,
    /// Chooses which experts give way.
    pub policy: &'static dyn Policy,
    /// Whether experts may be read on a guess.
    pub lookahead: bool,
    /// Whether answers may be guessed on, which changes no word of them.
    pub draft: bool,
    /// Whether [`Engine::keep`] keeps which experts are in RAM.
    pub save_pages: bool,
    /// Most bytes of a file in which [`Engine::keep`] keeps what is known of conversations, for others
    /// that begin alike; `None` for no such file. What was said can be read from it.
    pub keep_beginnings: Option<u64>,
    /// Folder for what runs find out about an image and its device; `None` for that of the image.
    pub state: Option<PathBuf>,
}

impl Default for Options {
    /// The built-in model in what RAM is free, on all cores.
    fn default() -> Self {
        Self {
            model: None,
            via: Via::default(),
            budget: BudgetOptions::default(),
            threads: None,
            kernels: None,
            policy: &Reuse,
            lookahead: true,
            draft: true,
            save_pages: false,
            keep_beginnings: None,
            state: None,
        }
    }
}

/// What a user may want to know of a model that is being loaded.
#[derive(Debug, Clone, Copy)]
pub enum Note<'n> {
    /// How the budget was divided that nobody named.
    Budget(&'n Budget),
    /// What could not be had, in one line.
    Remark(&'n str),
    /// The system allows fewer threads than were asked for.
    Threads {
        /// Those that it allows.
        allowed: usize,
        /// Those that were asked for.
        asked: usize,
    },
}

impl fmt::Display for Note<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget(budget) => budget.fmt(f),
            Self::Remark(text) => f.write_str(text),
            Self::Threads { allowed, asked } => {
                write!(f, "the system allows {allowed} of {asked} threads")
            }
        }
    }
}

/// A loaded model and the machine that it runs on. Its RAM is a [`Memory`] that outlives it: dropping the
/// engine ends its threads and its reads, dropping the memory then gives back the RAM.
pub struct Engine<'m> {
    /// The image.
    pub image: Image,
    /// How its RAM is divided.
    pub budget: Budget,
    /// The model and its conversations.
    pub session: Session<'m>,
    /// What it runs on.
    pub machine: Machine<'m>,
    /// How long answers took so far, from the prompt's first token to the last text.
    pub(crate) answer_time: Duration,
    /// Tokens of answers that were thinking.
    pub(crate) thought: u64,
    /// The chat template that came with the model.
    template: Option<SectionBytes>,
    /// The same compiled, once it was wanted.
    compiled: Option<Arc<Template>>,
    load_time: Duration,
    /// Experts to read first while there is nothing else to do.
    warm_first: Vec<u32>,
    save_pages: bool,
    /// Keeps what is known of conversations.
    beginnings: Option<Beginnings>,
    /// What the names of kept files begin with; `None` without a file of the image.
    kept: Option<PathBuf>,
}

/// A loaded model for a program that computes batches of its own.
pub struct Parts<'e, 'm> {
    /// The model.
    pub core: &'e mut rill::engine::Engine<'m>,
    /// Its conversations.
    pub sequences: &'e mut [Sequence<'m>],
    /// The chat template that came with the model.
    pub template: Option<ChatTemplate<'e>>,
    /// What it runs on.
    pub machine: &'e mut Machine<'m>,
    /// What is kept for later runs, and read by them.
    pub learned: Learned<'e>,
}

/// What runs find out about an image.
pub struct Learned<'e> {
    image: u64,
    kept: Option<&'e Path>,
    warm_first: &'e [u32],
    beginnings: Option<&'e mut Beginnings>,
}

/// What the engine sees of this machine.
pub struct Machine<'m> {
    /// Where the image is.
    storage: Lent<'m>,
    /// The cores.
    pub pool: Pool,
    clock: Monotonic,
}

impl<'m> Engine<'m> {
    /// Loads a model into `memory`; `note` hears what the user may want to know.
    ///
    /// Its conversations are empty and choose tokens as the image advises, with seed 0.
    pub fn load(
        options: &Options,
        memory: &'m mut Memory,
        note: &mut dyn FnMut(Note<'_>),
    ) -> Result<Self, LoadError> {
        let start = Instant::now();
        let kernels = options.choose_kernels()?;
        let kept = kept(options.model.as_deref(), options.state.as_deref())?;
        let mut model = Model::open(options.model.as_deref(), options.via)?;
        let budget = options.budget.plan(&model, options.threads)?;
        match options.budget.ram {
            Some(ram) => within(ram, group_limit())?,
            None => note(Note::Budget(&budget)),
        }
        let threads = budget.threads;
        let template = template(&mut model)?;
        let bytes = budget.plan.total();
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        let arena = Arena::new(len, threads).map_err(|error| LoadError::Ram { bytes, error })?;
        arena.note().into_iter().for_each(|text| note(Note::Remark(text)));
        let Model { name, device, image } = model;
        let (bytes, mut storage) = memory.lend(arena, device);
        let bytes = storage.prepare(&image, &budget.plan, kept.as_deref(), bytes, note);
        let pool = Pool::new(threads);
        if pool.width() < threads {
            note(Note::Threads { allowed: pool.width(), asked: threads });
        }
        let mut machine = Machine { storage, pool, clock: Monotonic::start() };
        let mut core = rill::engine::Options::new(kernels);
        core.policy = options.policy;
        core.lookahead = options.lookahead;
        core.draft = options.draft;
        let loaded =
            Session::load(&image, &budget.plan, core, bytes, &mut machine.world(&mut Silent));
        let session = loaded.map_err(|error| LoadError::Engine { model: name, error })?;
        let beginnings = options.beginnings(kept.as_deref(), &image, &budget, note);
        Ok(Self {
            image,
            budget,
            session,
            machine,
            answer_time: Duration::ZERO,
            thought: 0,
            template,
            compiled: None,
            load_time: start.elapsed(),
            warm_first: Vec::new(),
            save_pages: options.save_pages,
            beginnings,
            kept,
        })
    }

    /// What tells this image from others.
    pub fn identity(&self) -> u64 {
        self.image.header.identity()
    }

    /// The chat template that came with the model; `None` when there is none.
    pub fn template(&self) -> Option<ChatTemplate<'_>> {
        // It was read before, when the model was loaded.
        self.template.as_deref().and_then(ChatTemplate::parse)
    }

    /// The same compiled, which is done once; an error each time when it cannot be.
    pub(crate) fn compiled_template(&mut self) -> Result<Option<Arc<Template>>, TemplateError> {
        if self.compiled.is_none()
            && let Some(section) = self.template()
        {
            let words = Words::of(self.session.tokenizer(), self.session.chat(), &section);
            self.compiled = Some(Arc::new(Template::new(section.source, words)?));
        }
        Ok(self.compiled.clone())
    }

    /// Takes over what earlier runs found out: about the experts' uses, and what they knew of
    /// conversations where that was kept. An error is of the latter alone.
    pub fn recall(&mut self) -> Result<(), BeginningsError> {
        let image = self.identity();
        if let Some(path) = &self.kept {
            usage::recall(&mut self.session, image, path);
            self.warm_first = usage::recall_resident(&self.session, image, path);
        }
        let Some(beginnings) = &mut self.beginnings else { return Ok(()) };
        beginnings.recall(self.session.parts().0)
    }

    /// Reads on towards slots that are all full; waits for one read at most. `false` when nothing is
    /// left to read.
    pub fn warm(&mut self) -> bool {
        let warmed = self.session.warm(&mut self.machine.world(&mut Silent), &self.warm_first);
        // A page that cannot be had is reported when it is wanted.
        warmed.unwrap_or(false)
    }

    /// Keeps what was found out for later runs. An error is of what is known of conversations alone.
    pub fn keep(&mut self) -> Result<(), BeginningsError> {
        self.keep_uses();
        let Some(beginnings) = &mut self.beginnings else { return Ok(()) };
        beginnings.keep(self.session.parts().0)
    }

    /// As [`Self::keep`], while nothing else is to be done; what is large is kept now and then only.
    pub fn keep_meanwhile(&mut self) -> Result<(), BeginningsError> {
        self.keep_uses();
        let Some(beginnings) = &mut self.beginnings else { return Ok(()) };
        beginnings.keep_meanwhile(self.session.parts().0)
    }

    fn keep_uses(&self) {
        if let Some(path) = &self.kept {
            usage::save(self.session.history(), self.identity(), path);
            if self.save_pages {
                usage::save_resident(&self.session, self.identity(), path);
            }
        }
    }

    /// All of it apart.
    pub fn parts(&mut self) -> Parts<'_, 'm> {
        let image = self.identity();
        let (core, sequences) = self.session.parts();
        Parts {
            core,
            sequences,
            template: self.template.as_deref().and_then(ChatTemplate::parse),
            machine: &mut self.machine,
            learned: Learned {
                image,
                kept: self.kept.as_deref(),
                warm_first: &self.warm_first,
                beginnings: self.beginnings.as_mut(),
            },
        }
    }

    /// Where time and memory went so far.
    pub fn report(&self) -> Report<'_> {
        let around = Surroundings {
            threads: self.machine.pool.width(),
            storage: self.machine.via(),
            load_time: self.load_time.as_micros() as u64,
            budget: self.budget.used(),
            overhead: &self.budget.beside,
            peak_resident: peak_resident(),
            answer_time: Some(self.answer_time.as_micros() as u64),
            thought: self.thought,
            faults: page_faults(),
        };
        Report::new(&self.session, &self.budget.plan, around)
    }
}

/// What the names of files begin with that are kept for an image: its own name, in the folder `state`
/// where one is named. `None` for the model that is built in.
pub fn kept(image: Option<&Path>, state: Option<&Path>) -> Result<Option<PathBuf>, LoadError> {
    let Some(image) = image else { return Ok(None) };
    let Some(folder) = state else { return Ok(Some(image.to_owned())) };
    if !folder.is_dir() {
        return Err(LoadError::State(folder.to_owned()));
    }
    Ok(image.file_name().map(|name| folder.join(name)))
}

/// The section of the chat template, where there is one.
fn template(model: &mut Model) -> Result<Option<SectionBytes>, LoadError> {
    if model.image.header.span(Section::Template).len == 0 {
        return Ok(None);
    }
    let bytes = model.section(Section::Template)?;
    match ChatTemplate::parse(&bytes) {
        Some(_) => Ok(Some(bytes)),
        None => {
            let (model, error) = (model.name.clone(), ImageError::Length(Section::Template));
            Err(LoadError::Image { model, error })
        }
    }
}

impl Learned<'_> {
    /// Reads on towards slots that are all full, as [`Engine::warm`] does.
    pub fn warm<'m>(&self, core: &mut rill::engine::Engine<'m>, machine: &mut Machine<'m>) -> bool {
        core.warm(&mut machine.world(&mut Silent), self.warm_first).unwrap_or(false)
    }

    /// Keeps what was found out about the experts' uses, which takes a moment.
    pub fn keep_uses(&self, core: &rill::engine::Engine<'_>) {
        if let Some(path) = self.kept {
            usage::save(core.history(), self.image, path);
        }
    }

    /// Keeps what was found out, as [`Engine::keep_meanwhile`] does, but for which experts are in RAM.
    pub fn keep_meanwhile(
        &mut self,
        core: &mut rill::engine::Engine<'_>,
    ) -> Result<(), BeginningsError> {
        self.keep_uses(core);
        self.beginnings.as_mut().map_or(Ok(()), |beginnings| beginnings.keep_meanwhile(core))
    }
}

impl<'m> Machine<'m> {
    /// The world, for one call into the engine.
    pub fn world<'w>(&'w mut self, events: &'w mut dyn Events) -> World<'w, 'm> {
        World { storage: &mut self.storage, parallel: &self.pool, clock: &self.clock, events }
    }

    /// What reads the image, by name.
    pub fn via(&self) -> &'static str {
        self.storage.via()
    }
}

impl Options {
    /// Where what is known of conversations is kept, if it is to be and can be.
    fn beginnings(
        &self,
        kept: Option<&Path>,
        image: &Image,
        budget: &Budget,
        note: &mut dyn FnMut(Note<'_>),
    ) -> Option<Beginnings> {
        let most = self.keep_beginnings?;
        let Some(kept) = kept else {
            note(Note::Remark("nothing is kept of conversations with the model that is built in"));
            return None;
        };
        if budget.plan.sizes.prefixes == 0 {
            note(Note::Remark("nothing is kept of conversations: there is no RAM to know it"));
            return None;
        }
        Some(Beginnings::new(kept, image.header.identity(), most))
    }

    fn choose_kernels(&self) -> Result<&'static Kernels, LoadError> {
        let features = CpuFeatures::detect();
        let Some(name) = &self.kernels else { return Ok(kernels::best(features)) };
        kernels::by_name(name, features).ok_or_else(|| LoadError::Kernels {
            name: name.clone(),
            known: kernels::all(features).map(|table| table.name).collect(),
        })
    }
}
