//! The tokenizer in the metadata of a GGUF file.

use super::{AddedToken, Source, TokenizerError, Vocabulary};

/// What a GGUF file says about its tokenizer, under `tokenizer.ggml.`.
#[derive(Debug, Clone, Default)]
pub struct GgufTokenizer {
    /// `model`: the kind of tokenizer.
    pub model: String,
    /// `pre`: how text is cut before merging.
    pub pre: String,
    /// `tokens`: names by id.
    pub tokens: Vec<String>,
    /// `token_type`: as many as tokens.
    pub token_types: Vec<i32>,
    /// `merges`: `left right` by rank.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
}

// Token types of the GGUF specification.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// The names that llama.cpp gives to the core's split pattern. It takes whole-piece matches and a
/// begin token for granted with each of them (`src/llama-vocab.cpp`); the file does not say.
const LLAMA3_SPLIT: [&str; 4] = ["lfm2", "llama3", "llama-v3", "llama-bpe"];

/// Checks the tokenizer of a GGUF file.
pub fn from_gguf(gguf: GgufTokenizer) -> Result<Vocabulary, TokenizerError> {
    let unsupported =
        |part, found, supported| Err(TokenizerError::Unsupported { part, found, supported });
    if gguf.model != "gpt2" {
        return unsupported("model", gguf.model, "byte-level BPE (\"gpt2\")");
    }
    if !LLAMA3_SPLIT.contains(&gguf.pre.as_str()) {
        return unsupported("pre-tokenizer", gguf.pre, "\"lfm2\" and \"llama-bpe\"");
    }
    if gguf.tokens.len() != gguf.token_types.len() {
        return Err(super::inconsistent(format!(
            "{} tokens but {} token types",
            gguf.tokens.len(),
            gguf.token_types.len()
        )));
    }
    let mut vocab = vec![];
    let mut added = vec![];
    for ((id, name), kind) in (0..).zip(gguf.tokens).zip(gguf.token_types) {
        match kind {
            NORMAL => vocab.push((name, id)),
            CONTROL | USER_DEFINED => {
                let token = AddedToken { id, text: name, is_special: kind == CONTROL };
                added.push((token, false));
            }
            UNUSED => {}
            other => {
                let found = format!("{other} for {name:?}");
                return unsupported("token type", found, "normal, control, user-defined, unused");
            }
        }
    }
    let pair = |merge: String| {
        let (left, right) =
            merge.split_once(' ').ok_or_else(|| super::inconsistent(format!("merge {merge:?}")))?;
        Ok((left.into(), right.into()))
    };
    Vocabulary::check(Source {
        vocab,
        merges: gguf.merges.into_iter().map(pair).collect::<Result<_, TokenizerError>>()?,
        added,
        ignore_merges: true,
        bos: gguf.bos,
        add_bos: gguf.add_bos.unwrap_or(gguf.bos.is_some()),
        eos: gguf.eos,
    })
}
