//! Bytes that a form leaves no choice of, as the tokens that a model would write them with.

use llguidance::toktrie::TokTrie;
use rill::engine::PIECE_BYTES;
use rill::tokenizer::{SCRATCH_WORDS_PER_BYTE, Tokenizer};

/// The tokens of forced bytes, up to where what comes after them could make them others: there the bytes
/// that are left leave more than one choice.
///
/// A control token is written as its marker and its number in brackets.
pub fn tokens(mut bytes: &[u8], tokenizer: &Tokenizer<'_>, trie: &TokTrie) -> Vec<u32> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        if let Some((id, rest)) = control(bytes) {
            all.push(id);
            bytes = rest;
            continue;
        }
        let marker = bytes.iter().position(|&byte| byte == TokTrie::SPECIAL_TOKEN_MARKER);
        let (text, rest) = bytes.split_at(marker.unwrap_or(bytes.len()));
        let left = of_text(text, tokenizer, trie, marker.is_none(), &mut all);
        if left > 0 {
            break;
        }
        bytes = rest;
    }
    all
}

/// The number of the control token that the bytes begin with, and what follows it.
fn control(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let [TokTrie::SPECIAL_TOKEN_MARKER, b'[', rest @ ..] = bytes else { return None };
    let end = rest.iter().position(|&byte| byte == b']')?;
    let id = str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    Some((id, &rest[end + 1..]))
}

/// Appends the tokens of a text to `all`; returns how many of its bytes are left. `open` says that anything
/// may follow.
fn of_text(
    text: &[u8],
    tokenizer: &Tokenizer<'_>,
    trie: &TokTrie,
    open: bool,
    all: &mut Vec<u32>,
) -> usize {
    // It may begin or end within a character.
    let whole = match str::from_utf8(text) {
        Ok(whole) => whole,
        Err(error) => str::from_utf8(&text[..error.valid_up_to()]).unwrap_or_default(),
    };
    let mut scratch = vec![0; whole.len().min(PIECE_BYTES) * SCRATCH_WORDS_PER_BYTE];
    let mut ids = vec![0; whole.len()];
    // A text that cannot be encoded is chosen byte by byte.
    let count = tokenizer.encode(whole, false, &mut scratch, &mut ids).unwrap_or(0);
    let mut left = text;
    for &id in &ids[..count] {
        let rest = left.strip_prefix(trie.token(id)).filter(|rest| rest.len() < left.len());
        let Some(rest) = rest else { break };
        if open && trie.has_extensions(left) {
            break;
        }
        all.push(id);
        left = rest;
    }
    left.len()
}
