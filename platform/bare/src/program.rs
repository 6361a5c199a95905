//! The program: finds the model, loads it, and holds conversations.

use core::convert::Infallible;
use core::fmt::{self, Write};

use rill::engine::{LoadError, Options};
use rill::image::{Image, ImageError, PAGE_ALIGN, Template};
use rill::kernels::{self, Kernels};
use rill::plan::{Plan, PlanError, PlanRequest};
use rill::seams::{Clock, Micros, Parallel, World};
use rill::sequence::SequenceError;
use rill::session::Session;
use rill::size::Size;
use rill_bare::config::{CONFIG_BYTES, Config, ConfigError};
use rill_bare::disk::{self, CONFIG_NAME, DiskError};
use rill_bare::storage::Queue;
use rill_bare::talks::Talks;

use crate::block::{self, NoDevice};
use crate::chat::Chat;
use crate::console::Console;
use crate::cores;
use crate::cpu::{self, CLOCK};
use crate::log::Log;
use crate::pmu::Meter;
use crate::power::{self, WATCHDOG};
use crate::{board, boot};

/// How long an error that ends the program is shown.
const SHOW: Micros = 10_000_000;

/// Why there is no conversation. Each message says what to do.
#[derive(Debug)]
pub enum Failure {
    /// No block device answers.
    NoDisk,
    /// The card is not one of ours.
    Disk(DiskError),
    /// The configuration is wrong.
    Config(ConfigError),
    /// The CPU has no such kernel table.
    Kernels,
    /// The image cannot be used.
    Image(ImageError),
    /// The budget is too small.
    Budget {
        /// Bytes for the whole program.
        budget: u64,
        /// The least that works.
        least: u64,
    },
    /// There is no plan for another reason.
    Plan(PlanError),
    /// The model cannot be loaded.
    Load(LoadError),
    /// The instruction of the configuration cannot be used.
    System(SequenceError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDisk => write!(f, "no card answers; insert one that holds a model"),
            Self::Disk(error) => error.fmt(f),
            Self::Config(error) => write!(f, "{CONFIG_NAME}, {error}"),
            Self::Kernels => {
                write!(f, "{CONFIG_NAME}: this CPU has no such kernels; it has")?;
                kernels::all(cpu::features()).try_for_each(|table| write!(f, " {}", table.name))
            }
            Self::Image(error) => error.fmt(f),
            Self::Budget { budget, least } => write!(
                f,
                "budget {} is below the least that works, {}; raise `ram` or lower `context` or \
                 `conversations` in {CONFIG_NAME}",
                Size(*budget),
                Size(*least)
            ),
            Self::Plan(error) => error.fmt(f),
            Self::Load(error) => error.fmt(f),
            Self::System(error) => write!(f, "{CONFIG_NAME}, system: {error}"),
        }
    }
}

/// The program. What cannot be helped at the console is shown for a while, then the board
/// restarts: another card may be in it by then.
pub fn run(console: &mut Console) -> ! {
    let _ = writeln!(console, "\nRill {} on {}", env!("CARGO_PKG_VERSION"), board::TITLE);
    let Err(failure) = converse(console);
    let _ = writeln!(console, "error: {failure}");
    let _ = writeln!(console, "The board restarts in 10 s; Enter restarts it now.");
    let start = CLOCK.now();
    while CLOCK.now() - start < SHOW {
        WATCHDOG.kick();
        if let Some(b'\r' | b'\n') = console.wait(1_000_000) {
            break;
        }
    }
    console.drain();
    power::restart()
}

/// All RAM after the program, for the arena.
///
/// # Safety
/// To be called once.
unsafe fn memory() -> &'static mut [u8] {
    let start = boot::image_end();
    let len = crate::ram_end().saturating_sub(start);
    // SAFETY: the board's file says that this is RAM, mapped as such; the program lies before it,
    // and the caller asks once.
    unsafe { core::slice::from_raw_parts_mut(start as *mut u8, len) }
}

