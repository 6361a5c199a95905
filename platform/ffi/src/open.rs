//! From an image to an open model, and what can be known of it.

use core::ffi::c_char;

use rill::engine;
use rill::image::{Image, MAX_STOPS, PAGE_ALIGN};
use rill::kernels::best;
use rill::plan::{Plan, PlanError, Sizes, Use};
use rill::seams::{Silent, World};
use rill::session::Session;
use rill::stats::Phase;

use crate::border::{Out, call, elements_mut, structure};
use crate::device::Device;
use crate::machine::{Time, Workers, features};
use crate::model::{self, Inner, Model, Places, beside};
use crate::options::{Flag, Options, RILL_ABI, Reader};
use crate::status::{ERROR_BYTES, Failed, Failure, Status, Why};

/// Parts of an arena, see rill_plan.
pub const RILL_PARTS: usize = 10;
/// Stands for a token that a model does not have.
pub const RILL_NO_TOKEN: u32 = u32::MAX;
/// Most tokens that end an answer.
pub const RILL_MOST_STOPS: usize = 8;

const _: () = assert!(RILL_PARTS == Use::ALL.len() + 1 && RILL_MOST_STOPS == MAX_STOPS);

/// How an arena is divided.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Bytes of the least arena that works.
    pub least: u64,
    /// Bytes of the arena beyond which nothing is gained.
    pub most: u64,
    /// Bytes that are used of the arena; 0 when it is too small, as are all that follow.
    pub used: u64,
    /// Of them, by rill_part_name.
    pub parts: [u64; RILL_PARTS],
    /// Bytes of an expert.
    pub page_bytes: u64,
    /// Experts of the model.
    pub pages: u32,
    /// Experts that fit.
    pub slots: u32,
    /// Experts that one token needs.
    pub cycle: u32,
    /// Most tokens of a conversation.
    pub context: u32,
    /// Most tokens that go through the model together.
    pub batch: u32,
    /// Most conversations at a time.
    pub conversations: u32,
    /// Beginnings of conversations that are kept for others.
    pub beginnings: u32,
    /// Tokens whose keys and values there is room for, of all conversations together.
    pub kv_tokens: u32,
}

/// What is known of a model.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Info {
    /// What tells its image from others.
    pub identity: u64,
    /// Logits of a token, and bound of all tokens.
    pub vocab: u32,
    /// Tokens that have a text; those from here to `vocab` have none.
    pub pieces: u32,
    /// Tokens that the model was made for.
    pub max_context: u32,
    /// Most tokens of a conversation, as was planned.
    pub context: u32,
    /// Most conversations at a time, as was planned.
    pub conversations: u32,
    /// Most tokens that go through the model together, as was planned.
    pub batch: u32,
    /// Threads or cores that compute.
    pub threads: u32,
    /// The token that begins every conversation, or RILL_NO_TOKEN.
    pub begin: u32,
    /// Tokens that end an answer.
    pub stops: [u32; RILL_MOST_STOPS],
    /// How many of them there are.
    pub stop_count: u32,
    /// 1 when the model chats, 0 when it only continues text.
    pub chats: u32,
    /// What the model is called. Holds until it is closed.
    pub name: *const c_char,
    /// Name of the kernels in use. Holds until the model is closed.
    pub kernels: *const c_char,
}

/// Where time went so far.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// Tokens of prompts that were computed.
    pub prompt_tokens: u64,
    /// Microseconds for them.
    pub prompt_time: u64,
    /// Tokens of answers.
    pub answer_tokens: u64,
    /// Microseconds for them.
    pub answer_time: u64,
    /// Microseconds of both that were spent waiting for the image.
    pub waiting: u64,
    /// Tokens of prompts that were not computed, because a known beginning has them.
    pub reused: u64,
    /// Tokens that were given up for other conversations' memory, and are computed again.
    pub parked_tokens: u64,
    /// Tokens that were guessed.
    pub drafted: u64,
    /// Of them, those that came true.
    pub accepted: u64,
    /// Experts that were wanted and in RAM.
    pub hits: u64,
    /// Experts that were wanted and not yet in RAM.
    pub misses: u64,
    /// Experts that left RAM.
    pub evictions: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Reads that were tried again.
    pub retries: u64,
}

