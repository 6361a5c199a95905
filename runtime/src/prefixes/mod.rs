//! Beginnings of sequences that were computed before: a sequence that begins alike takes one over and
//! computes only what follows.
//!
//! The longest known beginning is compared token by token, so what is taken over is exactly what would
//! be computed. The blocks of keys and values are shared with whoever has them, the columns of the
//! convolutions are a copy. Blocks that sequences want are given up for them, and so is the least
//! useful beginning for a new one: by GreedyDual-Size (Cao and Irani, "Cost-Aware WWW Proxy Caching
//! Algorithms", 1997), where the cost is the tokens that would have to be computed again.

mod saving;

use crate::arena::{Arena, ArenaFull};
use crate::image::Manifest;
use crate::kernels::KV_BLOCK;
use crate::model::kv::KvPool;
use crate::model::state::{Columns, Memory, Staged, window};

/// All known beginnings.
#[derive(Debug)]
pub struct Prefixes<'a> {
    /// Empty ones have no positions.
    known: &'a mut [Prefix<'a>],
    /// What the last one that was given up was worth: those that come later are worth so much more.
    floor: u64,
    /// How many were remembered so far, of which nothing was known before.
    remembered: u64,
}

#[derive(Debug)]
struct Prefix<'a> {
    memory: Memory<'a>,
    /// By it the least useful is found.
    worth: u64,
    /// Its number among those that were saved, or taken back, last.
    saved: Option<u64>,
}

impl<'a> Prefixes<'a> {
    /// Bytes of `count` beginnings of up to `context` tokens, without keys and values.
    pub fn bytes(manifest: &Manifest, context: usize, count: usize) -> usize {
        Arena::cost::<Prefix<'_>>(count)
            + count * Memory::bytes(manifest, context, window(manifest))
    }

