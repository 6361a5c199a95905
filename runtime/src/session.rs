//! A conversation with a model: tokens and text in, tokens and text out.

use core::fmt;

use crate::arena::{Arena, ArenaFull};
use crate::chat::{ChatError, Conversation, Place, Role};
use crate::experts::{
    Cache, CacheStats, History, Lookahead, Memory, PageError, Policy, Rates, Reuse,
};
use crate::image::layout::align_up;
use crate::image::{Chat, Image, ImageError, Manifest, Sampling, Section, checksum, page_shape};
use crate::kernels::Kernels;
use crate::model::kv::{KvCache, KvFormat};
use crate::model::scratch::Scratch;
use crate::model::state::ConvState;
use crate::model::weights::Weights;
use crate::model::{Model, Wanted};
use crate::plan::{Plan, SECTION_ALIGN, Use};
use crate::sampler::{Sampler, mark_seen, seen_words};
use crate::seams::{Micros, Parallel, World};
use crate::tokenizer::{EncodeError, SCRATCH_WORDS_PER_BYTE, Tokenizer};

/// Longest run of text without a place to cut, in bytes.
pub const PIECE_BYTES: usize = 8 << 10;

/// What a session writes on.
#[derive(Debug)]
pub struct Desk<'a> {
    /// The sequence so far, (context,).
    tokens: &'a mut [u32],
    /// Of the last token that was computed, (vocab,).
    logits: &'a mut [f32],
    /// A bit for each token of the vocabulary: whether the sequence has it.
    seen: &'a mut [u32],
    /// Scratch of the tokenizer.
    pieces: &'a mut [u32],
}

impl<'a> Desk<'a> {
    /// Bytes it takes.
    pub fn bytes(manifest: &Manifest, context: usize) -> usize {
        let vocab = manifest.shape.vocab as usize;
        Arena::cost::<u32>(context)
            + Arena::cost::<f32>(vocab)
            + Arena::cost::<u32>(seen_words(vocab))
            + Arena::cost::<u32>(PIECE_BYTES * SCRATCH_WORDS_PER_BYTE)
    }

    fn new(manifest: &Manifest, context: usize, arena: &mut Arena<'a>) -> Result<Self, ArenaFull> {
        let vocab = manifest.shape.vocab as usize;
        Ok(Self {
            tokens: arena.zeros(context)?,
            logits: arena.zeros(vocab)?,
            seen: arena.zeros(seen_words(vocab))?,
            pieces: arena.zeros(PIECE_BYTES * SCRATCH_WORDS_PER_BYTE)?,
        })
    }
}

/// Why a model could not be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum LoadError {
    /// The image is unusable.
    Image(ImageError),
    /// The arena is smaller than the plan says.
    Arena,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(error) => error.fmt(f),
            Self::Arena => write!(f, "the arena is smaller than its plan"),
        }
    }
}

impl core::error::Error for LoadError {}

impl From<ImageError> for LoadError {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

impl From<ArenaFull> for LoadError {
    fn from(ArenaFull: ArenaFull) -> Self {
        Self::Arena
    }
}

/// Why a session cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SessionError {
    /// The text cannot be encoded.
    Text(EncodeError),
    /// The sequence would have more tokens than the context.
    ContextFull {
        /// Tokens of the context.
        context: u32,
        /// Tokens that the sequence would have, where that is known.
        needed: Option<usize>,
    },
    /// A token that the model does not have.
    Token(u32),
    /// A page cannot be had. The sequence is lost: reset the session.
    Page(PageError),
    /// An earlier error lost the sequence: reset the session.
    Lost,
    /// There is nothing to continue: append something first.
    Empty,
    /// The image does not say how its model chats.
    NoChat,
    /// No logit is a number: the weights are damaged or not a language model's.
    NoNumbers,
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(error) => error.fmt(f),
            Self::ContextFull { context, needed } => {
                write!(f, "the context of {context} tokens is full")?;
                if let Some(needed) = needed {
                    write!(f, " ({needed} are needed)")?;
                }
                write!(f, "; reset, or start with a larger one (-c)")
            }
            Self::Token(id) => write!(f, "token {id} is not in the model's vocabulary"),
            Self::Page(error) => error.fmt(f),
            Self::Lost => write!(f, "the conversation was lost to an earlier error; reset it"),
            Self::Empty => write!(f, "there is nothing to continue; give a prompt"),
            Self::NoNumbers => write!(f, "the model computes no numbers; pack it again"),
            Self::NoChat => write!(f, "this model has no chat format; use a raw prompt (--raw)"),
        }
    }
}

