use rill::engine::PIECE_BYTES;
use rill::tokenizer::{EncodeError, SCRATCH_WORDS_PER_BYTE, Tokenizer};

use crate::guard::Guard;

/// A part of a rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text, whatever it looks like.
    Text(String),
    /// A control token that the template wrote.
    Control {
        /// What it is called.
        name: String,
        /// Its id.
        id: u32,
    },
}

/// A rendered conversation: texts and control tokens.
///
/// Only the template writes control tokens: their names in messages, tools, documents and
/// arguments are text, whatever the template does with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pieces: Vec<Piece>,
}

impl Rendered {
    /// Takes a rendered text apart.
    pub(crate) fn new(text: &str, guard: &Guard, control: &[(String, u32)]) -> Self {
        // As the reference finds them: leftmost, then longest.
        let mut names: Vec<&(String, u32)> =
            control.iter().filter(|(n, _)| !n.is_empty()).collect();
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        let mut firsts: Vec<u8> = names.iter().map(|(name, _)| name.as_bytes()[0]).collect();
        firsts.sort_unstable();
        firsts.dedup();
        let (mut pieces, mut start, mut at) = (Vec::new(), 0, 0);
        while at < text.len() {
            let found = (firsts.contains(&text.as_bytes()[at]) && text.is_char_boundary(at))
                .then(|| names.iter().find(|(name, _)| text[at..].starts_with(name.as_str())))
                .flatten();
            match found {
                Some((name, id)) => {
                    if at > start {
                        pieces.push(Piece::Text(guard.show(&text[start..at])));
                    }
                    pieces.push(Piece::Control { name: name.clone(), id: *id });
                    at += name.len();
                    start = at;
                }
                None => at += 1,
            }
        }
        if at > start {
            pieces.push(Piece::Text(guard.show(&text[start..])));
        }
        Self { pieces }
    }

    /// Its parts, in order. No two texts follow each other.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// All of it as one text, as `apply_chat_template(tokenize=False)` gives it.
    pub fn text(&self) -> String {
        let part = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Control { name, .. } => name.clone(),
        };
        self.pieces.iter().map(part).collect()
    }

    /// Its tokens.
    pub fn tokens(&self, tokenizer: &Tokenizer<'_>) -> Result<Vec<u32>, EncodeError> {
        let mut tokens = Vec::new();
        let mut scratch = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Control { id, .. } => tokens.push(*id),
                Piece::Text(text) => {
                    scratch.resize(text.len().min(PIECE_BYTES) * SCRATCH_WORDS_PER_BYTE, 0);
                    let start = tokens.len();
                    // A token has at least one byte.
                    tokens.resize(start + text.len(), 0);
                    let out = &mut tokens[start..];
                    let count = tokenizer.encode(text, false, &mut scratch, out)?;
                    tokens.truncate(start + count);
                }
            }
        }
        Ok(tokens)
    }
}
