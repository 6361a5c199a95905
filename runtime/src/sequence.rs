//! A sequence of tokens that a model continues: one conversation's own state.

use core::fmt;
use core::ops::Range;

use crate::arena::{Arena, ArenaFull};
use crate::chat::Place;
use crate::draft::{Drafter, Guess, Trust};
use crate::experts::PageError;
use crate::image::Manifest;
use crate::model::Incomplete;
use crate::model::kv::KvPool;
use crate::model::state::{Memory, Staged, ring};
use crate::sampler::{
    Bias, MOST_BIASES, NoChoice, Sampler, Settings, Situation, insert, set_words,
};
use crate::tokenizer::EncodeError;
use crate::turns::Turn;

/// Why a sequence cannot go on. It is as it was before the call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum SequenceError {
    /// The text cannot be encoded.
    Text(EncodeError),
    /// The sequence would have more tokens than the context.
    ContextFull {
        /// Tokens of the context.
        context: u32,
        /// Tokens that the sequence would have, where that is known.
        needed: Option<usize>,
    },
    /// Other sequences have all memory for keys and values.
    NoBlocks,
    /// A token that the model does not have.
    Token(u32),
    /// A page cannot be had. The tokens that wanted it are still to be computed.
    Page(PageError),
    /// Whoever hears events wanted the batch to end. Its tokens are still to be computed.
    Stopped,
    /// There is nothing to continue: append something first.
    Empty,
    /// The image does not say how its model chats.
    NoChat,
    /// No logit is a number: the weights are damaged or not a language model's.
    NoNumbers,
    /// The next choice has nothing to choose from: whoever asked for it allows no token, or only those
    /// that end an answer which may not end yet.
    Forbidden,
    /// More logit biases than [`MOST_BIASES`], or one that is no finite number.
    Biases,
}

impl fmt::Display for SequenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(error) => error.fmt(f),
            Self::ContextFull { context, needed } => {
                write!(f, "the context of {context} tokens is full")?;
                if let Some(needed) = needed {
                    write!(f, " ({needed} are needed)")?;
                }
                write!(f, "; begin anew, or with a larger one")
            }
            Self::NoBlocks => write!(
                f,
                "other conversations have all memory for keys and values; end one, or plan for more \
                 tokens or fewer conversations"
            ),
            Self::Token(id) => write!(f, "token {id} is not in the model's vocabulary"),
            Self::Page(error) => error.fmt(f),
            Self::Stopped => write!(f, "stopped before all was computed"),
            Self::Empty => write!(f, "there is nothing to continue; give a prompt"),
            Self::NoNumbers => write!(f, "the model computes no numbers; pack it again"),
            Self::Forbidden => write!(
                f,
                "every token is forbidden: the mask allows none, or only those that end an answer \
                 which may not end yet"
            ),
            Self::Biases => {
                write!(
                    f,
                    "there are at most {MOST_BIASES} logit biases, each of them a finite number"
                )
            }
            Self::NoChat => write!(f, "this model has no chat format; use a raw prompt"),
        }
    }
}

impl core::error::Error for SequenceError {}

impl From<PageError> for SequenceError {
    fn from(error: PageError) -> Self {
        Self::Page(error)
    }
}

impl From<Incomplete> for SequenceError {
    fn from(incomplete: Incomplete) -> Self {
        match incomplete {
            Incomplete::Page(error) => Self::Page(error),
            Incomplete::Stopped => Self::Stopped,
        }
    }
}

impl From<NoChoice> for SequenceError {
    fn from(error: NoChoice) -> Self {
        match error {
            NoChoice::NoNumbers => Self::NoNumbers,
            NoChoice::Forbidden => Self::Forbidden,
        }
    }
}

/// Results of a sequence that an engine still has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Results {
    /// Number of the batch.
    pub(crate) batch: u64,
    /// The first of its rows among those whose results were wanted, and how many they are.
    pub(crate) first: usize,
    pub(crate) count: usize,
    /// Where its columns are staged.
    pub(crate) staged: Staged,
    /// The guess whose rows follow; its tokens lie after the sequence.
    pub(crate) guess: Guess,
}

/// Where a sequence stood: how long it was, and what its next choices depended on.
#[derive(Debug, Clone)]
#[must_use]
pub struct Bookmark {
    pub(crate) len: usize,
    pub(crate) place: Place,
    pub(crate) sampler: Sampler,
}