impl core::error::Error for SessionError {}

impl From<PageError> for SessionError {
    fn from(error: PageError) -> Self {
        Self::Page(error)
    }
}

/// Why a conversation was not saved or restored. `E` is whoever keeps it's own error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveError<E> {
    /// The session says no: it is lost, or its context is too small.
    Session(SessionError),
    /// Whoever keeps it cannot.
    Place(E),
    /// It contradicts itself.
    Damaged,
}

/// What a step brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Step {
    /// The next token.
    Token(u32),
    /// A token that ends the answer; it is part of the sequence.
    End(u32),
    /// The context is full.
    Full,
}

/// Where a session's time went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SessionStats {
    /// Tokens of prompts that were computed.
    pub prompt: Phase,
    /// Tokens that were sampled, and computed when they were continued.
    pub decode: Phase,
}

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Phase {
    /// Tokens.
    pub tokens: u64,
    /// Time from beginning to end.
    pub time: Micros,
    /// Time of it for sampling.
    pub sampling: Micros,
    /// The experts' pages; zeros for a dense model.
    pub cache: CacheStats,
}

impl Phase {
    /// Time for the model's arithmetic: what is neither sampling nor the cache's.
    pub fn computing(&self) -> Micros {
        let CacheStats { waiting, checking, managing, .. } = self.cache;
        self.time.saturating_sub(self.sampling + waiting + checking + managing)
    }

    /// What was added since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            tokens: self.tokens - before.tokens,
            time: self.time - before.time,
            sampling: self.sampling - before.sampling,
            cache: self.cache.since(before.cache),
        }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            time: self.time + other.time,
            sampling: self.sampling + other.sampling,
            cache: self.cache.plus(other.cache),
        }
    }
}

/// A loaded model with one sequence.
pub struct Session<'a> {
    model: Model<'a>,
    tokenizer: Tokenizer<'a>,
    chat: Chat,
    /// `None` for a model that does not chat.
    conversation: Option<Conversation>,
    sampler: Sampler,
    desk: Desk<'a>,
    /// Most tokens of a batch.
    batch: usize,
    /// Tokens of the sequence.
    len: usize,
    /// Tokens of them that went through the model.
    computed: usize,
    /// Tokens whose results the model still has: the last ones that were computed.
    results: usize,
    /// The last token of the sequence is a sample.
    sampled: bool,
    lost: bool,
    stats: SessionStats,
}

/// What [`Session::load`] needs to know besides the image.
#[derive(Clone, Copy)]
pub struct Options {
    /// The table of functions.
    pub kernels: &'static Kernels,
    /// Chooses which pages give way.
    pub policy: &'static dyn Policy,
    /// Whether pages may be read on a guess.
    pub lookahead: bool,
    /// How to sample; `None` as the image advises.
    pub sampling: Option<Sampling>,
    /// Seed of the sampler.
    pub seed: u64,
}

impl Options {
    /// The default policy, look-ahead where it pays, sampling as the image advises, seed 0.
    pub fn new(kernels: &'static Kernels) -> Self {
        Self { kernels, policy: &Reuse, lookahead: true, sampling: None, seed: 0 }
    }
}