/// RILL_ABI of the library.
#[unsafe(no_mangle)]
pub extern "C" fn rill_abi() -> u32 {
    RILL_ABI
}

/// Name of a part of an arena, from 0 to RILL_PARTS - 1; null for another number.
#[unsafe(no_mangle)]
pub extern "C" fn rill_part_name(part: usize) -> *const c_char {
    const NAMES: [&core::ffi::CStr; RILL_PARTS] = [
        c"resident weights",
        c"tokenizer",
        c"page checksums",
        c"index",
        c"keys and values",
        c"conversations",
        c"known beginnings",
        c"scratch",
        c"expert slots",
        c"the model itself",
    ];
    NAMES.get(part).map_or(core::ptr::null(), |name| name.as_ptr())
}

/// Divides an arena of `arena` bytes for the image that begins at byte `offset`, a multiple of 16 KiB, of
/// a file. With 0 bytes, only `least` and `most` are wanted. Where the arena is too small these two are
/// written all the same. `error` may be null.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_plan_file(
    path: *const c_char,
    offset: u64,
    options: *const Options,
    arena: u64,
    plan: *mut Planned,
    error: *mut Failed,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe { call(error, || divide(options, arena, plan, || Device::file(path, offset))) }
}

/// As rill_plan_file, of an image in the address space.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_plan_memory(
    image: *const u8,
    len: usize,
    options: *const Options,
    arena: u64,
    plan: *mut Planned,
    error: *mut Failed,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe { call(error, || divide(options, arena, plan, || Device::memory(image, len))) }
}

/// As rill_plan_file, of an image that the caller reads.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_plan_reader(
    reader: *const Reader,
    options: *const Options,
    arena: u64,
    plan: *mut Planned,
    error: *mut Failed,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe { call(error, || divide(options, arena, plan, || Device::reader(reader))) }
}

/// Opens the image that begins at byte `offset`, a multiple of 16 KiB, of a file, in an arena of
/// `arena_len` bytes at any address. rill_close ends it. `error` may be null.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_open_file(
    path: *const c_char,
    offset: u64,
    options: *const Options,
    arena: *mut u8,
    arena_len: usize,
    model: *mut *mut Model,
    error: *mut Failed,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        call(error, || open(options, (arena, arena_len), model, || Device::file(path, offset)))
    }
}

/// As rill_open_file, of an image in the address space, which must stay there until the model is closed.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_open_memory(
    image: *const u8,
    len: usize,
    options: *const Options,
    arena: *mut u8,
    arena_len: usize,
    model: *mut *mut Model,
    error: *mut Failed,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        call(error, || open(options, (arena, arena_len), model, || Device::memory(image, len)))
    }
}

/// As rill_open_file, of an image that the caller reads. The structure is copied.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_open_reader(
    reader: *const Reader,
    options: *const Options,
    arena: *mut u8,
    arena_len: usize,
    model: *mut *mut Model,
    error: *mut Failed,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe { call(error, || open(options, (arena, arena_len), model, || Device::reader(reader))) }
}

/// Closes a model. When this returns anything but RILL_STATUS_BUSY the arena is the caller's again.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_close(model: *mut Model) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe { model::close(model) }
}

/// Ends what the model computes in another thread, within part of a layer, or is going to compute next:
/// that call returns RILL_STATUS_STOPPED. May be called at any time before rill_close.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_stop(model: *const Model) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe { model::stop(model) }
}

/// What was wrong when a call with the model failed last. Never null.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_error_text(model: *const Model) -> *const c_char {
    // SAFETY: the caller's promises are the same.
    unsafe { model::error_text(model) }.unwrap_or_else(|status| status.text().as_ptr())
}

