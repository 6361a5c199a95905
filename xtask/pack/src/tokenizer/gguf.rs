//! The tokenizer in the metadata of a GGUF file.

use std::borrow::Cow;

use rill::tokenizer::split::Variant;

use crate::quoted::quoted;

use super::{AddedToken, Source, TokenizerError, Vocabulary};

/// What a GGUF file says about its tokenizer, under `tokenizer.ggml.`.
#[derive(Debug, Clone, Default)]
pub struct GgufTokenizer {
    /// `model`: the kind of tokenizer.
    pub model: String,
    /// `pre`: how text is cut before merging. Files from before llama.cpp's April 2024 lack it.
    pub pre: Option<String>,
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

/// What a value of `pre` stands for beside the core's own split: whether pieces that are tokens are
/// not merged, and whether texts begin with a begin token where the file does not say. Facts of
/// llama.cpp's `src/llama-vocab.cpp`.
struct Cut {
    ignore_merges: bool,
    add_bos: bool,
}

/// The values of `pre` that cut as the core does.
fn cut_of(pre: &str) -> Option<Cut> {
    match pre {
        "lfm2" | "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral"
        | "midm-2.0" | "jina-v5-nano" => Some(Cut { ignore_merges: true, add_bos: true }),
        "dbrx" | "smaug-bpe" | "chatglm-bpe" | "glm4" => {
            Some(Cut { ignore_merges: false, add_bos: false })
        }
        _ => None,
    }
}

/// Checks the tokenizer of a GGUF file.
pub fn from_gguf(gguf: GgufTokenizer) -> Result<Vocabulary, TokenizerError> {
    let unsupported =
        |part, found, supported| Err(TokenizerError::Unsupported { part, found, supported });
    if gguf.model != "gpt2" {
        return unsupported("model", quoted(&gguf.model), "byte-level BPE (\"gpt2\")");
    }
    // All LFM2 models cut alike, so a file that does not say means that.
    let pre = gguf.pre.as_deref().unwrap_or("lfm2");
    let Some(cut) = cut_of(pre) else {
        let supported = "those that cut as Llama 3's (\"lfm2\", \"llama-bpe\" and others)";
        return unsupported("tokenizer.ggml.pre", quoted(pre), supported);
    };
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
            NORMAL => vocab.push((Cow::Owned(name), id)),
            CONTROL | USER_DEFINED => {
                let token = AddedToken { id, text: name, is_special: kind == CONTROL };
                added.push((token, false));
            }
            UNUSED => {}
            other => {
                let found = format!("{other} for {}", quoted(&name));
                return unsupported("token type", found, "normal, control, user-defined, unused");
            }
        }
    }
    fn pair(merge: &str) -> Result<(Cow<'_, str>, Cow<'_, str>), TokenizerError> {
        let unusable = || super::inconsistent(format!("merge {}", quoted(merge)));
        let (left, right) = merge.split_once(' ').ok_or_else(unusable)?;
        Ok((left.into(), right.into()))
    }
    Vocabulary::check(Source {
        vocab,
        merges: gguf.merges.iter().map(|merge| pair(merge)).collect::<Result<_, _>>()?,
        added,
        variant: Variant::default(),
        ignore_merges: cut.ignore_merges,
        bos: gguf.bos,
        add_bos: gguf.add_bos.unwrap_or(cut.add_bos && gguf.bos.is_some()),
        eos: gguf.eos,
    })
}