impl<'a> Session<'a> {
    /// Loads the resident sections into `arena` as `plan` says, and checks them.
    ///
    /// `arena` has at least [`Plan::total`] bytes at an address aligned to 16 KiB.
    pub fn load(
        image: &Image,
        plan: &Plan,
        options: Options,
        arena: &'a mut [u8],
        world: &mut World<'_, 'a>,
    ) -> Result<Self, LoadError> {
        let manifest = &image.manifest;
        let mut arena = Arena::new(arena);
        let mut cut = |part| plan.cut(part, &mut arena);
        let resident = section(image, Section::Resident, cut(Use::Resident)?, world)?;
        let tables = section(image, Section::Tokenizer, cut(Use::Tokenizer)?, world)?;
        let sums = section(image, Section::PageSums, cut(Use::PageSums)?, world)?;
        let mut index = cut(Use::Index)?;
        let [context, batch] = [plan.context, plan.batch].map(|x| x as usize);
        let kv = KvCache::new(manifest, context, plan.kv, &mut cut(Use::KeyValues)?)?;
        let conv = ConvState::new(manifest, &mut cut(Use::ConvState)?)?;
        let scratch = Scratch::new(manifest, batch, &mut cut(Use::Scratch)?)?;
        let desk = Desk::new(manifest, context, &mut cut(Use::Session)?)?;
        let mut slots = cut(Use::Slots)?;
        let weights = Weights::new(manifest, resident, &mut index)?;
        let cache = match page_shape(manifest) {
            Some(shape) => {
                let (index, pages) = (&mut index, &mut slots);
                let memory = Memory { index, pages, slots: plan.slots as usize };
                let alignment = world.storage.geometry().alignment as usize;
                let sums = bytemuck::cast_slice(sums);
                Some(Cache::new(image, shape, sums, alignment, options.policy, memory)?)
            }
            None => None,
        };
        let tokenizer = Tokenizer::parse(tables, manifest.shape.vocab)
            .map_err(|_| LoadError::Image(ImageError::Tokenizer))?;
        let shape = manifest.shape;
        let sampling = options.sampling.unwrap_or(manifest.sampling);
        Ok(Self {
            model: Model {
                shape,
                kernels: options.kernels,
                weights,
                kv,
                conv,
                cache,
                lookahead: Lookahead::new(options.lookahead),
                scratch,
            },
            tokenizer,
            chat: manifest.chat.clone(),
            conversation: Conversation::new(manifest.chat.clone()).ok(),
            sampler: Sampler::new(sampling, options.seed),
            desk,
            batch,
            len: 0,
            computed: 0,
            results: 0,
            sampled: false,
            lost: false,
            stats: SessionStats::default(),
        })
    }

    /// Appends tokens to the sequence. They are computed by the next [`step`](Self::step).
    pub fn append(&mut self, tokens: &[u32]) -> Result<(), SessionError> {
        self.check()?;
        if let Some(&id) = tokens.iter().find(|&&id| id >= self.model.shape.vocab) {
            return Err(SessionError::Token(id));
        }
        match self.desk.tokens[self.len..].get_mut(..tokens.len()) {
            Some(room) => room.copy_from_slice(tokens),
            None => return Err(self.full(Some(self.len + tokens.len()))),
        }
        self.grow(tokens.len());
        Ok(())
    }

    /// Appends raw text, without any chat format; a begin token goes first where the sequence is
    /// empty, the model wants one, and the text does not bring it. Names of control tokens in the
    /// text become those tokens.
    pub fn append_text(&mut self, text: &str) -> Result<(), SessionError> {
        self.check()?;
        if self.len == 0
            && let Some(begin) = self.chat.begin
            && !self.tokenizer.begins_with(text, begin)
        {
            self.append(&[begin])?;
        }
        let Desk { tokens, pieces, .. } = &mut self.desk;
        let written = self.tokenizer.encode(text, true, pieces, &mut tokens[self.len..]);
        self.wrote(written.map_err(ChatError::Encode))
    }

