//! A loaded model that continues sequences.

use core::fmt;
use core::ops::Range;

use crate::arena::{Arena, ArenaFull};
use crate::chat::{ChatError, Conversation, Role};
use crate::draft::{Costs, Drafter, Guess, Repeats};
use crate::experts::{Cache, CacheStats, History, Lookahead, Policy, Rates, Reuse};
use crate::image::layout::align_up;
use crate::image::{Chat, Image, ImageError, Manifest, Section, checksum, page_shape};
use crate::kernels::Kernels;
use crate::model::Model;
use crate::model::batch::{Kind, MAX_MARKS, MAX_RUNS, Rows, Run, Wanted};
use crate::model::kv::{KvFormat, KvPool};
use crate::model::scratch::Scratch;
use crate::model::weights::Weights;
use crate::plan::{Plan, SECTION_ALIGN, Use};
use crate::prefixes::Prefixes;
use crate::sampler::{Bias, Logprobs, Sampler, Settings, set_words};
use crate::schedule::{self, Wish};
use crate::seams::{Parallel, World};
use crate::sequence::{Bookmark, Results, Sequence, SequenceError};
use crate::stats::{Phase, Stats};
use crate::tokenizer::{EncodeError, SCRATCH_WORDS_PER_BYTE, Tokenizer};

/// Longest run of text without a place to cut, in bytes.
pub const PIECE_BYTES: usize = 8 << 10;

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

/// What came after the last token of a sequence.
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

/// What [`Engine::load`] needs to know besides the image.
#[derive(Clone, Copy)]
pub struct Options {
    /// The table of functions.
    pub kernels: &'static Kernels,
    /// Chooses which pages give way.
    pub policy: &'static dyn Policy,
    /// Whether pages may be read on a guess.
    pub lookahead: bool,
    /// Whether answers may be guessed on, which changes no word of them.
    pub draft: bool,
    /// How to sample; `None` as the image advises.
    pub sampling: Option<Settings>,
    /// Seed of the sampler.
    pub seed: u64,
}

impl Options {
    /// The default policy, look-ahead and drafts where they pay, sampling as the image advises, seed
    /// 0.
    pub fn new(kernels: &'static Kernels) -> Self {
        let (lookahead, draft) = (true, true);
        Self { kernels, policy: &Reuse, lookahead, draft, sampling: None, seed: 0 }
    }
}

/// A loaded model: weights, experts and working memory, for all its sequences.
pub struct Engine<'a> {
    pub(crate) model: Model<'a>,
    pub(crate) tokenizer: Tokenizer<'a>,
    chat: Chat,
    /// Writes messages; `None` for a model that does not chat.
    conversation: Option<Conversation>,
    pub(crate) prefixes: Prefixes<'a>,
    desk: Desk<'a>,
    /// Most rows of a batch.
    batch: usize,
    /// Number of the last batch that was computed.
    batches: u64,
    /// Of whose rows the desk has logits.
    written: Range<usize>,
    /// Whether answers may be guessed on, and what that costs.
    draft: bool,
    costs: Costs,
    pub(crate) stats: Stats,
}

/// What [`Engine::advance`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Advance {
    /// Rows that were computed; 0 when nothing was pending, or there is no memory for what is.
    pub rows: usize,
    /// Number of the first sequence whose keys and values there is no memory for.
    pub refused: Option<usize>,
}

/// What one sequence puts into a batch.
pub struct Share<'s, 'a> {
    /// The sequence.
    pub sequence: &'s mut Sequence<'a>,
    /// How many of its pending tokens, from the first on; at least 1.
    pub tokens: usize,
    /// Whose results are wanted.
    pub wanted: Wanted,
    /// What [`Engine::guess`] gave for it; then every result is wanted.
    pub guess: Guess,
    /// Positions at which others that wait begin to differ from it.
    pub(crate) shared: heapless::Vec<usize, MAX_MARKS>,
}

