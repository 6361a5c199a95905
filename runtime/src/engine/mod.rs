//! A loaded model that continues sequences.

mod batch;
mod choice;
mod load;
mod reuse;
mod room;
mod words;

use core::ops::Range;

pub use batch::{Advance, Share};
pub use choice::{Ask, Sample, Step};
pub use load::{LoadError, Options};

pub use crate::desk::PIECE_BYTES;
pub use crate::model::batch::{MAX_RUNS, Wanted};

use crate::chat::Conversation;
use crate::desk::Desk;
use crate::draft::Costs;
use crate::experts::{Cache, CacheStats, History, Rates};
use crate::image::Chat;
use crate::kernels::Kernels;
use crate::model::Model;
use crate::model::kv::KvFormat;
use crate::prefixes::Prefixes;
use crate::seams::World;
use crate::sequence::{Bookmark, Sequence, SequenceError};
use crate::stats::Stats;
use crate::tokenizer::Tokenizer;
use crate::turns::{Turn, Turns};

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
    /// Whether answers take turns.
    turns: Turns,
    pub(crate) stats: Stats,
}

impl<'a> Engine<'a> {
    /// Forgets a sequence and gives back its memory. Pages in RAM stay.
    pub fn reset(&mut self, sequence: &mut Sequence<'a>) {
        self.cut(sequence, 0);
        sequence.place = crate::chat::Place::Start;
        sequence.wants_every = false;
        sequence.turn = Turn::default();
        if let Some(cache) = &mut self.model.cache {
            cache.forget(sequence.voice);
        }
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

    /// The pages of which a part is on its way.
    pub fn arriving_pages(&self) -> impl Iterator<Item = u32> {
        self.model.cache.iter().flat_map(Cache::arriving)
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

    /// Blocks of keys and values that neither a sequence nor a known beginning has, of
    /// [`KV_BLOCK`](crate::kernels::KV_BLOCK) tokens each.
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