/// What is known of a model.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_get_info(model: *const Model, info: *mut Info) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        model::with(model, |call| {
            let out = Out::new(info)?;
            let inner = &*call.inner;
            let (manifest, sizes) = (&inner.image.manifest, inner.plan.sizes);
            let mut stops = [RILL_NO_TOKEN; RILL_MOST_STOPS];
            stops.iter_mut().zip(&manifest.chat.stops).for_each(|(to, id)| *to = *id);
            out.set(Info {
                identity: inner.image.header.identity(),
                vocab: manifest.shape.vocab,
                pieces: inner.session.tokenizer().len() as u32,
                max_context: manifest.shape.max_context,
                context: sizes.context,
                conversations: sizes.conversations,
                batch: sizes.batch,
                threads: inner.workers.parallel().width() as u32,
                begin: manifest.chat.begin.unwrap_or(RILL_NO_TOKEN),
                stops,
                stop_count: manifest.chat.stops.len() as u32,
                chats: u32::from(manifest.chat.open.is_some() && manifest.chat.close.is_some()),
                name: inner.name.as_ptr(),
                kernels: inner.kernels.as_ptr(),
            });
            Ok(())
        })
    }
}

/// Where time went so far.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_get_stats(model: *const Model, stats: *mut Statistics) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        model::with(model, |call| {
            let out = Out::new(stats)?;
            let all = call.inner.session.stats();
            let Phase { cache, .. } = all.prompt.plus(all.decode);
            out.set(Statistics {
                prompt_tokens: all.prompt.tokens,
                prompt_time: all.prompt.time,
                answer_tokens: all.decode.tokens,
                answer_time: all.decode.time,
                waiting: cache.waiting,
                reused: all.reused,
                parked_tokens: all.parked_tokens,
                drafted: all.drafted,
                accepted: all.accepted,
                hits: cache.hits + cache.guessed,
                misses: cache.misses + cache.late,
                evictions: cache.evictions,
                bytes_read: cache.bytes,
                retries: cache.retries,
            });
            Ok(())
        })
    }
}

/// For the first look at an image, aligned as every device wants it.
#[repr(align(4096))]
struct Scratch([u8; PAGE_ALIGN]);

/// Header and manifest of an image.
#[inline(never)]
fn look(device: &mut Device) -> Result<Image, Failure> {
    Ok(Image::open(device.storage(), &mut Scratch([0; PAGE_ALIGN]).0)?)
}

/// The plan for an arena of so many bytes, with what is not the engine's.
fn plan(image: &Image, options: &Options, arena: u64) -> Result<Plan, Failure> {
    let beside = beside(options.conversations.clamp(1, Plan::MOST_CONVERSATIONS));
    let request = options.request(arena.saturating_sub(beside))?;
    Plan::new(image, &request).map_err(|error| match error {
        PlanError::BelowLeast { least, .. } => {
            let least = least + beside;
            Failure::new(Status::Arena, Why::Least { arena, least })
        }
        other => other.into(),
    })
}

