//! Keeping known beginnings elsewhere, the most useful first.
//!
//! Of each four numbers (u64): its tokens; the number of an earlier one, from 1 on, that has its first
//! blocks too, or 0; how many blocks these are; what it is worth beyond those that were given up. Then
//! of its other blocks the tokens (u32 each) and the keys and values, and the columns of the
//! convolutions. One of no tokens is the end. All in native byte order.

use core::cmp::Reverse;

use super::{Prefix, Prefixes, memory_worth};
use crate::kernels::KV_BLOCK;
use crate::model::kv::KvPool;
use crate::model::state::Memory;
use crate::saved::{SaveError, pass_over, read_tokens};

/// What stands before each.
#[derive(Debug, Clone, Copy, Default)]
struct Head {
    len: u64,
    /// Which earlier one has its first blocks, and how many.
    parent: Option<u64>,
    shared: u64,
    worth: u64,
}

impl Head {
    const BYTES: u64 = 32;

    fn to_words(self) -> [u64; 4] {
        [self.len, self.parent.map_or(0, |parent| parent + 1), self.shared, self.worth]
    }

    fn read<E>(read: &mut impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Self, SaveError<E>> {
        let mut words = [0; 4];
        read(bytemuck::bytes_of_mut(&mut words)).map_err(SaveError::Keeper)?;
        let [len, parent, shared, worth] = words;
        let head = Self { len, parent: parent.checked_sub(1), shared, worth };
        let is_right = if parent == 0 { shared == 0 } else { shared <= len / KV_BLOCK as u64 };
        is_right.then_some(head).ok_or(SaveError::Damaged)
    }

    /// Bytes of all that follows it; `None` for more than there can be.
    fn bytes(&self, pool: &KvPool<'_>, columns: usize) -> Option<u64> {
        let own = self.len - self.shared * KV_BLOCK as u64;
        let tokens = own.checked_mul(size_of::<u32>() as u64)?;
        tokens.checked_add(pool.visited_bytes(own)?)?.checked_add(columns as u64)
    }
}

impl Prefixes<'_> {
    /// Writes the most useful ones that take at most `most` bytes together. Says how many they are.
    pub(crate) fn save<E>(
        &mut self,
        pool: &mut KvPool<'_>,
        most: u64,
        write: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        self.known.iter_mut().for_each(|prefix| prefix.saved = None);
        let (mut left, mut count, mut before) = (most.saturating_sub(Head::BYTES), 0, None);
        while let Some(index) = self.next_useful(before) {
            before = Some(index);
            let head = self.head(index);
            let memory = &self.known[index].memory;
            let bytes = head.bytes(pool, memory.column_bytes());
            let bytes = bytes.and_then(|bytes| bytes.checked_add(Head::BYTES));
            let Some(rest) = bytes.and_then(|bytes| left.checked_sub(bytes)) else { continue };
            write(bytemuck::bytes_of(&head.to_words()))?;
            for (at, &block) in memory.table().iter().enumerate().skip(head.shared as usize) {
                let tokens = KV_BLOCK.min(memory.len() - at * KV_BLOCK);
                write(bytemuck::cast_slice(&pool.noted(block)[..tokens]))?;
            }
            let prefix = &mut self.known[index];
            prefix.memory.visit_from(pool, head.shared as usize, &mut |bytes| write(bytes))?;
            prefix.saved = Some(count);
            (left, count) = (rest, count + 1);
        }
        write(bytemuck::bytes_of(&Head::default().to_words()))?;
        Ok(count)
    }

