//! A session on a RAM disk, with every choice that must not change an answer.

use rill::engine::{Engine, LoadError, Options};
use rill::experts::{POLICIES, Policy};
use rill::image::{ChatTemplate, Image, ImageError, PAGE_ALIGN, Section};
use rill::kernels::{CpuFeatures, Kernels, best};
use rill::plan::KvFormat;
use rill::plan::{Plan, PlanRequest, Sizes};
use rill::sampler::Settings;
use rill::seams::{ManualClock, Parallel, RamDisk, Recorder, Serial, World};
use rill::sequence::{Sequence, SequenceError};
use rill::session::Session;
use rill_linux::pool::Pool;

/// Events that a rig remembers.
pub const EVENTS: usize = 1 << 16;

/// How to run.
#[derive(Clone, Copy)]
pub struct Setting {
    /// Experts in RAM; `None` for all.
    pub slots: Option<u32>,
    /// Positions.
    pub context: u32,
    /// Most tokens of a batch.
    pub batch: u32,
    /// How keys and values are kept.
    pub kv: KvFormat,
    /// Sequences side by side.
    pub conversations: u32,
    /// Tokens whose keys and values there is room for; `None` for all that there can be.
    pub kv_tokens: Option<u32>,
    /// Beginnings that are kept for others.
    pub prefixes: u32,
    /// Cores.
    pub threads: usize,
    /// The table.
    pub kernels: &'static Kernels,
    /// In which order reads finish, and what is chosen.
    pub seed: u64,
    /// What the disk asks of reads.
    pub alignment: u32,
    /// Most reads under way.
    pub depth: usize,
    /// How seldom a read seems to be ready.
    pub patience: u32,
    /// Chooses which pages give way.
    pub policy: &'static dyn Policy,
    /// Whether pages are read on a guess.
    pub lookahead: bool,
    /// Whether answers are guessed on.
    pub draft: bool,
    /// How tokens are chosen; `None` as the image advises.
    pub sampling: Option<Settings>,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            slots: None,
            context: 512,
            batch: 64,
            kv: KvFormat::F16,
            conversations: 1,
            kv_tokens: None,
            prefixes: 0,
            threads: 1,
            kernels: best(CpuFeatures::detect()),
            seed: 0,
            alignment: 4096,
            depth: 16,
            patience: 2,
            policy: POLICIES[0],
            lookahead: true,
            draft: true,
            sampling: None,
        }
    }
}

/// A session, or an engine with its sequences, and its world.
pub struct Rig<S = Session<'static>> {
    /// The session.
    pub session: S,
    /// How its memory is divided.
    pub plan: Plan,
    /// The disk.
    pub disk: RamDisk<'static, 'static>,
    /// What the engine said.
    pub events: Box<Recorder<EVENTS>>,
    pub(crate) parallel: Box<dyn Parallel>,
    pub(crate) clock: ManualClock,
}

/// A block of an arena, aligned as the engine asks.
#[derive(Clone, Copy)]
#[repr(C, align(16384))]
struct Block([u8; PAGE_ALIGN]);

// SAFETY: a Block is bytes without padding.
unsafe impl bytemuck::Zeroable for Block {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Block {}

/// An arena of at least `bytes` bytes, never given back.
pub fn arena(bytes: u64) -> &'static mut [u8] {
    let blocks = (bytes as usize).div_ceil(PAGE_ALIGN);
    bytemuck::cast_slice_mut(bytemuck::allocation::zeroed_vec::<Block>(blocks).leak())
}

/// Opens an image in RAM.
pub fn open(image: &'static [u8]) -> Result<Image, ImageError> {
    let mut scratch = vec![0; PAGE_ALIGN];
    Image::open(&mut RamDisk::new(image, 0), &mut scratch)
}