/// One sequence: its tokens, what the model remembers of them, how its next token is chosen.
///
/// An [`Engine`](crate::engine::Engine) makes and continues it.
#[derive(Debug)]
pub struct Sequence<'a> {
    /// Its number among those of its engine.
    pub(crate) voice: usize,
    pub(crate) memory: Memory<'a>,
    /// (context,); the first `len` are the sequence.
    tokens: &'a mut [u32],
    len: usize,
    /// The set of tokens that the sequence has.
    seen: &'a mut [u32],
    pub(crate) sampler: Sampler,
    /// (MOST_BIASES,); the first `bias_count` count.
    biases: &'a mut [Bias],
    bias_count: usize,
    /// Where a conversation stands.
    pub(crate) place: Place,
    /// The last token is a sample.
    pub(crate) sampled: bool,
    /// Where the answer under way begins, if there is one.
    pub(crate) answer: Option<usize>,
    pub(crate) results: Option<Results>,
    pub(crate) trust: Trust,
    /// When its answer had its turn, where answers take turns.
    pub(crate) turn: Turn,
    /// Number of the last batch that it had rows in; 0 before the first.
    pub(crate) served: u64,
    /// Whether it was promised memory, and has not given it up since.
    pub(crate) has_begun: bool,
    /// Whether it was promised memory for the next batch.
    pub(crate) is_admitted: bool,
    /// How often it gave up what was computed of it for others.
    pub(crate) parks: u32,
    /// Whether results of all its tokens are wanted, and not of the last one alone.
    pub(crate) wants_every: bool,
    /// The longest beginning of it that was remembered or taken over, in tokens.
    pub(crate) remembered: usize,
}

impl<'a> Sequence<'a> {
    /// Bytes that a sequence of up to `context` tokens takes, without keys and values.
    pub fn bytes(manifest: &Manifest, context: usize) -> usize {
        let vocab = manifest.shape.vocab as usize;
        Memory::bytes(manifest, context, ring(manifest))
            + Arena::cost::<u32>(context)
            + Arena::cost::<u32>(set_words(vocab))
            + Arena::cost::<Bias>(MOST_BIASES)
    }

    /// Takes its memory.
    pub(crate) fn new(
        manifest: &Manifest,
        context: usize,
        voice: usize,
        sampler: Sampler,
        arena: &mut Arena<'a>,
    ) -> Result<Self, ArenaFull> {
        let vocab = manifest.shape.vocab as usize;
        Ok(Self {
            voice,
            memory: Memory::new(manifest, context, ring(manifest), arena)?,
            tokens: arena.zeros(context)?,
            len: 0,
            seen: arena.zeros(set_words(vocab))?,
            sampler,
            biases: arena.zeros(MOST_BIASES)?,
            bias_count: 0,
            place: Place::Start,
            sampled: false,
            answer: None,
            results: None,
            trust: Trust::new(),
            turn: Turn::default(),
            served: 0,
            has_begun: false,
            is_admitted: false,
            parks: 0,
            wants_every: false,
            remembered: 0,
        })
    }

