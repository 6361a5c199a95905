//! What a caller says of how a model is to be opened.

use core::ffi::c_void;

use rill::image::Sampling;
use rill::plan::{KvFormat, PlanRequest};
use rill::sampler::Settings;

use crate::status::{Failure, Status, Why};

/// Version of everything in this header.
pub const RILL_ABI: u32 = 1;

/// How keys and values are kept.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kv {
    /// 16-bit floats.
    F16 = 0,
    /// 8-bit integers: about half the RAM. It changes logits a little.
    Int8 = 1,
}

/// Flags of rill_options, to be joined with `|`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// Experts are not read on a guess.
    NoLookahead = 1,
    /// Answers are not guessed on. It changes no word of them.
    NoDraft = 2,
    /// What conversations begin with is not kept for others that begin alike.
    NoBeginnings = 4,
}

/// How a model is opened.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// RILL_ABI.
    pub abi: u32,
    /// Flags: rill_flag.
    pub flags: u32,
    /// Most tokens of a conversation; 0 for 4096, or as many as the model was made for if less.
    pub context: u32,
    /// Most tokens that go through the model together; 0 to choose by the arena.
    pub batch: u32,
    /// Most conversations at a time; 0 for one.
    pub conversations: u32,
    /// Beginnings of conversations that are kept for others; 0 to choose by the arena.
    pub beginnings: u32,
    /// How keys and values are kept: rill_kv.
    pub kv: u32,
    /// Tokens whose keys and values there is room for, of all conversations together and at least `context`;
    /// 0 for as many as all of them can have.
    pub kv_tokens: u32,
    /// Threads that compute, that of the caller among them; 0 for as many as there are cores.
    /// Without an operating system: see `cores`.
    pub threads: u32,
    /// Seed of every conversation's choices.
    pub seed: u64,
    /// Cores of the caller's, in the place of threads; null for none. The structure is copied.
    pub cores: *const Cores,
    /// A clock in microseconds that never goes back, for statistics and for how long guesses are;
    /// null for the system's, or none where there is no system. No answer depends on it.
    pub now: Option<extern "C" fn(context: *mut c_void) -> u64>,
    /// What `now` is given.
    pub now_context: *mut c_void,
}

/// One part of some work: call it with the `work` that `run` of rill_cores was given.
pub type Part = extern "C" fn(work: *mut c_void, index: usize);

/// Cores of the caller's: for boards without an operating system, and programs with threads of their
/// own.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Cores {
    /// How many they are, at least 1.
    pub width: usize,
    /// Calls part(work, index) once for every index from 0 to parts - 1, on any core and in any order,
    /// and returns when all calls have returned. Parts need 12 KiB of stack.
    pub run:
        Option<extern "C" fn(context: *mut c_void, parts: usize, part: Part, work: *mut c_void)>,
    /// What `run` is given.
    pub context: *mut c_void,
}

/// What a function of the caller's that reads returns.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadResult {
    /// All bytes were read.
    Whole = 0,
    /// The same read may succeed soon: it is tried again a few times.
    Again = 1,
}

/// An image that the caller reads.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Reader {
    /// RILL_ABI.
    pub abi: u32,
    /// Offsets, lengths and addresses of reads are multiples of this, a power of two up to 4096; 0 for
    /// any.
    pub alignment: u32,
    /// Bytes of the image.
    pub len: u64,
    /// Reads `len` bytes at `offset` to `into`: rill_read, or another number for a device that cannot
    /// read. It is called only within calls with the model.
    pub read: Option<
        extern "C" fn(context: *mut c_void, offset: u64, into: *mut c_void, len: usize) -> i32,
    >,
    /// What `read` is given.
    pub context: *mut c_void,
}

