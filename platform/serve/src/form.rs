//! Answers of a given form: a JSON schema or a grammar says which tokens may come next.

use std::fmt;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use rill::tokenizer::Tokenizer;
use serde_json::{Value, json};

/// A form that an answer must have.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// A JSON value that its schema allows.
    Schema(Value),
    /// A text of a grammar, in llguidance's dialect of Lark.
    Grammar(String),
}

impl Wanted {
    /// Any JSON object.
    pub fn object() -> Self {
        Self::Schema(json!({"type": "object"}))
    }
}

/// Makes forms for one vocabulary.
pub struct Forms {
    factory: ParserFactory,
}

impl Forms {
    /// For a vocabulary whose answers end with `end`.
    pub fn new(tokenizer: &Tokenizer<'_>, vocab: u32, end: u32) -> Result<Self, String> {
        let known = u32::try_from(tokenizer.len()).unwrap_or(u32::MAX).min(vocab);
        let word = |id| {
            let bytes = if id < known { tokenizer.piece(id) } else { &[] };
            // No text has control tokens in it.
            let marker = tokenizer.is_special(id).then_some(TokTrie::SPECIAL_TOKEN_MARKER);
            marker.into_iter().chain(bytes.iter().copied()).collect()
        };
        let words: Vec<Vec<u8>> = (0..vocab).map(word).collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab, end), &words);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(|e| e.to_string())?;
        factory.quiet();
        Ok(Self { factory })
    }

    /// What an answer of a form begins with; an error where there can be no such answer.
    pub fn form(&self, wanted: Wanted) -> Result<Form, String> {
        let grammar = match wanted {
            Wanted::Schema(mut schema) => {
                // White space says nothing, and a model may never come to an end of it.
                if let Value::Object(fields) = &mut schema {
                    fields.insert("x-guidance".into(), json!({"whitespace_flexible": false}));
                }
                TopLevelGrammar::from_json_schema(schema)
            }
            Wanted::Grammar(text) => TopLevelGrammar::from_lark(text),
        };
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            None => Ok(Form { matcher, mask: SimpleVob::new() }),
            Some(error) => Err(said(error)),
        }
    }
}

/// Where an answer stands in its form.
pub struct Form {
    matcher: Matcher,
    mask: SimpleVob,
}

impl Form {
    /// The set of tokens that may come next, as [`Ask`](rill::engine::Ask) has it.
    pub fn allowed(&mut self) -> Result<&[u32], String> {
        self.mask = self.matcher.compute_mask_or_eos().map_err(said)?;
        Ok(self.mask.as_slice())
    }

    /// This token came.
    pub fn accept(&mut self, id: u32) -> Result<(), String> {
        // What ends a whole answer is no part of it.
        if self.matcher.is_stopped() {
            return Ok(());
        }
        self.matcher.consume_token(id).map_err(said)
    }
}

/// The first line of an error: what follows is about the library.
fn said(error: impl fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

impl Clone for Form {
    fn clone(&self) -> Self {
        Self { matcher: self.matcher.deep_clone(), mask: SimpleVob::new() }
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Form").finish_non_exhaustive()
    }
}
