//! Conversations with a model, one at a time: an [`Engine`] and its [`Sequence`]s, one of which is
//! spoken with.

use core::ops::Range;

use crate::chat::Role;
use crate::engine::{Ask, Engine, LoadError, Options, Sample, Share, Step};
use crate::experts::{History, Rates};
use crate::image::{Chat, Image};
use crate::kernels::Kernels;
use crate::model::batch::Wanted;
use crate::model::kv::KvFormat;
use crate::plan::Plan;
use crate::sampler::{Bias, Settings};
use crate::saving::SaveError;
use crate::seams::{Serial, World};
use crate::sequence::{Bookmark, Sequence, SequenceError};
use crate::stats::Stats;
use crate::tokenizer::Tokenizer;

/// A loaded model with its sequences. What is said of *the* sequence goes for the one selected.
pub struct Session<'a> {
    engine: Engine<'a>,
    /// At least one.
    sequences: &'a mut [Sequence<'a>],
    /// The selected one.
    at: usize,
}

impl<'a> Session<'a> {
    /// Loads a model, see [`Engine::load`], and selects its first sequence.
    pub fn load(
        image: &Image,
        plan: &Plan,
        options: Options,
        arena: &'a mut [u8],
        world: &mut World<'_, 'a>,
    ) -> Result<Self, LoadError> {
        let (engine, sequences) = Engine::load(image, plan, options, arena, world)?;
        // A plan is for at least one conversation.
        if sequences.is_empty() {
            return Err(LoadError::Arena);
        }
        Ok(Self { engine, sequences, at: 0 })
    }

    /// How many sequences there are.
    pub fn conversations(&self) -> usize {
        self.sequences.len()
    }

    /// The number of the selected sequence.
    pub fn selected(&self) -> usize {
        self.at
    }

    /// Selects a sequence, from 0 on; says whether it is there. The others stay as they are.
    pub fn select(&mut self, number: usize) -> bool {
        let is_there = number < self.sequences.len();
        self.at = if is_there { number } else { self.at };
        is_there
    }

    /// Makes sequence `to` a copy of the selected one, which stays selected; says whether it is there
    /// and another one. Keys and values are shared until one of them writes on.
    #[must_use]
    pub fn fork(&mut self, to: usize) -> bool {
        let both = self.sequences.get_disjoint_mut([self.at, to]);
        both.is_ok_and(|[from, to]| {
            self.engine.fork(from, to);
            true
        })
    }

