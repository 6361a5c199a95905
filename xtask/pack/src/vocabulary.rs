//! The tokenizer's tables and the chat format of a checkpoint.

use rill::image::Chat;

use crate::checkpoint::{Checkpoint, Words};

/// A tokenizer as GGUF metadata describes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufTokenizer {
    /// `tokenizer.ggml.model`: the kind, "gpt2" for byte-level BPE.
    pub model: String,
    /// `tokenizer.ggml.pre`: how text is split before merging.
    pub pre: String,
    /// The tokens' texts by id.
    pub tokens: Vec<String>,
    /// The tokens' kinds by id.
    pub token_types: Vec<u32>,
    /// Merges, first to last.
    pub merges: Vec<String>,
    /// Token that begins every sequence.
    pub bos: Option<u32>,
    /// Token that ends an answer.
    pub eos: Option<u32>,
    /// Whether the first is put before every prompt.
    pub add_bos: bool,
}

/// Why a vocabulary cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VocabularyError {}

/// What the image needs.
pub struct Vocabulary {
    /// The tokenizer section.
    pub tables: Vec<u8>,
    /// How to hold a conversation.
    pub chat: Chat,
    /// How the template was understood.
    pub explanation: String,
}

/// Reads the vocabulary and the chat template of a checkpoint.
pub fn of(checkpoint: &Checkpoint) -> Result<Vocabulary, VocabularyError> {
    let stops = checkpoint.model.stops.iter().copied().take(rill::image::MAX_STOPS).collect();
    let begin = match &checkpoint.words {
        Words::Gguf(words) => words.bos,
        Words::Json(..) => None,
    };
    let chat = Chat { begin, stops, ..Chat::default() };
    Ok(Vocabulary { tables: Vec::new(), chat, explanation: String::new() })
}
