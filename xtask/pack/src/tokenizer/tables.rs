//! Writing the tokenizer section, see `rill::tokenizer::tables`.

use std::collections::HashMap;

use rill::tokenizer::tables::{
    HEADER_WORDS, IGNORE_MERGES, NONE, VERSION, WHOLE_END, WHOLE_NUMBERS, find_slot, hash_bytes,
    hash_pair,
};

use super::{Token, Vocabulary};

impl Vocabulary {
    /// The image's tokenizer section.
    pub fn tables(&self) -> Vec<u8> {
        let no_token = Token { bytes: vec![], is_text: false };
        let tokens: Vec<&Token> =
            self.tokens.iter().map(|token| token.as_ref().unwrap_or(&no_token)).collect();
        let mut blob = vec![];
        let mut offsets = vec![0];
        for token in &tokens {
            blob.extend_from_slice(&token.bytes);
            offsets.push(blob.len() as u32);
        }
        let text = |id: u32| tokens[id as usize].bytes.as_slice();
        let texts: Vec<u32> =
            (0..self.len() as u32).filter(|&id| tokens[id as usize].is_text).collect();
        let token_slots = hashed(&texts, |id| hash_bytes(text(id).iter().copied()));
        let ranks: Vec<u32> = (0..self.merges.len() as u32).collect();
        let merge_slots = hashed(&ranks, |rank| {
            let [left, right, _] = self.merges[rank as usize];
            hash_pair(left, right)
        });
        let added = self.added_entries(&offsets, &mut blob);
        let mut special = vec![0; tokens.len().div_ceil(32)];
        for token in self.added.iter().filter(|token| token.is_special) {
            special[token.id as usize / 32] |= 1_u32 << (token.id % 32);
        }
        let flags = [
            (self.ignore_merges, IGNORE_MERGES),
            (self.variant.whole_numbers, WHOLE_NUMBERS),
            (self.variant.whole_end, WHOLE_END),
        ];
        let flags = flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum();
        let header = [
            VERSION,
            flags,
            self.bos.filter(|_| self.add_bos).unwrap_or(NONE),
            tokens.len() as u32,
            token_slots.len() as u32,
            self.merges.len() as u32,
            merge_slots.len() as u32,
            self.added.len() as u32,
            blob.len() as u32,
        ];
        let single: HashMap<u8, u32> = texts
            .iter()
            .filter_map(|&id| <[u8; 1]>::try_from(text(id)).ok().map(|[byte]| (byte, id)))
            .collect();
        let words = header
            .into_iter()
            .chain(std::iter::repeat_n(0, HEADER_WORDS - header.len()))
            .chain((0..=255).map(|byte| single.get(&byte).copied().unwrap_or(NONE)))
            .chain(offsets)
            .chain(special)
            .chain(token_slots)
            .chain(self.merges.iter().flatten().copied())
            .chain(merge_slots)
            .chain(added);
        words.flat_map(u32::to_le_bytes).chain(blob).collect()
    }

    /// Id, start and length of the added tokens; texts that differ from what their token decodes
    /// to are appended to the blob.
    fn added_entries(&self, offsets: &[u32], blob: &mut Vec<u8>) -> Vec<u32> {
        let mut entries = vec![];
        for token in &self.added {
            let text = token.text.as_bytes();
            let [mut start, end] = [0, 1].map(|i| offsets[token.id as usize + i] as usize);
            if &blob[start..end] != text {
                start = blob.len();
                blob.extend_from_slice(text);
            }
            entries.extend([token.id, start as u32, text.len() as u32]);
        }
        entries
    }
}

/// An open-addressed table of `values`, three quarters full.
fn hashed(values: &[u32], hash: impl Fn(u32) -> u32) -> Vec<u32> {
    let mut slots = vec![NONE; values.len() + values.len() / 3 + 1];
    for &value in values {
        let slot = find_slot(hash(value), slots.len(), |slot| slots[slot], |_| false);
        slots[slot] = value;
    }
    slots
}