    /// Appends a message of a conversation; nothing in it is taken for a control token.
    pub fn append_message(&mut self, role: Role, content: &str) -> Result<(), SessionError> {
        self.check()?;
        let Desk { tokens, pieces, .. } = &mut self.desk;
        let Some(conversation) = &mut self.conversation else { return Err(SessionError::NoChat) };
        let room = &mut tokens[self.len..];
        let written = conversation.message(&self.tokenizer, role, content, pieces, room);
        self.wrote(written)
    }

    /// Begins an answer: the next steps are the assistant's.
    pub fn begin_answer(&mut self) -> Result<(), SessionError> {
        self.check()?;
        let Desk { tokens, pieces, .. } = &mut self.desk;
        let Some(conversation) = &mut self.conversation else { return Err(SessionError::NoChat) };
        let room = &mut tokens[self.len..];
        let written = conversation.prompt_answer(&self.tokenizer, pieces, room);
        self.wrote(written)
    }

    /// Computes tokens that were appended, up to a batch of them. Says whether some are left.
    ///
    /// [`step`](Self::step) does it by itself; a caller that wants to be able to stop within a
    /// long prompt calls this first.
    pub fn compute(&mut self, world: &mut World<'_, 'a>) -> Result<bool, SessionError> {
        self.compute_batch(world, false)
    }

    /// As [`Self::compute`], but takes every token through the whole model, as if each were the
    /// last: for [`Self::batch_logits`], and for events of all layers. Meant for measuring.
    pub fn compute_every(&mut self, world: &mut World<'_, 'a>) -> Result<bool, SessionError> {
        self.compute_batch(world, true)
    }

    fn compute_batch(
        &mut self,
        world: &mut World<'_, 'a>,
        every: bool,
    ) -> Result<bool, SessionError> {
        self.check()?;
        let tokens = &self.desk.tokens[self.computed..self.len.min(self.computed + self.batch)];
        if tokens.is_empty() {
            return Ok(false);
        }
        let (start, before) = (world.clock.now(), self.cache_stats());
        let sampled = self.sampled && self.computed + 1 == self.len;
        let wanted = match (every, self.computed + tokens.len() == self.len) {
            (true, _) => Wanted::Every,
            (false, true) => Wanted::Last,
            (false, false) => Wanted::Nothing,
        };
        // An error leaves the model's state between two tokens.
        self.lost = true;
        self.model.forward(world, tokens, self.computed, wanted)?;
        self.lost = false;
        self.computed += tokens.len();
        self.results = wanted.of(tokens.len());
        if self.computed == self.len {
            self.model.logits(world.parallel, self.results - 1, self.desk.logits);
        }
        let cache = self.cache_stats().since(before);
        let time = world.clock.now() - start;
        // A token that was sampled has been counted.
        let (phase, tokens) = if sampled {
            (&mut self.stats.decode, 0)
        } else {
            (&mut self.stats.prompt, tokens.len() as u64)
        };
        *phase = phase.plus(Phase { tokens, time, sampling: 0, cache });
        Ok(self.computed < self.len)
    }

    /// The next token: computes what was appended, samples, and appends the sample.
    pub fn step(&mut self, world: &mut World<'_, 'a>) -> Result<Step, SessionError> {
        self.check()?;
        if self.len == 0 {
            return Err(SessionError::Empty);
        }
        if self.len == self.context() {
            return Ok(Step::Full);
        }
        while self.compute(world)? {}
        let start = world.clock.now();
        let sample = self.sampler.sample(self.desk.logits, self.desk.seen);
        let id = sample.ok_or(SessionError::NoNumbers)?;
        self.desk.tokens[self.len] = id;
        self.grow(1);
        self.sampled = true;
        let sampling = world.clock.now() - start;
        let phase = Phase { tokens: 1, time: sampling, sampling, ..Phase::default() };
        self.stats.decode = self.stats.decode.plus(phase);
        if !self.chat.stops.contains(&id) {
            return Ok(Step::Token(id));
        }
        if let Some(conversation) = &mut self.conversation {
            conversation.answered(id);
        }
        Ok(Step::End(id))
    }