impl<'s, 'a> Share<'s, 'a> {
    /// Of a sequence without guesses.
    pub fn new(sequence: &'s mut Sequence<'a>, tokens: usize, wanted: Wanted) -> Self {
        let (guess, shared) = (Guess::default(), heapless::Vec::new());
        Self { sequence, tokens, wanted, guess, shared }
    }

    /// Whether its token was sampled.
    pub(crate) fn is_answer(&self) -> bool {
        self.sequence.sampled && self.sequence.pending().len() == 1
    }
}

/// What a caller wants of one choice.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask<'m> {
    /// A mask, in place: the set of tokens that may be chosen. Token `id` is bit `id % 32` of word
    /// `id / 32`, and 1 allows it; missing words allow nothing. `None` allows every token.
    pub allowed: Option<&'m [u32]>,
    /// Log-probabilities of the token that is chosen and of so many of the best, at most
    /// [`MOST_LOGPROBS`](crate::sampler::MOST_LOGPROBS); `None` for none at all.
    pub logprobs: Option<usize>,
}

/// A token that was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The token.
    pub id: u32,
    /// What was asked for of the model's distribution; it knows of no mask, bias or penalty.
    pub logprobs: Option<Logprobs>,
}

/// What an engine writes on, for whichever sequence it works.
#[derive(Debug)]
pub struct Desk<'a> {
    /// Of some rows of the last batch, (rows, vocab).
    logits: &'a mut [f32],
    /// One row of them, for the sampler to spoil.
    choice: &'a mut [f32],
    /// Room for a set of tokens.
    marks: &'a mut [u32],
    /// Scratch of the tokenizer.
    pieces: &'a mut [u32],
}

impl<'a> Desk<'a> {
    /// Bytes it takes, for the logits of `rows` rows.
    pub fn bytes(manifest: &Manifest, rows: usize) -> usize {
        let vocab = manifest.shape.vocab as usize;
        Arena::cost::<f32>(vocab * rows)
            + Arena::cost::<f32>(vocab)
            + Arena::cost::<u32>(set_words(vocab))
            + Arena::cost::<u32>(PIECE_BYTES * SCRATCH_WORDS_PER_BYTE)
    }

    fn new(manifest: &Manifest, rows: usize, arena: &mut Arena<'a>) -> Result<Self, ArenaFull> {
        let vocab = manifest.shape.vocab as usize;
        Ok(Self {
            logits: arena.zeros(vocab * rows)?,
            choice: arena.zeros(vocab)?,
            marks: arena.zeros(set_words(vocab))?,
            pieces: arena.zeros(PIECE_BYTES * SCRATCH_WORDS_PER_BYTE)?,
        })
    }
}