/// The chat template of an image in RAM.
pub fn template(image: &'static [u8]) -> Option<ChatTemplate<'static>> {
    let span = open(image).ok()?.header.span(Section::Template);
    ChatTemplate::parse(image.get(span.offset as usize..)?.get(..span.len as usize)?)
}

impl Rig {
    /// Loads `image`.
    pub fn new(image: &'static [u8], setting: Setting) -> Result<Self, LoadError> {
        Self::load(image, setting, Session::load)
    }

    /// Logits (tokens, vocab) after each of `ids`, as one prompt in a new sequence.
    pub fn logits(&mut self, ids: &[u32]) -> Result<Vec<Vec<f32>>, SequenceError> {
        self.session.reset();
        self.session.append(ids)?;
        let mut all = Vec::new();
        self.with(|session, world| {
            session.each_logits(world, |logits| {
                all.push(logits.to_vec());
                Ok::<_, SequenceError>(())
            })
        })?;
        Ok(all)
    }

    /// The best token each time after `ids`, at most `count`, up to a token that ends the answer.
    pub fn greedy(&mut self, ids: &[u32], count: usize) -> Result<Vec<u32>, SequenceError> {
        self.session.reset();
        self.session.append(ids)?;
        let mut answer = Vec::new();
        while answer.len() < count {
            self.with(|session, world| {
                while session.compute(world)? {}
                Ok::<_, SequenceError>(())
            })?;
            let logits = self.session.logits();
            let best =
                (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a)));
            let best = best.expect("there is a vocabulary") as u32;
            answer.push(best);
            if self.session.chat().stops.contains(&best) {
                break;
            }
            self.session.append(&[best])?;
        }
        Ok(answer)
    }
}

/// An engine and as many sequences as a setting has.
pub type Many = (Engine<'static>, &'static mut [Sequence<'static>]);

impl Rig<Many> {
    /// Loads `image`.
    pub fn many(image: &'static [u8], setting: Setting) -> Result<Self, LoadError> {
        Self::load(image, setting, Engine::load)
    }
}

/// How something is loaded.
type Load<S> =
    fn(&Image, &Plan, Options, &'static mut [u8], &mut World<'_, 'static>) -> Result<S, LoadError>;

impl<S> Rig<S> {
    fn load(image: &'static [u8], setting: Setting, load: Load<S>) -> Result<Self, LoadError> {
        let opened = open(image)?;
        let Setting { context, kv, conversations, kv_tokens, .. } = setting;
        let batch = setting.batch.min(context);
        let Setting { prefixes, .. } = setting;
        let sizes = Sizes { context, batch, kv, conversations, kv_tokens, prefixes };
        let arena_bytes = match setting.slots {
            None => Plan::most(&opened, sizes),
            Some(slots) => Plan::with_slots(&opened, sizes, slots),
        };
        let (context, batch) = (Some(context), Some(batch));
        let prefixes = Some(prefixes);
        let arena = arena_bytes;
        let request = PlanRequest { arena, context, batch, kv, conversations, kv_tokens, prefixes };
        let plan = Plan::new(&opened, &request).expect("the arena was sized for it");
        let mut disk = RamDisk::new(image, setting.seed);
        disk.set_alignment(setting.alignment);
        disk.set_schedule(setting.depth, setting.patience);
        let parallel: Box<dyn Parallel> = match setting.threads {
            1 => Box::new(Serial),
            n => Box::new(Pool::new(n)),
        };
        let clock = ManualClock::new(1);
        let mut events = Box::new(Recorder::default());
        let mut world =
            World { storage: &mut disk, parallel: &*parallel, clock: &clock, events: &mut *events };
        let mut options = Options::new(setting.kernels);
        options.policy = setting.policy;
        options.lookahead = setting.lookahead;
        options.draft = setting.draft;
        options.sampling = setting.sampling;
        options.seed = setting.seed;
        let session = load(&opened, &plan, options, self::arena(plan.total()), &mut world)?;
        Ok(Self { session, plan, disk, events, parallel, clock })
    }

    /// Calls `body` with the session and its world.
    pub fn with<R>(&mut self, body: impl FnOnce(&mut S, &mut World<'_, 'static>) -> R) -> R {
        let mut world = World {
            storage: &mut self.disk,
            parallel: &*self.parallel,
            clock: &self.clock,
            events: &mut *self.events,
        };
        body(&mut self.session, &mut world)
    }
}