    /// Logits (vocab,) of every token of the batch that [`Self::compute_every`] computed last, in
    /// order.
    pub fn batch_logits(&mut self, parallel: &dyn Parallel, mut each: impl FnMut(&[f32])) {
        for index in 0..self.results {
            self.model.logits(parallel, index, self.desk.logits);
            each(self.desk.logits);
        }
    }

    /// Logits (vocab,) after the last token that was computed, when nothing is left to compute.
    /// [`step`](Self::step) changes them.
    pub fn logits(&self) -> &[f32] {
        self.desk.logits
    }

    /// Forgets the sequence, also one that was lost. Pages in RAM stay.
    pub fn reset(&mut self) {
        self.model.forget();
        if let Some(conversation) = &mut self.conversation {
            conversation.reset();
        }
        self.desk.seen.fill(0);
        [self.len, self.computed, self.results] = [0; 3];
        self.sampled = false;
        self.lost = false;
    }

    /// Reads on towards slots that are all full, for when nothing else is to be done: see
    /// [`Cache::warm`]. `false` when nothing is left to read, or no page may be read on a guess.
    pub fn warm(&mut self, world: &mut World<'_, 'a>, first: &[u32]) -> Result<bool, SessionError> {
        match &mut self.model.cache {
            Some(cache) if self.model.lookahead.is_allowed() => {
                Ok(cache.warm(world, first).inspect_err(|_| cache.recover(world))?)
            }
            _ => Ok(false),
        }
    }

    /// The pages that are in RAM.
    pub fn resident_pages(&self) -> impl Iterator<Item = u32> {
        self.model.cache.iter().flat_map(Cache::resident)
    }

