//! Whether it makes a difference that a piece of text that is a token is not merged.
//!
//! `tokenizer.json` says whether it is (`ignore_merges`); a GGUF file names a family of tokenizers that
//! all do it. For most tokenizers both come to the same, and then images should be the same.

use std::collections::HashMap;

use rill::tokenizer::bpe::{SCRATCH_WORDS_PER_BYTE, merge};

use super::Token;

/// Most bytes of tokens that are merged to find out: several times those of the largest vocabularies.
/// Of tokenizers with more, it counts what the file says.
const BYTES_MOST: usize = 8 << 20;

/// Whether a text that is a token may merge into anything else than that token.
pub fn matters(tokens: &[Option<Token>], merges: &[[u32; 3]]) -> bool {
    let texts = || (0..).zip(tokens).filter_map(|(id, token)| Some((id, token.as_ref()?)));
    // A piece is whole characters: other tokens are never a piece.
    let pieces =
        || texts().filter(|(_, token)| token.is_text && std::str::from_utf8(&token.bytes).is_ok());
    if pieces().map(|(_, token)| token.bytes.len()).sum::<usize>() > BYTES_MOST {
        return true;
    }
    let single: HashMap<u8, u32> = texts()
        .filter(|(_, token)| token.is_text)
        .filter_map(|(id, token)| Some((*token.bytes.first_chunk::<1>()?, id, token.bytes.len())))
        .filter(|(.., len)| *len == 1)
        .map(|([byte], id, _)| (byte, id))
        .collect();
    let ranks: HashMap<[u32; 2], (u32, u32)> =
        (0..).zip(merges).map(|(rank, &[left, right, to])| ([left, right], (rank, to))).collect();
    let mut scratch = Vec::new();
    pieces().any(|(id, token)| {
        let len = token.bytes.len();
        scratch.resize(scratch.len().max(len * SCRATCH_WORDS_PER_BYTE), 0);
        // Text has no other bytes than those that have a token.
        let ids = token.bytes.iter().map(|byte| single.get(byte).copied().unwrap_or(u32::MAX));
        let lookup = |left, right| ranks.get(&[left, right]).copied();
        let other = |merged| if merged == id { Ok(()) } else { Err(()) };
        merge(ids, len, &mut scratch, lookup, other).is_err()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(bytes: &[u8]) -> Option<Token> {
        Some(Token { bytes: bytes.to_vec(), is_text: true })
    }

    #[test]
    fn it_matters_where_a_text_merges_into_other_tokens() {
        let abc =
            [token(b"a"), token(b"b"), token(b"c"), token(b"ab"), token(b"bc"), token(b"abc")];
        let merges = [[0, 1, 3], [3, 2, 5], [1, 2, 4]];
        assert!(!matters(&abc, &merges));
        // "abc" becomes "a" and "bc".
        assert!(matters(&abc, &[[1, 2, 4], [0, 1, 3], [3, 2, 5]]));
        // No merge leads to "abc".
        assert!(matters(&abc, &[[0, 1, 3], [1, 2, 4]]));
        // What is no text, or no whole characters, is no piece.
        let mut others = abc.to_vec();
        others[5] = Some(Token { bytes: b"abc".to_vec(), is_text: false });
        others.extend([None, token(&[0xc3]), token(&[0xc3, 0xc3])]);
        assert!(!matters(&others, &[[0, 1, 3], [1, 2, 4]]));
    }

    #[test]
    fn what_would_take_long_is_not_tried() {
        let long = vec![b'a'; BYTES_MOST];
        assert!(matters(&[token(b"a"), token(&long)], &[]));
    }
}
