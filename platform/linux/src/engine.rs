//! A model, loaded within a budget.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rill::engine::Options;
use rill::experts::{DecayedLfu, LayerLru, Lru, Policy, Reuse};
use rill::image::{ChatTemplate, Image, Sampling, Section, checksum};
use rill::kernels::{self, Kernels};
use rill::model::kv::KvFormat;
use rill::plan::{Plan, PlanError, PlanRequest, Sizes};
use rill::report::{Report, Surroundings};
use rill::sampler::Settings;
use rill::seams::{Events, Parallel, Silent, World};
use rill::session::Session;
use rill::size::Size;
use rill_linux::arena::Arena;
use rill_linux::clock::Monotonic;
use rill_linux::memory::{self, parse_size};
use rill_linux::pool::Pool;
use rill_linux::{cpu, storage};

use crate::failure::Failure;
use crate::model::{Device, Model, ModelArgs};
use crate::terminal::tell;
use crate::usage;

/// Which model, and how it may use this machine.
#[derive(Debug, Clone, clap::Args)]
pub struct EngineArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pub budget: BudgetArgs,
    /// Cores to use [default: all]
    #[arg(short, long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Table of functions to use; `rill inspect --kernels` lists those of this CPU
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    kernels: Option<String>,
    /// Which experts give way to others
    #[arg(long, value_enum, default_value = "reuse", hide_short_help = true)]
    policy: PolicyName,
    /// Never read experts on a guess
    #[arg(long, hide_short_help = true)]
    no_lookahead: bool,
    /// Never guess how an answer goes on; guesses change no word of it
    #[arg(long, hide_short_help = true)]
    pub no_draft: bool,
    /// In the end keep, beside the image, which experts are in RAM: the next run reads them first
    #[arg(long, hide_short_help = true)]
    save_pages: bool,
    /// Folder for what runs find out about an image and its device [default: that of the image]
    #[arg(long, value_name = "DIR", env = "RILL_STATE", hide_short_help = true)]
    state: Option<PathBuf>,
}

/// How much RAM, and for what.
#[derive(Debug, Clone, clap::Args)]
pub struct BudgetArgs {
    /// RAM that the whole process may use, for example 900MiB [default: what is free]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub ram: Option<u64>,
    /// Tokens that a conversation may have [default: 4096, or the model's own if less]
    #[arg(short, long, value_name = "TOKENS")]
    pub context: Option<u32>,
    /// Most tokens of a prompt that go through the model together [default: chosen by the budget]
    #[arg(long, value_name = "TOKENS", hide_short_help = true)]
    batch: Option<u32>,
    /// How keys and values of a conversation are kept; logits depend on it
    #[arg(long, value_enum, default_value = "f16")]
    kv: KvName,
}

/// A format of keys and values as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KvName {
    /// In 16 bits a number
    F16,
    /// About half of that (LFM2-8B-A1B: 6.2 KiB a token, not 12.0), for a KL divergence of 9.4e-4
    /// nats (kiosk model)
    Int8,
}

/// A policy as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PolicyName {
    /// The one expected to be wanted last
    Reuse,
    /// The least often used, with a memory of those that left
    Lfu,
    /// The least recently used of the same layer
    LayerLru,
    /// The least recently used
    Lru,
}

/// A budget, divided.
pub struct Budget {
    /// Bytes that the whole process may use.
    pub total: u64,
    /// Bytes of it outside the arena.
    pub overhead: u64,
    /// The arena.
    pub plan: Plan,
    /// Whether the user named it.
    named: bool,
}

/// A loaded model and the machine it runs on.
pub struct Engine {
    /// The image.
    pub image: Image,
    /// How its RAM is divided.
    pub budget: Budget,
    /// The model.
    pub session: Session<'static>,
    /// What it runs on.
    pub machine: Machine,
    /// The chat template that came with the model.
    pub template: Option<ChatTemplate<'static>>,
    /// How long loading took.
    pub load_time: Duration,
    /// How long answers took so far, from the prompt's first token to the last text.
    pub answer_time: Duration,
    /// Tokens of answers that were thinking.
    pub thought: u64,
    /// Experts to read first while there is nothing else to do.
    warm_first: Vec<u32>,
    save_pages: bool,
    /// What the names of kept files begin with; `None` without a file of the image.
    kept: Option<PathBuf>,
}