    /// Takes back what [`Self::save`] wrote, beside what is known; what there is no room for is passed
    /// over. Token numbers are below `vocab`. Says how many were taken. After an error some may have
    /// been.
    pub(crate) fn restore<E>(
        &mut self,
        pool: &mut KvPool<'_>,
        vocab: u32,
        read: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<u64, SaveError<E>> {
        if self.known.is_empty() {
            return Ok(0);
        }
        self.known.iter_mut().for_each(|prefix| prefix.saved = None);
        let (mut taken, mut number) = (0, 0);
        loop {
            let head = Head::read(read)?;
            if head.len == 0 {
                return Ok(taken);
            }
            if head.parent.is_some_and(|parent| parent >= number) {
                return Err(SaveError::Damaged);
            }
            match self.place(pool, &head) {
                Some(index) => {
                    let filled = self.fill(pool, index, &head, vocab, read);
                    filled.inspect_err(|_| self.known[index].empty(pool))?;
                    self.known[index].saved = Some(number);
                    taken += 1;
                }
                None => self.pass_over(pool, &head, read)?,
            }
            number += 1;
        }
    }

    /// The one after number `index` in order of use, or the first.
    fn next_useful(&self, index: Option<usize>) -> Option<usize> {
        let order = |index: usize| (self.known[index].worth, index);
        let known = (0..self.known.len()).filter(|&one| !self.known[one].is_empty());
        let later = known.filter(|&one| index.is_none_or(|before| order(one) < order(before)));
        later.max_by_key(|&one| order(one))
    }

    /// What is written before number `index`.
    fn head(&self, index: usize) -> Head {
        let Prefix { memory, worth, .. } = &self.known[index];
        let earlier = self.known.iter().filter_map(|prefix| Some((prefix.saved?, &prefix.memory)));
        let shared = earlier.map(|(number, other)| (shared_blocks(memory, other), number));
        let shared = shared.max_by_key(|&(blocks, number)| (blocks, Reverse(number)));
        let shared = shared.filter(|&(blocks, _)| blocks > 0);
        Head {
            len: memory.len() as u64,
            parent: shared.map(|(_, number)| number),
            shared: shared.map_or(0, |(blocks, _)| blocks as u64),
            worth: worth.saturating_sub(self.floor),
        }
    }

    /// An empty one, with blocks for what follows `head`; `None` where there is no room, or where what
    /// it shares blocks with was passed over.
    fn place(&mut self, pool: &mut KvPool<'_>, head: &Head) -> Option<usize> {
        let len = usize::try_from(head.len).ok()?;
        let index = self.known.iter().position(Prefix::is_empty)?;
        if len > self.known[index].memory.most() {
            return None;
        }
        if let Some(parent) = head.parent {
            let parent = self.known.iter().position(|prefix| prefix.saved == Some(parent))?;
            let [parent, prefix] = self.known.get_disjoint_mut([parent, index]).ok()?;
            let blocks = usize::try_from(head.shared).ok()?;
            if blocks > parent.memory.len() / KV_BLOCK {
                return None;
            }
            prefix.memory.share_blocks(pool, &parent.memory, blocks);
        }
        let prefix = &mut self.known[index];
        if !prefix.memory.reserve(pool, len) {
            prefix.empty(pool);
            return None;
        }
        prefix.memory.restore(len);
        Some(index)
    }

    /// Reads what follows `head` into number `index`.
    fn fill<E>(
        &mut self,
        pool: &mut KvPool<'_>,
        index: usize,
        head: &Head,
        vocab: u32,
        read: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), SaveError<E>> {
        let Prefix { memory, worth, .. } = &mut self.known[index];
        for (at, &block) in memory.table().iter().enumerate().skip(head.shared as usize) {
            let tokens = KV_BLOCK.min(memory.len() - at * KV_BLOCK);
            read_tokens(&mut pool.noted_mut(block)[..tokens], vocab, read)?;
        }
        let visited = memory.visit_from(pool, head.shared as usize, read);
        visited.map_err(SaveError::Keeper)?;
        // Nothing is worth more than if it had to be computed whole.
        let most = memory_worth(pool, memory, 0);
        *worth = self.floor.saturating_add(head.worth.min(most));
        Ok(())
    }

    /// Reads what follows `head`, for nobody.
    fn pass_over<E>(
        &self,
        pool: &KvPool<'_>,
        head: &Head,
        read: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), SaveError<E>> {
        let columns = self.known.first().map_or(0, |prefix| prefix.memory.column_bytes());
        let bytes = head.bytes(pool, columns).ok_or(SaveError::Damaged)?;
        pass_over(bytes, read).map_err(SaveError::Keeper)
    }
}

/// Blocks that two begin with, each as a whole.
fn shared_blocks(one: &Memory<'_>, other: &Memory<'_>) -> usize {
    let whole = one.len().min(other.len()) / KV_BLOCK;
    let both = one.table().iter().zip(other.table());
    both.take(whole).take_while(|(one, other)| one == other).count()
}