    /// Takes its memory.
    pub fn new(
        manifest: &Manifest,
        context: usize,
        count: usize,
        arena: &mut Arena<'a>,
    ) -> Result<Self, ArenaFull> {
        let mut list = arena.section(Arena::cost::<Prefix<'_>>(count), 1)?;
        let known = list.build(count, |_| {
            let memory = Memory::new(manifest, context, window(manifest), arena)?;
            Ok(Prefix { memory, worth: 0, saved: None })
        })?;
        Ok(Self { known, floor: 0, remembered: 0 })
    }

    /// Most beginnings.
    pub const fn room(&self) -> usize {
        self.known.len()
    }

    /// How many were remembered so far: another number when there is something new to save.
    pub const fn remembered(&self) -> u64 {
        self.remembered
    }

    /// Makes `memory` the longest known beginning of `tokens` that leaves at least one of them to be
    /// computed, if it is longer than what `memory` is. Says how many tokens longer.
    pub fn take(
        &mut self,
        pool: &mut KvPool<'_>,
        memory: &mut Memory<'_>,
        tokens: &[u32],
    ) -> usize {
        let most = tokens.len().saturating_sub(1);
        let before = memory.len();
        let Some(index) = self.longest(pool, tokens, most) else { return 0 };
        let len = self.known[index].memory.len();
        if len <= before {
            return 0;
        }
        self.known[index].worth = self.worth(pool, index, tokens);
        memory.copy_from(pool, &self.known[index].memory, len, None);
        len - before
    }

    /// Remembers the first `len` positions of `memory`, whose tokens are `tokens`, at least one. Columns
    /// that `memory` does not count yet are `staged`.
    pub fn remember(
        &mut self,
        pool: &mut KvPool<'_>,
        memory: &Memory<'_>,
        tokens: &[u32],
        staged: Option<(&Columns<'_>, Staged)>,
    ) {
        let len = tokens.len();
        let known = self.longest(pool, tokens, len);
        let known = known.filter(|&index| self.known[index].memory.len() == len);
        let index = match known.or_else(|| self.known.iter().position(Prefix::is_empty)) {
            Some(index) => index,
            None => match self.least() {
                Some(index) => {
                    self.give_up(pool, index);
                    index
                }
                None => return,
            },
        };
        if self.known[index].is_empty() {
            pool.note(memory.table(), tokens);
            self.known[index].memory.copy_from(pool, memory, len, staged);
            self.remembered += 1;
        }
        self.known[index].worth = self.worth(pool, index, tokens);
    }

    /// Gives up the beginning that is worth least, for its blocks; one that frees none only where none
    /// does. `false` when nothing is known any more.
    pub fn shrink(&mut self, pool: &mut KvPool<'_>) -> bool {
        let frees =
            |prefix: &Prefix<'_>| prefix.memory.table().iter().any(|&block| pool.is_sole(block));
        let freeing = self.by_worth(|prefix| frees(prefix));
        let Some(index) = freeing.or_else(|| self.least()) else { return false };
        self.give_up(pool, index);
        true
    }

    /// The blocks of each.
    pub fn tables(&self) -> impl Iterator<Item = &[u32]> + Clone {
        self.known.iter().map(|prefix| prefix.memory.table())
    }

    /// Gives up all of them.
    pub fn clear(&mut self, pool: &mut KvPool<'_>) {
        while self.shrink(pool) {}
    }

    /// How many of `tokens` a known beginning begins with too, however it goes on.
    pub fn shared(&self, pool: &KvPool<'_>, tokens: &[u32]) -> usize {
        let common = |memory: &Memory<'_>| pool.common(memory.table(), tokens).min(memory.len());
        self.known.iter().map(|one| common(&one.memory)).max().unwrap_or(0)
    }

    /// The longest beginning of at most `most` tokens that `tokens` begin with.
    fn longest(&self, pool: &KvPool<'_>, tokens: &[u32], most: usize) -> Option<usize> {
        let is_beginning = |memory: &Memory<'_>| {
            (1..=most).contains(&memory.len())
                && pool.holds(memory.table(), &tokens[..memory.len()])
        };
        let fitting = self.known.iter().enumerate().filter(|(_, one)| is_beginning(&one.memory));
        fitting.max_by_key(|(_, one)| one.memory.len()).map(|(index, _)| index)
    }

    /// What number `index`, which is of the first of `tokens`, is worth now, on top of the floor.
    fn worth(&self, pool: &KvPool<'_>, index: usize, tokens: &[u32]) -> u64 {
        let memory = &self.known[index].memory;
        let parent = self.longest(pool, tokens, memory.len() - 1);
        let parent = parent.map_or(0, |parent| self.known[parent].memory.len());
        self.floor.saturating_add(memory_worth(pool, memory, parent))
    }

    fn least(&self) -> Option<usize> {
        self.by_worth(|_| true)
    }

    /// The one that is worth least of those that `may` be given up.
    fn by_worth(&self, may: impl Fn(&Prefix<'_>) -> bool) -> Option<usize> {
        let all = self.known.iter().enumerate();
        let known = all.filter(|(_, prefix)| !prefix.is_empty() && may(prefix));
        known.min_by_key(|(_, prefix)| prefix.worth).map(|(index, _)| index)
    }

    fn give_up(&mut self, pool: &mut KvPool<'_>, index: usize) {
        let prefix = &mut self.known[index];
        self.floor = self.floor.max(prefix.worth);
        prefix.empty(pool);
    }
}

impl Prefix<'_> {
    const fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    fn empty(&mut self, pool: &mut KvPool<'_>) {
        self.memory.rewind(pool, 0);
        self.saved = None;
    }
}

/// 2^32 for each token that would have to be computed without this memory and each byte that it alone
/// takes, where its first `parent` tokens are known without it.
fn memory_worth(pool: &KvPool<'_>, memory: &Memory<'_>, parent: usize) -> u64 {
    let blocks = memory.table().len() - parent / KV_BLOCK;
    let bytes = blocks * pool.block_bytes() + memory.column_bytes();
    (((memory.len() - parent) as u64) << 32) / bytes.max(1) as u64
}