/// What the engine sees of this machine.
pub struct Machine {
    /// Where the image is.
    pub device: Device,
    /// The cores.
    pub pool: Pool,
    clock: Monotonic,
}

impl Engine {
    /// What tells this image from others.
    pub fn identity(&self) -> u64 {
        checksum(&self.image.header.to_bytes())
    }

    /// Takes over what earlier runs found out about the experts' uses.
    pub fn recall(&mut self) {
        let image = self.identity();
        if let Some(path) = &self.kept {
            usage::recall(&mut self.session, image, path);
            self.warm_first = usage::recall_resident(&self.session, image, path);
        }
    }

    /// Reads on towards slots that are all full; waits for one read at most. `false` when nothing is
    /// left to read.
    pub fn warm(&mut self) -> bool {
        let warmed = self.session.warm(&mut self.machine.world(&mut Silent), &self.warm_first);
        // A page that cannot be had is reported when it is wanted.
        warmed.unwrap_or(false)
    }

    /// Keeps what was found out about the experts' uses for later runs.
    pub fn keep(&self) {
        if let Some(path) = &self.kept {
            usage::save(&self.session, self.identity(), path);
            if self.save_pages {
                usage::save_resident(&self.session, self.identity(), path);
            }
        }
    }
}

impl Machine {
    /// The world, for one call into the engine.
    pub fn world<'w>(&'w mut self, events: &'w mut dyn Events) -> World<'w, 'static> {
        World { storage: self.device.storage(), parallel: &self.pool, clock: &self.clock, events }
    }
}

impl Engine {
    /// Where time and memory went so far.
    pub fn report(&self) -> Report {
        let around = Surroundings {
            threads: self.machine.pool.width(),
            storage: self.machine.device.via(),
            load_time: self.load_time.as_micros() as u64,
            budget: self.budget.used(),
            peak_resident: memory::peak_resident(),
            answer_time: Some(self.answer_time.as_micros() as u64),
            thought: self.thought,
            faults: memory::page_faults(),
        };
        Report::new(&self.session, &self.budget.plan, around)
    }
}

impl BudgetArgs {
    /// Divides the budget for a model.
    pub fn plan(&self, model: &Model) -> Result<Budget, Failure> {
        let free = |error| Failure::System { what: "cannot find out what RAM is free", error };
        let total = match self.ram {
            Some(total) => total,
            None => memory::default_budget().map_err(free)?,
        };
        let overhead = memory::OVERHEAD + model.device.resident();
        let arena = total.saturating_sub(overhead);
        let request = PlanRequest {
            context: self.context,
            batch: self.batch,
            kv: self.kv.format(),
            ..PlanRequest::new(arena)
        };
        match Plan::new(&model.image, &request) {
            Ok(plan) => Ok(Budget { total, overhead, plan, named: self.ram.is_some() }),
            Err(PlanError::BelowLeast { least, .. }) => {
                Err(Failure::Budget { budget: total, least: least + overhead })
            }
            Err(error) => Err(Failure::Plan(error)),
        }
    }
}

impl Budget {
    /// The least budget that works for this context, and the most of any use.
    pub fn bounds(&self, image: &Image) -> [u64; 2] {
        let sizes = self.plan.sizes;
        let least = Plan::least(image, Sizes { batch: 1, ..sizes });
        let most = Plan::most(image, sizes);
        [least, most].map(|arena| arena + self.overhead)
    }

    /// What the process will use of it.
    pub fn used(&self) -> u64 {
        self.plan.total() + self.overhead
    }

    /// What was chosen for the user, in one line.
    fn describe(&self) -> String {
        let Plan { slots, pages, .. } = self.plan;
        let experts = match pages {
            0 => String::new(),
            _ if slots == pages => format!(", all {pages} experts in RAM"),
            _ => format!(", {slots} of {pages} experts in RAM"),
        };
        let (used, free) = (Size(self.used()), Size(self.total));
        format!("using {used} of {free} free RAM{experts}; --ram sets another budget")
    }
}

impl EngineArgs {
    /// The file of the image, if it is one.
    pub fn image(&self) -> Option<&Path> {
        self.model.path()
    }

    /// What the names of files begin with that are kept for the image.
    fn kept(&self) -> Result<Option<PathBuf>, Failure> {
        let Some(image) = self.image() else { return Ok(None) };
        let Some(folder) = &self.state else { return Ok(Some(image.to_owned())) };
        if !folder.is_dir() {
            let error = std::io::ErrorKind::NotADirectory.into();
            return Err(Failure::file(folder)(error));
        }
        Ok(image.file_name().map(|name| folder.join(name)))
    }