    /// The sequence: what was appended and what was sampled.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens[..self.len]
    }

    /// Tokens of it that were computed.
    pub fn computed(&self) -> usize {
        self.memory.len()
    }

    /// Tokens that were appended or sampled and are still to be computed.
    pub fn pending(&self) -> &[u32] {
        &self.tokens[self.memory.len()..self.len]
    }

    /// Whether an answer is under way whose last token is all that is pending.
    pub(crate) fn is_answering(&self) -> bool {
        self.sampled && self.pending().len() == 1
    }

    /// Most tokens it can have.
    pub fn context(&self) -> usize {
        self.tokens.len()
    }

    /// The tokens of the answer under way: those that were accepted since the last that were appended.
    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.answer.unwrap_or(self.len)..self.len]
    }

    /// Where it stands, to go back there.
    pub fn bookmark(&self) -> Bookmark {
        Bookmark { len: self.len, place: self.place, sampler: self.sampler.clone() }
    }

    /// Chooses its next tokens from now on: the settings and the seed are new.
    pub fn set_sampling(&mut self, settings: Settings, seed: u64) {
        self.sampler = Sampler::new(settings, seed);
    }

    /// Adds `biases` to its logits from now on, in the place of what was added before.
    pub(crate) fn set_biases(&mut self, biases: &[Bias]) -> Result<(), SequenceError> {
        let finite = biases.iter().all(|bias| bias.bias.is_finite());
        let room = self.biases.get_mut(..biases.len()).filter(|_| finite);
        room.ok_or(SequenceError::Biases)?.copy_from_slice(biases);
        self.bias_count = biases.len();
        Ok(())
    }

    /// Guesses up to `most` tokens after its end, where they lie until something else is written there.
    pub(crate) fn guess(&mut self, drafter: &mut dyn Drafter, most: usize) -> Guess {
        let (tokens, room) = self.tokens.split_at_mut(self.len);
        let most = most.min(room.len());
        drafter.draft(tokens, &mut room[..most])
    }

    /// The next token of a guess that lies after the end.
    pub(crate) fn guessed(&self) -> u32 {
        self.tokens[self.len]
    }

    /// What the model remembers, and the tokens.
    pub(crate) fn memory_mut(&mut self) -> (&mut Memory<'a>, &[u32]) {
        (&mut self.memory, &self.tokens[..self.len])
    }

    /// What the model remembers, and the next tokens to be computed, those of a guess included.
    pub(crate) fn pending_mut(&mut self, count: usize) -> (&mut Memory<'a>, &[u32]) {
        let computed = self.memory.len();
        (&mut self.memory, &self.tokens[computed..computed + count])
    }

    /// Room after the sequence; what is written there counts after [`Self::grow`]. A guess that lay there
    /// is none any more.
    pub(crate) fn room(&mut self) -> &mut [u32] {
        if let Some(results) = &mut self.results {
            results.guess.len = 0;
        }
        &mut self.tokens[self.len..]
    }

    /// The next `count` tokens have been written.
    pub(crate) fn grow(&mut self, count: usize) {
        for &id in &self.tokens[self.len..][..count] {
            insert(self.seen, id);
        }
        self.len += count;
        self.sampled = false;
        self.answer = None;
    }

    /// Chooses the next token, if need be of the set `allowed`, and spoils `logits` (vocab,). `stops`
    /// end an answer; `marks` is room for a set of tokens.
    pub(crate) fn choose(
        &mut self,
        stops: &[u32],
        allowed: Option<&[u32]>,
        logits: &mut [f32],
        marks: &mut [u32],
    ) -> Result<u32, NoChoice> {
        let answer = &self.tokens[self.answer.unwrap_or(self.len)..self.len];
        let biases = &self.biases[..self.bias_count];
        let situation = Situation { allowed, stops, biases, seen: self.seen, answer };
        self.sampler.sample(logits, marks, &situation)
    }

    /// Its error for a context that is too small.
    pub(crate) fn full(&self, needed: Option<usize>) -> SequenceError {
        SequenceError::ContextFull { context: self.context() as u32, needed }
    }

    /// Goes back to the first `len` tokens, of which as many stay computed as can. The place in a
    /// conversation is the caller's to set.
    pub(crate) fn cut(&mut self, pool: &mut KvPool<'_>, len: usize) {
        self.len = self.len.min(len);
        if self.memory.len() > self.len {
            let len = if self.memory.can_rewind(self.len) { self.len } else { 0 };
            self.memory.rewind(pool, len);
        } else {
            self.memory.trim(pool);
        }
        self.seen.fill(0);
        for &id in &self.tokens[..self.len] {
            insert(self.seen, id);
        }
        self.sampled = false;
        self.answer = self.answer.filter(|&begin| begin < self.len);
        self.results = None;
        self.parks = 0;
        self.has_begun &= self.len > 0;
        self.remembered = self.remembered.min(self.len);
    }

    /// Takes tokens out of the sequence; what follows them is pending again. The place in a
    /// conversation stays: it is where the sequence ends.
    pub(crate) fn remove(&mut self, pool: &mut KvPool<'_>, range: Range<usize>) {
        let end = self.len;
        let range = range.start.min(end)..range.end.min(end);
        if range.is_empty() {
            return;
        }
        self.cut(pool, range.start);
        self.tokens.copy_within(range.end..end, range.start);
        self.grow(end - range.end);
    }

    /// Sees to it that the last token is still to be computed, for its logits.
    pub(crate) fn uncompute_last(&mut self, pool: &mut KvPool<'_>) {
        if let Some(before) = self.len.checked_sub(1).filter(|_| self.pending().is_empty()) {
            let before = if self.memory.can_rewind(before) { before } else { 0 };
            self.memory.rewind(pool, before);
        }
    }

    /// Gives up what was computed of it: all of its tokens are pending again. Nothing else changes.
    pub(crate) fn park(&mut self, pool: &mut KvPool<'_>) {
        self.unuse(pool);
        self.results = None;
        self.has_begun = false;
        self.parks = self.parks.saturating_add(1);
    }

    /// Gives back a beginning that it took over, with nothing computed.
    pub(crate) fn unuse(&mut self, pool: &mut KvPool<'_>) {
        self.memory.rewind(pool, 0);
        self.remembered = 0;
    }

    /// Becomes a copy of `other`, with the same settings and random state.
    pub(crate) fn copy_from(&mut self, pool: &mut KvPool<'_>, other: &Sequence<'_>) {
        self.memory.copy_from(pool, &other.memory, other.memory.len(), None);
        self.tokens[..other.len].copy_from_slice(other.tokens());
        self.seen.copy_from_slice(other.seen);
        self.len = other.len;
        self.sampler = other.sampler.clone();
        self.biases.copy_from_slice(other.biases);
        self.bias_count = other.bias_count;
        self.trust = other.trust;
        self.turn = Turn::default();
        (self.place, self.sampled, self.results) = (other.place, other.sampled, None);
        (self.answer, self.remembered) = (other.answer, other.remembered);
        (self.has_begun, self.parks) = (false, 0);
    }
}