/// How tokens are chosen. rill_get_sampling fills it in.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingSettings {
    /// RILL_ABI.
    pub abi: u32,
    /// Keeps this many of the best; 0 keeps all.
    pub top_k: u32,
    /// Divides the logits; 0 takes the best token always.
    pub temperature: f32,
    /// Keeps the best until their probabilities sum to this; 1 keeps all.
    pub top_p: f32,
    /// Keeps what is at least this fraction as probable as the best; 0 keeps all.
    pub min_p: f32,
    /// Divides the logits of tokens seen before; 1 is none.
    pub repetition_penalty: f32,
    /// Taken from the logit of every token that the answer has, -2 to 2; 0 is none.
    pub presence_penalty: f32,
    /// Taken from the logit of a token for each time that the answer has it, -2 to 2; 0 is none.
    pub frequency_penalty: f32,
    /// Keeps what is at most so many standard deviations of the logits below the best; 0 keeps all.
    pub top_n_sigma: f32,
    /// Chooses no token that ends the answer before it has so many.
    pub min_tokens: u32,
    /// 1 never chooses a token that ends the answer.
    pub ignore_end: u32,
}

/// Whether the caller was compiled with this header.
pub fn check_abi(abi: u32) -> Result<(), Failure> {
    if abi == RILL_ABI { Ok(()) } else { Err(Status::Abi.into()) }
}

/// A number for which 0 stands for a choice of ours.
fn chosen(number: u32) -> Option<u32> {
    Some(number).filter(|&number| number > 0)
}

impl Options {
    /// All chosen by the library.
    pub const fn new() -> Self {
        Self {
            abi: RILL_ABI,
            flags: 0,
            context: 0,
            batch: 0,
            conversations: 0,
            beginnings: 0,
            kv: 0,
            kv_tokens: 0,
            threads: 0,
            seed: 0,
            cores: core::ptr::null(),
            now: None,
            now_context: core::ptr::null_mut(),
        }
    }

    /// Whether a flag is set.
    pub const fn has(&self, flag: Flag) -> bool {
        self.flags & flag as u32 != 0
    }

    /// What to plan for, in an arena of so many bytes.
    pub fn request(&self, arena: u64) -> Result<PlanRequest, Failure> {
        check_abi(self.abi)?;
        let known = Flag::NoLookahead as u32 | Flag::NoDraft as u32 | Flag::NoBeginnings as u32;
        if self.flags & !known != 0 {
            return Err(Failure::argument("`flags` has one that is not known"));
        }
        let kv = match self.kv {
            kv if kv == Kv::F16 as u32 => KvFormat::F16,
            kv if kv == Kv::Int8 as u32 => KvFormat::Int8,
            _ => return Err(Failure::argument("`kv` is no rill_kv")),
        };
        let none = self.has(Flag::NoBeginnings).then_some(0);
        Ok(PlanRequest {
            context: chosen(self.context),
            batch: chosen(self.batch),
            kv,
            conversations: self.conversations.max(1),
            kv_tokens: chosen(self.kv_tokens),
            prefixes: none.or(chosen(self.beginnings)),
            ..PlanRequest::new(arena)
        })
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl SamplingSettings {
    /// These settings, for the caller.
    pub const fn of(settings: &Settings) -> Self {
        let Sampling { temperature, top_k, top_p, min_p, repetition_penalty } = settings.sampling;
        Self {
            abi: RILL_ABI,
            top_k,
            temperature,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty: settings.presence_penalty,
            frequency_penalty: settings.frequency_penalty,
            top_n_sigma: settings.top_n_sigma,
            min_tokens: settings.min_tokens,
            ignore_end: settings.ignore_eos as u32,
        }
    }

    /// The caller's settings, for the engine.
    pub fn checked(&self) -> Result<Settings, Failure> {
        check_abi(self.abi)?;
        let sampling = Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
        };
        let penalty = |x: f32| (-2.0..=2.0).contains(&x);
        let checks = [
            ("presence_penalty", penalty(self.presence_penalty)),
            ("frequency_penalty", penalty(self.frequency_penalty)),
            ("top_n_sigma", self.top_n_sigma.is_finite() && self.top_n_sigma >= 0.0),
            ("ignore_end", self.ignore_end <= 1),
        ];
        let other = || checks.into_iter().find(|(_, good)| !good).map(|(name, _)| name);
        if let Some(name) = sampling.out_of_range().or_else(other) {
            return Err(Failure::new(Status::Argument, Why::Range(name)));
        }
        Ok(Settings {
            sampling,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            top_n_sigma: self.top_n_sigma,
            ignore_eos: self.ignore_end == 1,
            min_tokens: self.min_tokens,
        })
    }
}