/// # Safety
/// As for [`structure`] and [`Out::new`].
unsafe fn divide(
    options: *const Options,
    arena: u64,
    out: *mut Planned,
    device: impl FnOnce() -> Result<Device, Failure>,
) -> Result<(), Failure> {
    // SAFETY: the caller's promises are the same.
    let (options, out) = unsafe { (structure(options)?, Out::new(out)?) };
    // Whatever is wrong with them is said first.
    let request = options.request(0)?;
    let image = look(&mut device()?)?;
    let beside = beside(options.conversations.clamp(1, Plan::MOST_CONVERSATIONS));
    // Far more than any model takes.
    let all = plan(&image, options, 1 << 60)?;
    // What nobody asked for is as little as can be.
    let batch = request.batch.unwrap_or(1).min(all.sizes.context);
    let sizes = Sizes { batch, prefixes: request.prefixes.unwrap_or(0), ..all.sizes };
    let mut planned = Planned {
        least: Plan::least(&image, sizes) + beside,
        most: all.total() + beside,
        used: 0,
        parts: [0; RILL_PARTS],
        page_bytes: 0,
        pages: 0,
        slots: 0,
        cycle: 0,
        context: 0,
        batch: 0,
        conversations: 0,
        beginnings: 0,
        kv_tokens: 0,
    };
    out.set(planned);
    if arena == 0 {
        return Ok(());
    }
    let plan = plan(&image, options, arena)?;
    planned.used = plan.total() + beside;
    for part in Use::ALL {
        planned.parts[part as usize] = plan.bytes(part);
    }
    planned.parts[Use::ALL.len()] = beside;
    planned.page_bytes = plan.page_len;
    (planned.pages, planned.slots, planned.cycle) = (plan.pages, plan.slots, plan.cycle);
    (planned.context, planned.batch) = (plan.sizes.context, plan.sizes.batch);
    planned.conversations = plan.sizes.conversations;
    planned.beginnings = plan.sizes.prefixes;
    planned.kv_tokens = u32::try_from(plan.sizes.kv_positions()).unwrap_or(u32::MAX);
    out.set(planned);
    Ok(())
}

/// # Safety
/// As for [`structure`], [`Out::new`] and [`elements_mut`], until the model is closed.
unsafe fn open(
    options: *const Options,
    arena: (*mut u8, usize),
    out: *mut *mut Model,
    device: impl FnOnce() -> Result<Device, Failure>,
) -> Result<(), Failure> {
    // SAFETY: the caller's promises are the same.
    let (options, out) = unsafe { (structure(options)?, Out::new(out)?) };
    options.request(0)?;
    let mut device = device()?;
    let image = look(&mut device)?;
    let plan = plan(&image, options, arena.1 as u64)?;
    // SAFETY: the caller's promises are the same.
    let bytes = unsafe { elements_mut::<'static, u8>(arena.0, arena.1)? };
    let engine = usize::try_from(plan.total()).map_err(|_| Status::Arena)?;
    let Places { model, lives, engine } = Places::cut(bytes, plan.sizes.conversations, engine)?;
    device.confine(engine);
    // SAFETY: the caller's promises are the same.
    let workers = unsafe { Workers::new(options)? };
    let time = Time::new(options);
    let mut settings = engine::Options::new(best(features()));
    settings.lookahead = !options.has(Flag::NoLookahead);
    settings.draft = !options.has(Flag::NoDraft);
    settings.seed = options.seed;
    #[cfg(feature = "std")]
    let template = crate::template::section(&image, device.storage())?;
    let events = &mut Silent;
    let (parallel, clock) = (workers.parallel(), &time);
    let mut world = World { storage: device.storage(), parallel, clock, events };
    let session = Session::load(&image, &plan, settings, engine, &mut world)?;
    #[cfg(feature = "std")]
    let template = crate::template::Template::of(&session, template)?;
    let (name, kernels) = (c_text(&image.manifest.name), c_text(session.kernels().name));
    let inner = Inner {
        session,
        device,
        workers,
        time,
        image,
        plan,
        seed: options.seed,
        lives,
        error: [0; ERROR_BYTES],
        name,
        kernels,
        #[cfg(feature = "std")]
        template,
    };
    // SAFETY: the place was cut for it.
    unsafe { Model::begin(model, inner) };
    out.set(model);
    Ok(())
}

/// As much of a text as there is room for, with a 0 at the end.
fn c_text<const N: usize>(text: &str) -> [c_char; N] {
    let mut bytes = [0; N];
    let end = text.floor_char_boundary((N - 1).min(text.len()));
    bytes.iter_mut().zip(text[..end].bytes()).for_each(|(to, byte)| *to = byte as c_char);
    bytes
}
