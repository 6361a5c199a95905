//! The bytes of the tokenizer section, read in place.
//!
//! All integers are little-endian `u32`; the parts follow each other without gaps:
//!
//! | words | content |
//! |---|---|
//! | 16 | header, see below |
//! | 256 | id of the token of each single byte; `NONE` for bytes that UTF-8 does not use, if the model lacks them |
//! | tokens + 1 | where each token's bytes start in the blob; the last entry is the end of the last token. An empty token is a hole in the numbering |
//! | tokens / 32, rounded up | bit `id % 32` of word `id / 32`: `id` is a control token |
//! | token slots | hash table from bytes to id, see [`find_slot`]; `NONE` is an empty slot. Holds the tokens that merging or a whole-piece match may give |
//! | 3 x merges | left id, right id, merged id, in order of rank |
//! | merge slots | hash table from (left, right) to rank |
//! | 3 x added | id, start and length in the blob of an added token's text, sorted by text |
//! | | the blob: bytes of the tokens in order of id, then texts of added tokens |
//!
//! The header:
//!
//! | word | content |
//! |---|---|
//! | 0 | [`VERSION`] |
//! | 1 | flags: bit 0: a piece that is a token is not merged (`ignore_merges`); bit 1: numbers stay |
//! | | whole; bit 2: white space at the end of a text stays whole (see [`Variant`]) |
//! | 2 | token that begins every sequence, or `NONE` |
//! | 3 | tokens |
//! | 4 | token slots |
//! | 5 | merges |
//! | 6 | merge slots |
//! | 7 | added tokens |
//! | 8 | bytes of the blob |
//! | 9..16 | zero |
//!
//! An added token's text is what stands for it in a prompt; the bytes it decodes to are nearly
//! always the same and are then stored once.

use super::split::Variant;

/// Version of the section.
pub const VERSION: u32 = 1;
/// Words of the header.
pub const HEADER_WORDS: usize = 16;
/// Header flag: a piece that is a token as a whole is not merged.
pub const IGNORE_MERGES: u32 = 1;
/// Header flag of [`Variant::whole_numbers`].
pub const WHOLE_NUMBERS: u32 = 2;
/// Header flag of [`Variant::whole_end`].
pub const WHOLE_END: u32 = 4;
/// No token, no rank.
pub const NONE: u32 = u32::MAX;
/// Words of a merge.
pub const MERGE_WORDS: usize = 3;
/// Words of an added token.
pub const ADDED_WORDS: usize = 3;

/// Longest run of slots without an empty one. In tables as they are packed, three quarters full, a
/// run grows by a slot with a probability of e^-0.038 (Knuth, TAOCP 6.4): of a million tokens the
/// longest has some 400. A table with longer ones was made to be slow.
const LONGEST_RUN: usize = 2048;

/// What is wrong with a tokenizer section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum TablesError {
    /// This code does not read this version.
    Version(u32),
    /// The section is not as long as its header says.
    Length,
    /// There are more tokens than the embedding has rows.
    Vocabulary {
        /// Tokens of the tables.
        tokens: u32,
        /// Rows of the embedding.
        rows: u32,
    },
    /// This part has a value that nothing can have.
    Part(&'static str),
}

impl core::fmt::Display for TablesError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Version(found) => write!(
                f,
                "the tokenizer tables have version {found}, this program reads {VERSION}; \
                 pack the model again"
            ),
            Self::Length => write!(f, "the tokenizer tables are cut; copy or pack the image again"),
            Self::Vocabulary { tokens, rows } => write!(
                f,
                "the tokenizer has {tokens} tokens, the model only {rows}; \
                 pack the model with its own tokenizer"
            ),
            Self::Part(name) => {
                write!(f, "the tokenizer's {name} are inconsistent; pack the model again")
            }
        }
    }
}

impl core::error::Error for TablesError {}

/// Hash of a token's bytes: FNV-1a.
pub fn hash_bytes(bytes: impl Iterator<Item = u8>) -> u32 {
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    spread(hash)
}

/// Hash of a pair of ids.
pub fn hash_pair(left: u32, right: u32) -> u32 {
    spread(u64::from(left) << 32 | u64::from(right))
}

/// The first slot, from the hash's own on and around, that is empty or of which `is_it` holds.
///
/// There must be an empty slot. Both packing and lookup use this, so they agree on the order.
pub fn find_slot(
    hash: u32,
    slots: usize,
    read: impl Fn(usize) -> u32,
    is_it: impl Fn(u32) -> bool,
) -> usize {
    let mut slot = ((u64::from(hash) * slots as u64) >> 32) as usize;
    loop {
        let value = read(slot);
        if value == NONE || is_it(value) {
            return slot;
        }
        slot = if slot + 1 == slots { 0 } else { slot + 1 };
    }
}