    /// The bounds of the budget for a context of `tokens`, unless the user asks for another.
    pub fn bounds(&self, tokens: Option<u32>) -> Result<[u64; 2], Failure> {
        let model = self.model.open()?;
        let mut args = self.budget.clone();
        args.context = args.context.or(tokens);
        Ok(args.plan(&model)?.bounds(&model.image))
    }

    /// Loads the model. `tokens` is the context when the user asks for none; `sampling` and
    /// `seed` go to the session.
    pub fn load(
        &self,
        tokens: Option<u32>,
        sampling: impl FnOnce(Sampling) -> Settings,
        seed: u64,
    ) -> Result<Engine, Failure> {
        let start = Instant::now();
        let kernels = self.choose_kernels()?;
        let kept = self.kept()?;
        let mut model = self.model.open()?;
        let mut args = self.budget.clone();
        args.context = args.context.or(tokens);
        let budget = args.plan(&model)?;
        if !budget.named {
            tell(budget.describe());
        }
        let threads = match self.threads {
            Some(threads) => threads.get(),
            None => available_parallelism().map_or(1, NonZeroUsize::get),
        };
        let template = model.template()?;
        let bytes = budget.plan.total();
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        let arena = Arena::new(len, threads).map_err(|error| Failure::Ram { bytes, error })?;
        note(arena.note.as_deref());
        let arena = prepare(&mut model, &budget.plan, kept.as_deref(), arena.bytes);
        let pool = Pool::new(threads);
        if pool.width() < threads {
            tell(format_args!("note: the system allows {} of {threads} threads", pool.width()));
        }
        let Model { name, device, image } = model;
        let mut machine = Machine { device, pool, clock: Monotonic::start() };
        let options = Options {
            policy: self.policy.policy(),
            lookahead: !self.no_lookahead,
            draft: !self.no_draft,
            sampling: Some(sampling(image.manifest.sampling)),
            seed,
            ..Options::new(kernels)
        };
        let loaded =
            Session::load(&image, &budget.plan, options, arena, &mut machine.world(&mut Silent));
        let session = loaded.map_err(|error| Failure::Load { model: name, error })?;
        Ok(Engine {
            image,
            budget,
            session,
            machine,
            template,
            load_time: start.elapsed(),
            answer_time: Duration::ZERO,
            thought: 0,
            warm_first: Vec::new(),
            save_pages: self.save_pages,
            kept,
        })
    }

    fn choose_kernels(&self) -> Result<&'static Kernels, Failure> {
        let features = cpu::features();
        let Some(name) = &self.kernels else { return Ok(kernels::best(features)) };
        kernels::by_name(name, features).ok_or_else(|| {
            let names: Vec<_> = kernels::all(features).map(|table| table.name).collect();
            let names = names.join(", ");
            Failure::Usage(format!("this CPU has no kernels `{name}`; it has {names}"))
        })
    }
}

impl KvName {
    const fn format(self) -> KvFormat {
        match self {
            Self::F16 => KvFormat::F16,
            Self::Int8 => KvFormat::Int8,
        }
    }
}

impl PolicyName {
    fn policy(self) -> &'static dyn Policy {
        match self {
            Self::Reuse => &Reuse,
            Self::Lfu => &DecayedLfu,
            Self::LayerLru => &LayerLru,
            Self::Lru => &Lru,
        }
    }
}

/// Makes the device ready to read pages into `arena`.
fn prepare(
    model: &mut Model,
    plan: &Plan,
    kept: Option<&Path>,
    mut arena: &'static mut [u8],
) -> &'static mut [u8] {
    let (Device::File(disk), Some(kept)) = (&mut model.device, kept) else { return arena };
    note(disk.note());
    let pages = model.image.header.span(Section::Pages);
    // Refused where the limit of locked memory is low: reads then cost a little more.
    disk.queue().register(arena);
    // A model that stays in RAM whole is read once: nothing depends on how.
    if plan.slots < plan.pages {
        let identity = checksum(&model.image.header.to_bytes());
        let file = storage::probe_file(kept);
        arena = storage::tune(disk, identity, (pages.offset, pages.len), &file, arena);
    }
    arena
}

fn note(text: Option<&str>) {
    if let Some(text) = text {
        tell(format_args!("note: {text}"));
    }
}