fn converse(console: &mut Console) -> Result<Infallible, Failure> {
    let begin = CLOCK.now();
    let device = block::open().map_err(|NoDevice| Failure::NoDisk)?;
    let mut disk = Queue::new(device, &CLOCK, || WATCHDOG.kick());
    let partition = disk::image_partition(&mut disk).map_err(Failure::Disk)?;
    let mut text = [0; CONFIG_BYTES];
    let text = disk::read_config(&mut disk, &mut text).map_err(Failure::Disk)?;
    let mut config = Config::parse(text).map_err(Failure::Config)?;
    let kernels = choose_kernels(config.kernels)?;
    disk.narrow(partition.start, partition.len);

    // SAFETY: nobody else calls it, and this function runs once.
    let memory = unsafe { memory() };
    let image = Image::open(&mut disk, &mut memory[..PAGE_ALIGN]).map_err(Failure::Image)?;
    let overhead = boot::image_bytes() as u64;
    let budget = config.ram.unwrap_or(board::BUDGET).min(memory.len() as u64 + overhead);
    let request = PlanRequest {
        arena: budget.saturating_sub(overhead),
        context: config.context,
        batch: config.batch,
        kv: config.kv.unwrap_or_default(),
        conversations: config.conversations.unwrap_or(1),
        kv_tokens: config.kv_tokens,
        prefixes: config.prefixes,
    };
    let plan = Plan::new(&image, &request).map_err(|error| match error {
        PlanError::BelowLeast { least, .. } => Failure::Budget { budget, least: least + overhead },
        error => Failure::Plan(error),
    })?;
    let cores = cores::start(config.threads.unwrap_or(board::CORES), &WATCHDOG);
    let mut options = Options::new(kernels);
    options.policy = config.policy.unwrap_or(options.policy);
    options.lookahead = !config.no_lookahead;
    options.draft = !config.no_draft;
    options.sampling = Some(config.settings(image.manifest.sampling));
    options.seed = config.seed;
    let arena = &mut memory[..plan.total() as usize];
    disk.confine(arena);
    let mut world = World { storage: &mut disk, parallel: &cores, clock: &CLOCK, events: &mut Log };
    let mut session =
        Session::load(&image, &plan, options, arena, &mut world).map_err(Failure::Load)?;
    let load_time = CLOCK.now() - begin;
    let used = plan.total() + overhead;
    let _ = writeln!(
        console,
        "{}: {} of RAM, {} of {} experts in it, {} cores, {}, loaded in {}.{:02} s",
        image.manifest.name,
        Size(used),
        plan.slots,
        plan.pages,
        cores.width(),
        kernels.name,
        load_time / 1_000_000,
        load_time / 10_000 % 100,
    );
    match session.chat().template {
        Template::Same | Template::SameButThinking => {}
        Template::Differs => console.print(
            "note: this model was trained with another chat format; its answers may be poor\n",
        ),
        Template::Missing => console.print(
            "note: this model does not say what chat format it was trained with; it may not chat\n",
        ),
    }
    defmt::info!(
        "loaded in {} us: {=str} kernels, {} cores, {} of {} pages in RAM",
        load_time,
        kernels.name,
        cores.width(),
        plan.slots,
        plan.pages
    );
    let thinking = session.chat().thinking.clone();
    config.answer.expect_thinking(thinking, config.most_thinking);
    let talks = Talks::new(session.conversations());
    let mut chat = Chat {
        console,
        config: &mut config,
        session: &mut session,
        talks,
        plan: &plan,
        cores: &cores,
        disk: &mut disk,
        load_time,
        used,
        overhead: &[("program", overhead)],
        meter: Meter::start(),
    };
    chat.hold().map_err(Failure::System)
}

fn choose_kernels(name: Option<&str>) -> Result<&'static Kernels, Failure> {
    let features = cpu::features();
    match name {
        None => Ok(kernels::best(features)),
        Some(name) => kernels::by_name(name, features).ok_or(Failure::Kernels),
    }
}