/// Multiplicative hashing (Knuth, TAOCP 6.4), after folding the halves together.
fn spread(key: u64) -> u32 {
    let key = (key ^ key >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((key ^ key >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as u32
}

/// The parts of a section, checked.
#[derive(Debug, Clone)]
pub(super) struct Tables<'t> {
    flags: u32,
    bos: u32,
    bytes: Words<'t>,
    offsets: Words<'t>,
    special: Words<'t>,
    token_slots: Words<'t>,
    merges: Words<'t>,
    merge_slots: Words<'t>,
    added: Words<'t>,
    blob: &'t [u8],
    /// Bit `byte`: an added token begins with this byte.
    added_first: [u32; 8],
}

impl<'t> Tables<'t> {
    pub(super) fn parse(section: &'t [u8], vocab: u32) -> Result<Self, TablesError> {
        let (words, tail) = section.as_chunks::<4>();
        let mut rest = Words(words);
        let header = rest.take(HEADER_WORDS)?;
        if header.get(0) != VERSION {
            return Err(TablesError::Version(header.get(0)));
        }
        let (flags, bos) = (header.get(1), header.get(2));
        let [tokens, token_slots, merges, merge_slots, added, blob] =
            [3, 4, 5, 6, 7, 8].map(|word| header.get(word) as usize);
        let unused = (9..HEADER_WORDS).any(|word| header.get(word) != 0);
        let known = IGNORE_MERGES | WHOLE_NUMBERS | WHOLE_END;
        good("flags", flags & !known == 0 && !unused)?;
        if tokens as u64 > u64::from(vocab) {
            return Err(TablesError::Vocabulary { tokens: tokens as u32, rows: vocab });
        }
        let times = |count: usize, each| count.checked_mul(each).ok_or(TablesError::Length);
        let mut tables = Self {
            flags,
            bos,
            bytes: rest.take(256)?,
            offsets: rest.take(times(tokens, 1)? + 1)?,
            special: rest.take(tokens.div_ceil(32))?,
            token_slots: rest.take(token_slots)?,
            merges: rest.take(times(merges, MERGE_WORDS)?)?,
            merge_slots: rest.take(merge_slots)?,
            added: rest.take(times(added, ADDED_WORDS)?)?,
            blob: &[],
            added_first: [0; 8],
        };
        if rest.0.len() * 4 + tail.len() != blob {
            return Err(TablesError::Length);
        }
        tables.blob = &section[section.len() - blob..];
        tables.check()?;
        tables.added_first = tables.first_bytes();
        Ok(tables)
    }

    fn check(&self) -> Result<(), TablesError> {
        let tokens = self.len() as u32;
        let below = |words: Words<'_>, bound: u32| words.iter().all(|id| id < bound || id == NONE);
        good("begin token", self.bos == NONE || self.bos < tokens)?;
        good("bytes", below(self.bytes, tokens))?;
        // UTF-8 never uses 0xc0, 0xc1 and what follows 0xf4 (RFC 3629).
        let used = (0..=0xf4).filter(|byte| !matches!(byte, 0xc0 | 0xc1));
        good("bytes", used.into_iter().all(|byte| self.bytes.get(byte) != NONE))?;
        let mut last = 0;
        for offset in self.offsets.iter() {
            good("offsets", offset >= last && offset as usize <= self.blob.len())?;
            last = offset;
        }
        good("token slots", is_hash_table(self.token_slots, tokens))?;
        good("merges", self.merges.iter().all(|id| id < tokens))?;
        let merges = (self.merges.len() / MERGE_WORDS) as u32;
        good("merge slots", is_hash_table(self.merge_slots, merges))?;
        let mut before: &[u8] = &[];
        for index in 0..self.added_len() {
            let [id, start, len] = self.added_entry(index).map(|word| word as usize);
            let text = start.checked_add(len).and_then(|end| self.blob.get(start..end));
            let text = text.ok_or(TablesError::Part("added tokens"))?;
            let is_text = core::str::from_utf8(text).is_ok();
            good("added tokens", id < tokens as usize && is_text && text > before)?;
            before = text;
        }
        Ok(())
    }

    fn first_bytes(&self) -> [u32; 8] {
        let mut set = [0; 8];
        for first in (0..self.added_len()).filter_map(|index| self.added_text(index).first()) {
            set[usize::from(first / 32)] |= 1 << (first % 32);
        }
        set
    }

    pub(super) fn ignore_merges(&self) -> bool {
        self.flags & IGNORE_MERGES != 0
    }

    pub(super) fn variant(&self) -> Variant {
        Variant {
            whole_numbers: self.flags & WHOLE_NUMBERS != 0,
            whole_end: self.flags & WHOLE_END != 0,
        }
    }

    pub(super) fn bos(&self) -> Option<u32> {
        (self.bos != NONE).then_some(self.bos)
    }

    pub(super) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(super) fn piece(&self, id: u32) -> &'t [u8] {
        let at = id as usize;
        if at >= self.len() {
            return &[];
        }
        &self.blob[self.offsets.get(at) as usize..self.offsets.get(at + 1) as usize]
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        (id as usize) < self.len() && self.special.get(id as usize / 32) >> (id % 32) & 1 != 0
    }

    pub(super) fn byte_id(&self, byte: u8) -> u32 {
        self.bytes.get(byte.into())
    }

    /// The token of these `len` bytes that merging or a whole-piece match may give.
    pub(super) fn find(&self, len: usize, bytes: impl Iterator<Item = u8> + Clone) -> Option<u32> {
        let is_it = |id: u32| {
            let piece = self.piece(id);
            piece.len() == len && piece.iter().copied().eq(bytes.clone())
        };
        lookup(self.token_slots, hash_bytes(bytes.clone()), is_it)
    }

    /// Rank of merging two tokens and the token they become.
    pub(super) fn merge(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let is_it = |rank: u32| {
            let at = rank as usize * MERGE_WORDS;
            self.merges.get(at) == left && self.merges.get(at + 1) == right
        };
        let rank = lookup(self.merge_slots, hash_pair(left, right), is_it)?;
        Some((rank, self.merges.get(rank as usize * MERGE_WORDS + 2)))
    }

    /// Whether an added token begins with this byte.
    pub(super) fn begins_added(&self, byte: u8) -> bool {
        self.added_first[usize::from(byte / 32)] >> (byte % 32) & 1 != 0
    }

    /// The longest added token that `bytes` begins with, and its length.
    pub(super) fn longest_added(&self, bytes: impl Iterator<Item = u8>) -> Option<(u32, usize)> {
        // Entries `low..high` begin with the bytes seen so far; the shortest of them comes first.
        let (mut low, mut high) = (0, self.added_len());
        let mut longest = None;
        for (depth, byte) in bytes.enumerate() {
            let next = |index| self.added_text(index).get(depth).copied();
            low = partition(low, high, |index| next(index) < Some(byte));
            high = partition(low, high, |index| next(index) <= Some(byte));
            if low == high {
                break;
            }
            if self.added_text(low).len() == depth + 1 {
                longest = Some((self.added_entry(low)[0], depth + 1));
            }
        }
        longest
    }

    /// The added token with this text.
    pub(super) fn added_id(&self, text: &[u8]) -> Option<u32> {
        let (id, len) = self.longest_added(text.iter().copied())?;
        (len == text.len()).then_some(id)
    }

    fn added_len(&self) -> usize {
        self.added.len() / ADDED_WORDS
    }

    /// Id, start, length.
    fn added_entry(&self, index: usize) -> [u32; ADDED_WORDS] {
        core::array::from_fn(|word| self.added.get(index * ADDED_WORDS + word))
    }

    fn added_text(&self, index: usize) -> &'t [u8] {
        let [_, start, len] = self.added_entry(index).map(|word| word as usize);
        &self.blob[start..start + len]
    }
}