    /// The model and all sequences, for batches of several: see [`Engine::advance`].
    pub fn parts(&mut self) -> (&mut Engine<'a>, &mut [Sequence<'a>]) {
        (&mut self.engine, self.sequences)
    }

    /// Chooses the next tokens of the sequence from now on: the settings and the seed are new.
    pub fn set_sampling(&mut self, settings: Settings, seed: u64) {
        self.sequences[self.at].set_sampling(settings, seed);
    }

    /// Appends tokens to the sequence. They are computed by the next [`step`](Self::step).
    pub fn append(&mut self, tokens: &[u32]) -> Result<(), SequenceError> {
        self.engine.append(&mut self.sequences[self.at], tokens)
    }

    /// Appends raw text: see [`Engine::append_text`].
    pub fn append_text(&mut self, text: &str) -> Result<(), SequenceError> {
        self.engine.append_text(&mut self.sequences[self.at], text)
    }

    /// Appends raw text to the answer under way, as if the model had said it.
    pub fn append_to_answer(&mut self, text: &str) -> Result<(), SequenceError> {
        self.engine.append_to_answer(&mut self.sequences[self.at], text)
    }

    /// Appends a message of a conversation; nothing in it is taken for a control token.
    pub fn append_message(&mut self, role: Role, content: &str) -> Result<(), SequenceError> {
        self.engine.append_message(&mut self.sequences[self.at], role, content)
    }

    /// Begins an answer: the next steps are the assistant's.
    pub fn begin_answer(&mut self) -> Result<(), SequenceError> {
        self.engine.begin_answer(&mut self.sequences[self.at])
    }

    /// Computes tokens that were appended, up to a batch of them. Says whether some are left.
    ///
    /// [`step`](Self::step) does it by itself; a caller that wants to be able to stop within a
    /// long prompt calls this first. After an error the tokens are still to be computed.
    pub fn compute(&mut self, world: &mut World<'_, 'a>) -> Result<bool, SequenceError> {
        self.compute_batch(world, false)
    }

    /// As [`Self::compute`], but takes every token through the whole model, as if each were the
    /// last: for events of all layers. Meant for measuring.
    pub fn compute_every(&mut self, world: &mut World<'_, 'a>) -> Result<bool, SequenceError> {
        self.compute_batch(world, true)
    }

    fn compute_batch(
        &mut self,
        world: &mut World<'_, 'a>,
        every: bool,
    ) -> Result<bool, SequenceError> {
        if !every {
            self.engine.reuse(&mut self.sequences[self.at]);
        }
        let pending = self.sequences[self.at].pending().len();
        let tokens = pending.min(self.engine.batch());
        if tokens == 0 {
            return Ok(false);
        }
        let wanted = match (every, tokens == pending) {
            (true, _) => Wanted::Every,
            (false, true) => Wanted::Last,
            (false, false) => Wanted::Nothing,
        };
        let most = if every { 0 } else { usize::MAX };
        let guess = self.engine.guess(&mut self.sequences[self.at], most);
        loop {
            let share = Share { guess, ..Share::new(&mut self.sequences[self.at], tokens, wanted) };
            match self.engine.forward(world, &mut [share]) {
                Err(SequenceError::NoBlocks) if self.make_room(&[self.at]) => {}
                ended => return ended.map(|()| tokens < pending),
            }
        }
    }

    /// Has the sequence that was least lately served and is not in `busy` give up its keys and values, see
    /// [`Engine::park`]; says whether there was one.
    pub fn make_room(&mut self, busy: &[usize]) -> bool {
        let idle = self.sequences.iter_mut().enumerate();
        let idle =
            idle.filter(|(number, one)| !busy.contains(number) && !one.memory.table().is_empty());
        let least = idle.min_by_key(|(_, sequence)| sequence.served);
        least.is_some_and(|(_, sequence)| self.engine.park(sequence))
    }

    /// The next token: computes what was appended, samples, and appends the sample.
    pub fn step(&mut self, world: &mut World<'_, 'a>) -> Result<Step, SequenceError> {
        match self.choose(world, &Ask::default())? {
            Some(sample) => self.accept(sample.id),
            None => Ok(Step::Full),
        }
    }

    /// Sees to it that there are logits after the last token, or that it is pending for them.
    pub fn want_logits(&mut self) {
        let sequence = &mut self.sequences[self.at];
        if sequence.pending().is_empty() && !self.engine.has_logits(sequence) {
            self.engine.uncompute_last(sequence);
        }
    }

    /// Whether the next token can be chosen: nothing is left to compute before it.
    pub fn can_choose(&self) -> bool {
        self.engine.has_logits(&self.sequences[self.at])
    }

    /// The first half of a step: computes what was appended, and samples as is asked; `None` when the
    /// context is full. [`Self::accept`] is the other half.
    pub fn choose(
        &mut self,
        world: &mut World<'_, 'a>,
        ask: &Ask<'_>,
    ) -> Result<Option<Sample>, SequenceError> {
        if self.tokens().is_empty() {
            return Err(SequenceError::Empty);
        }
        if self.tokens().len() == self.context() {
            return Ok(None);
        }
        self.want_logits();
        while self.compute(world)? {}
        self.engine.sample_as(world, &mut self.sequences[self.at], ask).map(Some)
    }

    /// Appends a token that was chosen in the place of a sample; see [`Engine::accept`].
    pub fn accept(&mut self, id: u32) -> Result<Step, SequenceError> {
        self.engine.accept(&mut self.sequences[self.at], id)
    }

    /// Adds `biases` to the logits before each choice from now on; see [`Engine::set_biases`].
    pub fn set_biases(&mut self, biases: &[Bias]) -> Result<(), SequenceError> {
        self.engine.set_biases(&mut self.sequences[self.at], biases)
    }

    /// Computes all that was appended as [`Self::compute_every`] does, and calls `each` with the logits
    /// (vocab,) after each token, in order. An error of its ends it after the batch.
    pub fn each_logits<E: From<SequenceError>>(
        &mut self,
        world: &mut World<'_, 'a>,
        mut each: impl FnMut(&[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let more = self.compute_every(world)?;
            let mut taken = Ok(());
            self.engine.each_logits(world.parallel, &self.sequences[self.at], |logits| {
                if taken.is_ok() {
                    taken = each(logits);
                }
            });
            taken?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Logits (vocab,) after the last token that was computed, when nothing is left to compute; none
    /// else.
    pub fn logits(&mut self) -> &[f32] {
        // They were written with the last batch: nothing is left to compute.
        self.engine.logits(&Serial, &self.sequences[self.at]).unwrap_or_default()
    }

    /// Forgets the sequence. Pages in RAM stay.
    pub fn reset(&mut self) {
        self.engine.reset(&mut self.sequences[self.at]);
    }

    /// Forgets what was computed before, of this sequence and others; see [`Engine::forget`].
    pub fn forget(&mut self) {
        self.engine.forget();
    }

    /// Goes back to the first `len` tokens; see [`Engine::cut`].
    pub fn cut(&mut self, len: usize) {
        self.engine.cut(&mut self.sequences[self.at], len);
    }

    /// Where the sequence stands, to go back there.
    pub fn bookmark(&self) -> Bookmark {
        self.sequences[self.at].bookmark()
    }

    /// Goes back to where the sequence stood; see [`Engine::go_back`].
    pub fn go_back(&mut self, to: &Bookmark, random: bool) {
        self.engine.go_back(&mut self.sequences[self.at], to, random);
    }

    /// Takes tokens out of the sequence; see [`Engine::remove`].
    pub fn remove(&mut self, range: Range<usize>) {
        self.engine.remove(&mut self.sequences[self.at], range);
    }

    /// Reads on towards slots that are all full: see [`Engine::warm`].
    pub fn warm(
        &mut self,
        world: &mut World<'_, 'a>,
        first: &[u32],
    ) -> Result<bool, SequenceError> {
        self.engine.warm(world, first)
    }

    /// The pages that are in RAM.
    pub fn resident_pages(&self) -> impl Iterator<Item = u32> {
        self.engine.resident_pages()
    }

    /// What is known of every page's uses; `None` for a dense model.
    pub fn history(&self) -> Option<&History<'a>> {
        self.engine.history()
    }

    /// Takes over what another run found out about `page`.
    pub fn recall(&mut self, page: u32, rates: Rates) {
        self.engine.recall(page, rates);
    }

    /// Writes the sequence and all that the model remembers of it: see [`Engine::save`].
    pub fn save<E>(&mut self, write: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.engine.save(&mut self.sequences[self.at], write)
    }

    /// Whether [`Self::restore`] could take what `read` gives: see [`Engine::check_saved`].
    pub fn check_saved<E>(
        &self,
        read: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), SaveError<E>> {
        self.engine.check_saved(&self.sequences[self.at], read)
    }

    /// Takes the place of what [`Self::save`] wrote: see [`Engine::restore`].
    pub fn restore<E>(
        &mut self,
        read: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), SaveError<E>> {
        self.engine.restore(&mut self.sequences[self.at], read)
    }

    /// The sequence: what was appended and what was sampled.
    pub fn tokens(&self) -> &[u32] {
        self.sequences[self.at].tokens()
    }

    /// Most tokens of the sequence.
    pub fn context(&self) -> usize {
        self.sequences[self.at].context()
    }

    /// The tokenizer of the image.
    pub fn tokenizer(&self) -> &Tokenizer<'a> {
        self.engine.tokenizer()
    }

    /// How the image's model chats.
    pub fn chat(&self) -> &Chat {
        self.engine.chat()
    }

    /// The table of functions in use.
    pub fn kernels(&self) -> &'static Kernels {
        self.engine.kernels()
    }

    /// How keys and values are kept.
    pub fn kv_format(&self) -> KvFormat {
        self.engine.kv_format()
    }

    /// Where the time went so far.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }
}