impl<'a> Engine<'a> {
    /// Loads the resident sections into `arena` as `plan` says, checks them, and makes as many empty
    /// sequences as were planned for.
    ///
    /// `arena` has at least [`Plan::total`] bytes at an address aligned to 16 KiB.
    pub fn load(
        image: &Image,
        plan: &Plan,
        options: Options,
        arena: &'a mut [u8],
        world: &mut World<'_, 'a>,
    ) -> Result<(Self, &'a mut [Sequence<'a>]), LoadError> {
        let manifest = &image.manifest;
        let sizes = plan.sizes;
        let mut arena = Arena::new(arena);
        let mut cut = |part| plan.cut(part, &mut arena);
        let resident = section(image, Section::Resident, cut(Use::Resident)?, world)?;
        let tables = section(image, Section::Tokenizer, cut(Use::Tokenizer)?, world)?;
        let sums = section(image, Section::PageSums, cut(Use::PageSums)?, world)?;
        let mut index = cut(Use::Index)?;
        let key_values = &mut cut(Use::KeyValues)?;
        let kv = KvPool::new(manifest, sizes.blocks(), sizes.kv, &mut index, key_values)?;
        let mut own = cut(Use::Sequences)?;
        let mut known = cut(Use::Prefixes)?;
        let mut scratch = cut(Use::Scratch)?;
        let [context, batch, results, sequences, prefixes] =
            [sizes.context, sizes.batch, sizes.results(), sizes.conversations, sizes.prefixes]
                .map(|x| x as usize);
        let prefixes = Prefixes::new(manifest, context, prefixes, &mut known)?;
        let rows = Rows::new(manifest, sizes.most(), &mut scratch)?;
        let desk = Desk::new(manifest, results, &mut scratch)?;
        let scratch = Scratch::new(manifest, batch, &mut scratch)?;
        let mut slots = cut(Use::Slots)?;
        let weights = Weights::new(manifest, resident, &mut index)?;
        let cache = match page_shape(manifest) {
            Some(shape) => {
                let (index, pages) = (&mut index, &mut slots);
                let memory = crate::experts::Memory { index, pages, slots: plan.slots as usize };
                let alignment = world.storage.geometry().alignment as usize;
                let sums = bytemuck::cast_slice(sums);
                Some(Cache::new(image, shape, sums, alignment, options.policy, memory)?)
            }
            None => None,
        };
        let tokenizer = Tokenizer::parse(tables, manifest.shape.vocab)
            .map_err(|_| LoadError::Image(ImageError::Tokenizer))?;
        let settings = options.sampling.unwrap_or(manifest.sampling.into());
        let sampler = Sampler::new(settings, options.seed);
        let mut list = own.section(Arena::cost::<Sequence<'_>>(sequences), 1)?;
        let sequences =
            list.build(sequences, |_| Sequence::new(manifest, context, sampler.clone(), &mut own))?;
        let engine = Self {
            model: Model {
                shape: manifest.shape,
                kernels: options.kernels,
                weights,
                kv,
                cache,
                lookahead: Lookahead::new(options.lookahead),
                rows,
                scratch,
            },
            tokenizer,
            chat: manifest.chat.clone(),
            conversation: Conversation::new(manifest.chat.clone()).ok(),
            prefixes,
            desk,
            batch,
            batches: 0,
            written: 0..0,
            draft: options.draft,
            costs: Costs::default(),
            stats: Stats::default(),
        };
        Ok((engine, sequences))
    }

    /// Appends tokens to a sequence. They are computed by the next batch that it has a share in.
    pub fn append(&self, sequence: &mut Sequence<'a>, tokens: &[u32]) -> Result<(), SequenceError> {
        if let Some(&id) = tokens.iter().find(|&&id| id >= self.model.shape.vocab) {
            return Err(SequenceError::Token(id));
        }
        let needed = sequence.tokens().len() + tokens.len();
        let full = sequence.full(Some(needed));
        sequence.room().get_mut(..tokens.len()).ok_or(full)?.copy_from_slice(tokens);
        sequence.grow(tokens.len());
        Ok(())
    }

    /// Appends raw text, without any chat format; a begin token goes first where the sequence is
    /// empty, the model wants one, and the text does not bring it. Names of control tokens in the
    /// text become those tokens.
    pub fn append_text(
        &mut self,
        sequence: &mut Sequence<'a>,
        text: &str,
    ) -> Result<(), SequenceError> {
        let is_first = sequence.tokens().is_empty();
        let begin = self.chat.begin.filter(|_| is_first);
        let begin = begin.filter(|&begin| !self.tokenizer.begins_with(text, begin));
        // A context has at least one token.
        let (first, rest) = sequence.room().split_at_mut(usize::from(begin.is_some()));
        first.iter_mut().zip(begin).for_each(|(first, begin)| *first = begin);
        let begins = first.len();
        let written = self.tokenizer.encode(text, true, self.desk.pieces, rest);
        wrote(sequence, written.map(|count| begins + count).map_err(ChatError::Encode))
    }

    /// Appends raw text to the answer under way, as if the model had said it.
    pub fn append_to_answer(
        &mut self,
        sequence: &mut Sequence<'a>,
        text: &str,
    ) -> Result<(), SequenceError> {
        let begin = sequence.answer;
        self.append_text(sequence, text)?;
        sequence.answer = begin;
        Ok(())
    }

    /// Appends a message of a conversation; nothing in it is taken for a control token.
    pub fn append_message(
        &mut self,
        sequence: &mut Sequence<'a>,
        role: Role,
        content: &str,
    ) -> Result<(), SequenceError> {
        let Some(conversation) = &mut self.conversation else { return Err(SequenceError::NoChat) };
        conversation.set_place(sequence.place);
        let (pieces, room) = (&mut *self.desk.pieces, sequence.room());
        let written = conversation.message(&self.tokenizer, role, content, pieces, room);
        sequence.place = conversation.place();
        wrote(sequence, written)
    }

    /// Begins an answer: the next tokens are the assistant's.
    pub fn begin_answer(&mut self, sequence: &mut Sequence<'a>) -> Result<(), SequenceError> {
        let Some(conversation) = &mut self.conversation else { return Err(SequenceError::NoChat) };
        conversation.set_place(sequence.place);
        let (pieces, room) = (&mut *self.desk.pieces, sequence.room());
        let written = conversation.prompt_answer(&self.tokenizer, pieces, room);
        sequence.place = conversation.place();
        wrote(sequence, written)
    }

    /// Sees to it that there is memory for the keys and values of the first `tokens` pending tokens of
    /// a sequence. [`Self::forward`] does it for all; to know whose fault it is, call this first.
    pub fn reserve(
        &mut self,
        sequence: &mut Sequence<'a>,
        tokens: usize,
    ) -> Result<(), SequenceError> {
        let end = sequence.computed() + tokens;
        // Known beginnings give way to sequences.
        while !sequence.memory.reserve(&mut self.model.kv, end) {
            if !self.prefixes.shrink(&mut self.model.kv) {
                return Err(SequenceError::NoBlocks);
            }
        }
        Ok(())
    }

    /// Guesses how the answer of a sequence goes on whose last token is a sample and is all that is
    /// pending: by at most `most` tokens, and as far as it pays. See [`Repeats`].
    pub fn guess(&mut self, sequence: &mut Sequence<'a>, most: usize) -> Guess {
        self.guess_with(&mut Repeats, sequence, most)
    }

    /// As [`Self::guess`], by another drafter.
    pub fn guess_with(
        &mut self,
        drafter: &mut dyn Drafter,
        sequence: &mut Sequence<'a>,
        most: usize,
    ) -> Guess {
        let is_answer = sequence.sampled && sequence.pending().len() == 1;
        let most = most.min(self.batch - 1).min(self.results() - 1);
        if !self.draft || !is_answer || most == 0 {
            return Guess::default();
        }
        let guess = sequence.guess(drafter, most);
        if guess.len == 0 {
            return guess;
        }
        let len = sequence.trust.length(guess.level, guess.len, &self.costs);
        // No conversation does without blocks for a guess.
        let enough = len > 0 && self.reserve(sequence, 1 + len).is_ok();
        Guess { len: if enough { len } else { 0 }, ..guess }
    }

    /// Takes pending tokens of one or several sequences through the model: together at most
    /// [`Self::batch`] tokens, guesses included, of at most [`MAX_RUNS`] sequences. What comes out for each of them is bit
    /// for bit what it would be alone.
    ///
    /// After an error every sequence is as it was, and the call can be made again.
    pub fn forward(
        &mut self,
        world: &mut World<'_, 'a>,
        shares: &mut [Share<'_, 'a>],
    ) -> Result<(), SequenceError> {
        for share in &mut *shares {
            self.reserve(share.sequence, share.tokens + share.guess.len)?;
        }
        let marks = self.marks(shares);
        let (start, before) = (world.clock.now(), self.cache_stats());
        let mut runs = heapless::Vec::<Run<'_, 'a>, MAX_RUNS>::new();
        for share in &mut *shares {
            let kind = if share.is_answer() { Kind::Answer } else { Kind::Prompt };
            let Share { sequence, tokens, wanted, guess, .. } = share;
            let (memory, tokens) = sequence.pending_mut(*tokens + guess.len);
            let wanted = if guess.len > 0 { Wanted::Every } else { *wanted };
            let run = Run { memory, tokens, wanted, keep: 1 + guess.len, kind };
            assert!(runs.push(run).is_ok(), "a batch has at most MAX_RUNS sequences");
        }
        // Whatever the rows were before, they are going to be overwritten.
        self.batches += 1;
        self.written = 0..0;
        self.model.forward(world, &runs, &marks)?;
        let is_prompt = runs.iter().any(|run| run.kind == Kind::Prompt);
        // A token that was sampled was counted when it was accepted.
        let prompts = runs.iter().filter(|run| run.kind == Kind::Prompt);
        let tokens = prompts.map(|run| run.tokens.len() as u64).sum();
        drop(runs);
        let mut first = 0;
        for (number, share) in shares.iter_mut().enumerate() {
            let last = share.last_mark().filter(|_| self.prefixes.room() > 0);
            let Share { sequence, tokens, wanted, guess, .. } = share;
            let staged = self.model.rows.staged_at(number);
            let end = sequence.computed() + *tokens;
            let mut remember = |len, at| {
                let (memory, tokens) = sequence.memory_mut();
                let staged = Some((&self.model.rows.staged, at));
                self.prefixes.remember(&mut self.model.kv, memory, &tokens[..len], staged);
                sequence.remembered = len;
            };
            let marks = self.model.rows.marks().iter().filter(|(mark, _)| mark.run == number);
            marks.for_each(|(mark, at)| remember(mark.len, *at));
            if let Some(len) = last {
                remember(len, staged);
            }
            sequence.memory.commit(end, &self.model.rows.staged, staged);
            let count = wanted.of(*tokens);
            let (batch, guess) = (self.batches, *guess);
            sequence.results = Some(Results { batch, first, count, staged, guess });
            first += count + guess.len;
            self.stats.drafted += guess.len as u64;
        }
        self.write_logits(world.parallel, first.saturating_sub(self.results())..first);
        let cache = self.cache_stats().since(before);
        let time = world.clock.now() - start;
        if let [share] = &*shares
            && !is_prompt
        {
            self.costs.step(share.guess.len, time);
        }
        let phase = if is_prompt { &mut self.stats.prompt } else { &mut self.stats.decode };
        *phase = phase.plus(Phase { tokens, time, sampling: 0, cache });
        Ok(())
    }

    /// One batch for those of `sequences`, in order of arrival, that have pending tokens: the next
    /// tokens of answers, and as much of prompts as [`schedule::rows`] gives them. Those whose last token
    /// was computed then have [`Self::logits`].
    ///
    /// An answer that is the only one with something to compute is guessed on, see [`Self::guess`];
    /// beside others their rows are worth more.
    pub fn advance(
        &mut self,
        world: &mut World<'_, 'a>,
        sequences: &mut [&mut Sequence<'a>],
    ) -> Result<Advance, SequenceError> {
        let mut advance = Advance::default();
        let mut wishes = heapless::Vec::<Wish, MAX_RUNS>::new();
        let mut shares = heapless::Vec::<Share<'_, 'a>, MAX_RUNS>::new();
        let busy = sequences.iter().filter(|sequence| !sequence.pending().is_empty()).count();
        for (number, sequence) in sequences.iter_mut().enumerate() {
            self.reuse(sequence);
            let tokens = sequence.pending().len();
            let is_answer = sequence.sampled && tokens == 1;
            if tokens == 0 || shares.is_full() || self.waits(sequence, &mut shares) {
                continue;
            }
            // What it gets at most is reserved: who comes first may be who needs it less.
            if self.reserve(sequence, tokens.min(self.batch)).is_err() {
                advance.refused.get_or_insert(number);
                continue;
            }
            let guess = if busy == 1 { self.guess(sequence, usize::MAX) } else { Guess::default() };
            let tokens = tokens + guess.len;
            // Both have room, as was asked.
            let _ = wishes.push(Wish { tokens, is_answer });
            let _ = shares.push(Share { guess, ..Share::new(sequence, 0, Wanted::Nothing) });
        }
        for (share, rows) in shares.iter_mut().zip(schedule::rows(&wishes, self.batch)) {
            share.tokens = rows.saturating_sub(share.guess.len);
            if share.tokens == share.sequence.pending().len() {
                share.wanted = Wanted::Last;
            }
            advance.rows += rows;
        }
        shares.retain(|share| share.tokens > 0);
        if !shares.is_empty() {
            self.forward(world, &mut shares)?;
        }
        Ok(advance)
    }

    /// Computes logits of rows of the last batch whose results were wanted.
    fn write_logits(&mut self, parallel: &dyn Parallel, rows: Range<usize>) {
        let vocab = self.model.shape.vocab as usize;
        if !rows.is_empty() {
            let logits = &mut self.desk.logits[..rows.len() * vocab];
            self.model.logits(parallel, rows.clone(), logits);
        }
        self.written = rows;
    }

    /// Logits (vocab,) after the last token of a sequence; `None` when it has pending tokens, or its
    /// results were not wanted of the last batch: then its last token is to be computed again, see
    /// [`Self::uncompute_last`].
    pub fn logits(&mut self, parallel: &dyn Parallel, sequence: &Sequence<'a>) -> Option<&[f32]> {
        let place = self.logits_place(parallel, sequence)?;
        Some(&self.desk.logits[place])
    }

    /// Where on the desk the logits after the last token of a sequence are.
    fn logits_place(
        &mut self,
        parallel: &dyn Parallel,
        sequence: &Sequence<'a>,
    ) -> Option<Range<usize>> {
        let row = self.last_row(sequence)?;
        if !self.written.contains(&row) {
            self.write_logits(parallel, row..row + 1);
        }
        let vocab = self.model.shape.vocab as usize;
        let start = (row - self.written.start) * vocab;
        Some(start..start + vocab)
    }

    /// Whether there are [`Self::logits`] of a sequence.
    pub fn has_logits(&self, sequence: &Sequence<'a>) -> bool {
        self.last_row(sequence).is_some()
    }

    /// The row of the last batch that the logits after the last token of a sequence come from.
    fn last_row(&self, sequence: &Sequence<'a>) -> Option<usize> {
        let results = sequence.results.filter(|results| results.batch == self.batches);
        let results = results.filter(|_| sequence.pending().is_empty())?;
        (results.count > 0).then(|| results.first + results.count - 1)
    }

    /// Calls `each` with the logits (vocab,) of every token of a sequence whose results were wanted of
    /// the last batch, in order.
    pub fn each_logits(
        &mut self,
        parallel: &dyn Parallel,
        sequence: &Sequence<'a>,
        mut each: impl FnMut(&[f32]),
    ) {
        let vocab = self.model.shape.vocab as usize;
        let Some(results) = sequence.results.filter(|r| r.batch == self.batches) else { return };
        let end = results.first + results.count;
        for from in (results.first..end).step_by(self.results()) {
            let rows = from..end.min(from + self.results());
            self.write_logits(parallel, rows.clone());
            self.desk.logits.chunks_exact(vocab).take(rows.len()).for_each(&mut each);
        }
    }

    /// Sees to it that the last token of a sequence is pending, for its logits.
    pub fn uncompute_last(&mut self, sequence: &mut Sequence<'a>) {
        sequence.uncompute_last(&mut self.model.kv);
    }

    /// Adds `biases` to the logits of a sequence before each choice from now on, in the place of what was
    /// added before.
    pub fn set_biases(
        &self,
        sequence: &mut Sequence<'a>,
        biases: &[Bias],
    ) -> Result<(), SequenceError> {
        if let Some(bias) = biases.iter().find(|bias| bias.id >= self.model.shape.vocab) {
            return Err(SequenceError::Token(bias.id));
        }
        sequence.set_biases(biases)
    }

    /// Chooses the next token of a sequence from its [`Self::logits`]. Each call uses up a random
    /// number, unless the best token is always taken.
    pub fn sample(
        &mut self,
        world: &World<'_, 'a>,
        sequence: &mut Sequence<'a>,
    ) -> Result<u32, SequenceError> {
        Ok(self.sample_as(world, sequence, &Ask::default())?.id)
    }

    /// As [`Self::sample`], with a mask, or with log-probabilities. After an error no random number was
    /// used up.
    pub fn sample_as(
        &mut self,
        world: &World<'_, 'a>,
        sequence: &mut Sequence<'a>,
        ask: &Ask<'_>,
    ) -> Result<Sample, SequenceError> {
        let start = world.clock.now();
        let place = self.logits_place(world.parallel, sequence).ok_or(SequenceError::Empty)?;
        let Desk { logits, choice, marks, .. } = &mut self.desk;
        let logits = &logits[place];
        choice.copy_from_slice(logits);
        let chosen = sequence.choose(&self.chat.stops, ask.allowed, choice, marks);
        let sample = chosen.map(|id| {
            let logprobs = ask.logprobs.map(|best| Logprobs::of(logits, id, best));
            Sample { id, logprobs }
        });
        let sampling = world.clock.now() - start;
        let phase = Phase { time: sampling, sampling, ..Phase::default() };
        self.stats.decode = self.stats.decode.plus(phase);
        Ok(sample?)
    }

    /// Appends a token that was sampled, or chosen in the place of a sample. Where it was guessed, it
    /// is computed already, and [`Self::has_logits`] says so.
    pub fn accept(&mut self, sequence: &mut Sequence<'a>, id: u32) -> Result<Step, SequenceError> {
        if sequence.tokens().len() == sequence.context() {
            return Ok(Step::Full);
        }
        let results = sequence.results.take();
        let results = results.filter(|results| results.batch == self.batches);
        let results = results.filter(|_| sequence.pending().is_empty());
        let guessed = results.filter(|results| results.guess.len > 0);
        let guessed = guessed.map(|results| (results, sequence.guessed() == id));
        let begin = sequence.answer.unwrap_or(sequence.tokens().len());
        self.append(sequence, &[id])?;
        sequence.sampled = true;
        sequence.answer = Some(begin);
        sequence.trust.token();
        self.stats.decode.tokens += 1;
        if let Some((results, right)) = guessed {
            sequence.trust.compared(results.guess.level, right);
            if right {
                self.stats.accepted += 1;
                let end = sequence.tokens().len();
                sequence.memory.commit(end, &self.model.rows.staged, results.staged);
                let guess = Guess { len: results.guess.len - 1, ..results.guess };
                let count = results.count + 1;
                sequence.results = Some(Results { count, guess, ..results });
            }
        }
        if !self.chat.stops.contains(&id) {
            return Ok(Step::Token(id));
        }
        if let Some(conversation) = &self.conversation {
            sequence.place = conversation.place_after(id);
        }
        self.remember(sequence);
        Ok(Step::End(id))
    }

    /// Forgets a sequence and gives back its memory. Pages in RAM stay.
    pub fn reset(&mut self, sequence: &mut Sequence<'a>) {
        self.cut(sequence, 0);
        sequence.place = crate::chat::Place::Start;
    }

    /// Goes back to the first `len` tokens of a sequence. What can stay computed does; the rest is
    /// pending again.
    pub fn cut(&mut self, sequence: &mut Sequence<'a>, len: usize) {
        sequence.cut(&mut self.model.kv, len);
    }

    /// Goes back to where a sequence stood, as if nothing had come after; its random state is that of
    /// then where `random` says so. It still has the tokens that it had then.
    pub fn go_back(&mut self, sequence: &mut Sequence<'a>, to: &Bookmark, random: bool) {
        self.cut(sequence, to.len);
        sequence.place = to.place;
        if random {
            sequence.sampler = to.sampler.clone();
        }
    }

    /// Takes tokens out of a sequence, as if they had never been there; what follows them is pending
    /// again.
    pub fn remove(&mut self, sequence: &mut Sequence<'a>, range: Range<usize>) {
        sequence.remove(&mut self.model.kv, range);
    }

    /// Makes `to` a copy of `from`: keys and values are shared until one of them writes on.
    pub fn fork(&mut self, from: &Sequence<'a>, to: &mut Sequence<'a>) {
        to.copy_from(&mut self.model.kv, from);
    }

    /// Calls `each` with all memory that the computed tokens of a sequence have changed.
    pub(crate) fn visit_memory<E>(
        &mut self,
        sequence: &mut Sequence<'a>,
        each: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        sequence.memory.visit_from(&mut self.model.kv, 0, each)
    }

    /// As if the first `len` tokens of a sequence had been computed: then [`Self::visit_memory`] gives
    /// their memory.
    pub(crate) fn restore_memory(
        &mut self,
        sequence: &mut Sequence<'a>,
        len: usize,
    ) -> Result<(), SequenceError> {
        sequence.memory.rewind(&mut self.model.kv, 0);
        self.reserve(sequence, len)?;
        sequence.memory.restore(len);
        Ok(())
    }

    /// Reads on towards slots that are all full, for when nothing else is to be done: see
    /// [`Cache::warm`]. `false` when nothing is left to read, or no page may be read on a guess.
    pub fn warm(
        &mut self,
        world: &mut World<'_, 'a>,
        first: &[u32],
    ) -> Result<bool, SequenceError> {
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

    /// Most rows of a batch.
    pub const fn batch(&self) -> usize {
        self.batch
    }

    /// Most rows whose logits there is room for at once.
    fn results(&self) -> usize {
        self.desk.logits.len() / self.model.shape.vocab as usize
    }

    /// Blocks of keys and values that neither a sequence nor a known beginning has, of [`KV_BLOCK`](crate::kernels::KV_BLOCK) tokens
    /// each.
    pub const fn free_blocks(&self) -> usize {
        self.model.kv.free()
    }

    /// The tokenizer of the image.
    pub const fn tokenizer(&self) -> &Tokenizer<'a> {
        &self.tokenizer
    }

    /// How the image's model chats.
    pub const fn chat(&self) -> &Chat {
        &self.chat
    }

    /// The table of functions in use.
    pub const fn kernels(&self) -> &'static Kernels {
        self.model.kernels
    }

    /// How keys and values are kept.
    pub const fn kv_format(&self) -> KvFormat {
        self.model.kv.format()
    }

    /// Size of the vocabulary.
    pub const fn vocab(&self) -> u32 {
        self.model.shape.vocab
    }

    /// Where the time went so far.
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    fn cache_stats(&self) -> CacheStats {
        self.model.cache.as_ref().map(Cache::stats).unwrap_or_default()
    }
}

/// Takes note of tokens that an encoder wrote after a sequence.
fn wrote(
    sequence: &mut Sequence<'_>,
    written: Result<usize, ChatError>,
) -> Result<(), SequenceError> {
    match written {
        Ok(count) => {
            sequence.grow(count);
            Ok(())
        }
        Err(ChatError::Encode(EncodeError::Full { .. })) => Err(sequence.full(None)),
        Err(ChatError::Encode(error)) => Err(SequenceError::Text(error)),
        Err(ChatError::NoTokens) => Err(SequenceError::NoChat),
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
    let read = world.storage.read_patiently(span.offset, bytes);
    read.map_err(|error| ImageError::Storage(section, error))?;
    let bytes = &bytes[..len];
    if checksum(bytes) != span.checksum {
        return Err(ImageError::Checksum(section).into());
    }
    Ok(bytes)
}