    /// What is known of every page's uses; `None` for a dense model.
    pub fn history(&self) -> Option<&History<'a>> {
        self.model.cache.as_ref().map(Cache::history)
    }

    /// Takes over what another run found out about `page`.
    pub fn recall(&mut self, page: u32, rates: Rates) {
        if let Some(cache) = &mut self.model.cache {
            cache.recall(page, rates);
        }
    }

    /// Writes the sequence and all that the model remembers of it, in pieces. [`Self::restore`]
    /// reads them; whoever keeps them in between says which image and [`Self::kv_format`] they belong
    /// to and finds damage.
    pub fn save<E>(
        &mut self,
        mut write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), SaveError<E>> {
        self.check().map_err(SaveError::Session)?;
        let place = self.conversation.as_ref().map_or(0, |c| c.place().code());
        let head = [self.len as u32, self.computed as u32, u32::from(self.sampled), place];
        write(bytemuck::bytes_of(&head)).map_err(SaveError::Place)?;
        write(bytemuck::cast_slice(self.tokens())).map_err(SaveError::Place)?;
        self.visit_state(&mut |bytes| write(bytes)).map_err(SaveError::Place)
    }

    /// Takes the place of what [`Self::save`] wrote; `read` fills its piece or fails. After an
    /// error the session is as after a reset.
    pub fn restore<E>(
        &mut self,
        mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), SaveError<E>> {
        self.reset();
        let restored = self.restore_into_empty(&mut read);
        if restored.is_err() {
            self.reset();
        }
        restored
    }

    fn restore_into_empty<E>(
        &mut self,
        read: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), SaveError<E>> {
        let mut head = [0_u32; 4];
        read(bytemuck::bytes_of_mut(&mut head)).map_err(SaveError::Place)?;
        let [len, computed, sampled, place] = head;
        let (len, computed) = (len as usize, computed as usize);
        let place = Place::of(place).filter(|_| computed <= len && sampled <= 1);
        let place = place.ok_or(SaveError::Damaged)?;
        let full = self.full(Some(len));
        let tokens = self.desk.tokens.get_mut(..len).ok_or(SaveError::Session(full))?;
        read(bytemuck::cast_slice_mut(tokens)).map_err(SaveError::Place)?;
        if tokens.iter().any(|&id| id >= self.model.shape.vocab) {
            return Err(SaveError::Damaged);
        }
        self.grow(len);
        self.computed = computed;
        self.sampled = sampled == 1;
        if let Some(conversation) = &mut self.conversation {
            conversation.set_place(place);
        }
        self.visit_state(read).map_err(SaveError::Place)
    }

    /// Calls `each` with all memory that the sequence's computed tokens have changed.
    fn visit_state<E>(
        &mut self,
        each: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.model.kv.visit(self.computed, each)?;
        each(self.model.conv.bytes_mut())?;
        // With a token left to compute the logits come from it.
        if self.computed == self.len {
            each(bytemuck::cast_slice_mut(self.desk.logits))
        } else {
            Ok(())
        }
    }

    /// The sequence: what was appended and what was sampled.
    pub fn tokens(&self) -> &[u32] {
        &self.desk.tokens[..self.len]
    }

    /// Most tokens of the sequence.
    pub fn context(&self) -> usize {
        self.desk.tokens.len()
    }

    /// The tokenizer of the image.
    pub fn tokenizer(&self) -> &Tokenizer<'a> {
        &self.tokenizer
    }

    /// How the image's model chats.
    pub fn chat(&self) -> &Chat {
        &self.chat
    }

    /// The table of functions in use.
    pub fn kernels(&self) -> &'static Kernels {
        self.model.kernels
    }

    /// How keys and values are kept.
    pub fn kv_format(&self) -> KvFormat {
        self.model.kv.format()
    }

    /// Where the time went so far.
    pub fn stats(&self) -> SessionStats {
        self.stats
    }

    fn cache_stats(&self) -> CacheStats {
        self.model.cache.as_ref().map(Cache::stats).unwrap_or_default()
    }

    fn check(&self) -> Result<(), SessionError> {
        if self.lost { Err(SessionError::Lost) } else { Ok(()) }
    }

    fn full(&self, needed: Option<usize>) -> SessionError {
        SessionError::ContextFull { context: self.context() as u32, needed }
    }

    /// Takes note of tokens that an encoder wrote after the sequence.
    fn wrote(&mut self, written: Result<usize, ChatError>) -> Result<(), SessionError> {
        match written {
            Ok(count) => {
                self.grow(count);
                Ok(())
            }
            Err(ChatError::Encode(EncodeError::Full { .. })) => Err(self.full(None)),
            Err(ChatError::Encode(error)) => Err(SessionError::Text(error)),
            Err(ChatError::NoTokens) => Err(SessionError::NoChat),
        }
    }

    /// The next `count` tokens have been written.
    fn grow(&mut self, count: usize) {
        for &id in &self.desk.tokens[self.len..][..count] {
            mark_seen(self.desk.seen, id);
        }
        self.len += count;
        self.sampled = false;
    }
}

/// Reads a section into its part of the arena and checks it.
fn section<'a>(
    image: &Image,
    section: Section,
    mut arena: Arena<'a>,
    world: &mut World<'_, 'a>,
) -> Result<&'a [u8], LoadError> {
    let span = image.header.span(section);
    let len = span.len as usize;
    let bytes = arena.bytes(align_up(len, SECTION_ALIGN), SECTION_ALIGN)?;
    let read = world.storage.read_at(span.offset, bytes);
    read.map_err(|error| ImageError::Storage(section, error))?;
    let bytes = &bytes[..len];
    if checksum(bytes) != span.checksum {
        return Err(ImageError::Checksum(section).into());
    }
    Ok(bytes)
}
