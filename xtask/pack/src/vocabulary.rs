//! The tokenizer section and the chat format of a checkpoint.

use rill::image::Chat;

use crate::chat::{ChatError, chat};
use crate::checkpoint::{Checkpoint, Words};
use crate::tokenizer::{TokenizerError, from_gguf, from_json};

/// Why a checkpoint's vocabulary cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VocabularyError {
    /// Its tokenizer is not one that the engine has.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Its way to chat cannot be described.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// It has tokens without an embedding.
    #[error(
        "the tokenizer has {tokens} tokens, the model only {rows}; take both from one checkpoint"
    )]
    TooLarge {
        /// Of the tokenizer.
        tokens: usize,
        /// Of the embedding.
        rows: u32,
    },
}

/// What an image holds of it.
#[derive(Debug)]
pub struct PackedVocabulary {
    /// The tokenizer section.
    pub tables: Vec<u8>,
    /// The template section.
    pub template: Vec<u8>,
    /// How to hold a conversation.
    pub chat: Chat,
    /// How the template was understood.
    pub explanation: String,
}

/// Reads the vocabulary and the chat template of a checkpoint.
pub fn of(checkpoint: &Checkpoint) -> Result<PackedVocabulary, VocabularyError> {
    let vocabulary = match &checkpoint.words {
        Words::Json(json, config) => from_json(json, config.as_deref())?,
        Words::Gguf(gguf) => from_gguf(gguf.clone())?,
    };
    let (tokens, rows) = (vocabulary.len(), checkpoint.model.shape.vocab);
    if tokens > rows as usize {
        return Err(VocabularyError::TooLarge { tokens, rows });
    }
    let model = &checkpoint.model;
    let report = chat(&vocabulary, checkpoint.template.as_deref(), &model.stops)?;
    Ok(PackedVocabulary {
        tables: vocabulary.tables(),
        template: report.template,
        chat: report.chat,
        explanation: report.explanation,
    })
}