/// Little-endian words at any alignment.
#[derive(Debug, Clone, Copy)]
struct Words<'t>(&'t [[u8; 4]]);

impl<'t> Words<'t> {
    fn take(&mut self, count: usize) -> Result<Self, TablesError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(TablesError::Length)?;
        self.0 = rest;
        Ok(Self(taken))
    }

    fn len(self) -> usize {
        self.0.len()
    }

    fn get(self, index: usize) -> u32 {
        u32::from_le_bytes(self.0[index])
    }

    fn iter(self) -> impl Iterator<Item = u32> + 't {
        self.0.iter().map(|&word| u32::from_le_bytes(word))
    }
}

/// Whether every look into a hash table ends, and soon: values are below `bound`.
fn is_hash_table(slots: Words<'_>, bound: u32) -> bool {
    let (mut run, mut has_empty) = (0, false);
    for value in slots.iter() {
        run = if value == NONE { 0 } else { run + 1 };
        has_empty |= value == NONE;
        if value >= bound && value != NONE || run > LONGEST_RUN {
            return false;
        }
    }
    has_empty
}

fn lookup(slots: Words<'_>, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
    let slot = find_slot(hash, slots.len(), |slot| slots.get(slot), is_it);
    let value = slots.get(slot);
    (value != NONE).then_some(value)
}

/// The first index in `low..high` for which `test` is false; it is true for those before.
fn partition(mut low: usize, mut high: usize, test: impl Fn(usize) -> bool) -> usize {
    while low < high {
        let middle = low + (high - low) / 2;
        if test(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

fn good(name: &'static str, is_good: bool) -> Result<(), TablesError> {
    if is_good { Ok(()) } else { Err(TablesError::Part(name)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_table_has_gaps_and_no_long_runs() {
        let check = |slots: &[u32]| {
            let bytes: Vec<_> = slots.iter().map(|slot| slot.to_le_bytes()).collect();
            is_hash_table(Words(&bytes), 10)
        };
        let mut slots = vec![9; 2 * LONGEST_RUN + 1];
        assert!(!check(&slots));
        slots[LONGEST_RUN + 1] = NONE;
        assert!(!check(&slots));
        slots.swap(LONGEST_RUN, LONGEST_RUN + 1);
        assert!(check(&slots));
        slots[0] = 10;
        assert!(!check(&slots));
        assert!(!check(&[]));
    }
}
