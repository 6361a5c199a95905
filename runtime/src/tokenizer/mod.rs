//! Byte-level BPE, exact: the ids that the checkpoint's own tokenizer gives, and the bytes back.
//!
//! Text is cut at added tokens (`<|im_start|>`, ...), the rest by the [`split`] pattern into
//! pieces, and each piece is merged by [`bpe`]. The tables lie in the image and are used in
//! place; see [`tables`] for their bytes.
//!
//! The reference is Hugging Face `tokenizers`; the tests compare ids and text with it.

pub mod bpe;
mod classes;
mod run;
pub mod split;
pub mod tables;
mod utf8;

pub use bpe::SCRATCH_WORDS_PER_BYTE;
pub use tables::TablesError;
pub use utf8::Utf8Stream;

use run::Run;
use tables::Tables;

/// A tokenizer whose tables lie in `'t`, usually the image's tokenizer section in the arena.
#[derive(Debug, Clone)]
pub struct Tokenizer<'t> {
    tables: Tables<'t>,
}

/// Why a text could not be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum EncodeError {
    /// A piece (a run without a place to cut) is longer than the scratch allows.
    Piece {
        /// Bytes of the piece.
        bytes: usize,
        /// Longest piece, in bytes, that the scratch allows.
        most: usize,
    },
    /// The text has more tokens than there is room for.
    Full {
        /// Tokens there is room for.
        room: usize,
    },
}

impl core::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Piece { bytes, most } => write!(
                f,
                "the text has a run of {bytes} bytes that cannot be cut; at most {most} fit: \
                 add spaces or shorten it"
            ),
            Self::Full { room } => {
                write!(f, "the text has more than the {room} tokens there is room for; shorten it")
            }
        }
    }
}

impl core::error::Error for EncodeError {}

impl<'t> Tokenizer<'t> {
    /// Checks the tables of an image whose embedding has `vocab` rows. Whatever the bytes are,
    /// the other methods neither panic nor read out of bounds afterwards.
    pub fn parse(bytes: &'t [u8], vocab: u32) -> Result<Self, TablesError> {
        Tables::parse(bytes, vocab).map(|tables| Self { tables })
    }

    /// How many ids there are. The embedding may have more rows: they are tokens without bytes.
    #[expect(clippy::len_without_is_empty, reason = "there are always the 256 bytes")]
    pub fn len(&self) -> usize {
        self.tables.len()
    }

    /// The token that begins every sequence, for models that want one. Encoding never adds it.
    pub fn bos(&self) -> Option<u32> {
        self.tables.bos()
    }

    /// The bytes a token stands for: often not valid UTF-8 by themselves, see [`Utf8Stream`].
    /// An id without a token has none.
    pub fn piece(&self, id: u32) -> &'t [u8] {
        self.tables.piece(id)
    }

    /// Whether `id` is a control token: part of a conversation's form, not of its text.
    pub fn is_special(&self, id: u32) -> bool {
        self.tables.is_special(id)
    }

    /// The id of the token that stands for exactly these bytes; added tokens go first.
    pub fn token_id(&self, bytes: &[u8]) -> Option<u32> {
        self.tables.added_id(bytes).or_else(|| self.tables.find(bytes.len(), bytes.iter().copied()))
    }

    /// Whether the first token of `text` is this added token, where names of control tokens become
    /// those tokens.
    pub fn begins_with(&self, text: &str, id: u32) -> bool {
        self.tables.longest_added(text.bytes()).is_some_and(|(first, _)| first == id)
    }

    /// Writes the ids of `text` to `out` and returns how many they are.
    ///
    /// With `parse_specials` the names of control tokens in the text become those tokens; without,
    /// they are text like any other and no control token can come out. Added tokens that are not
    /// control tokens are recognised always.
    ///
    /// `scratch` limits the longest piece: [`SCRATCH_WORDS_PER_BYTE`] words for each of its bytes.
    /// A piece ends at the latest where letters, numbers, spaces and other characters meet, so
    /// scratch for as many bytes as the text has is always enough. Time: O(n log n) in the longest
    /// piece, O(n) in their number.
    pub fn encode(
        &self,
        text: &str,
        parse_specials: bool,
        scratch: &mut [u32],
        out: &mut [u32],
    ) -> Result<usize, EncodeError> {
        self.encode_parts(&[text], parse_specials, scratch, out)
    }

    /// [`Self::encode`] of the concatenation of `parts`, which need not be joined for it.
    pub fn encode_parts(
        &self,
        parts: &[&str],
        parse_specials: bool,
        scratch: &mut [u32],
        out: &mut [u32],
    ) -> Result<usize, EncodeError> {
        let mut sink = Sink { out, len: 0 };
        let variant = self.tables.variant();
        let mut rest = Run::new(parts);
        while !rest.is_empty() {
            let found = self.next_added(rest, parse_specials);
            let (mut text, after) = rest.split_at(found.map_or(rest.len(), |added| added.at));
            while !text.is_empty() {
                let (piece, tail) = text.split_at(split::piece_len(text.chars(), variant));
                self.encode_piece(piece, scratch, &mut sink)?;
                text = tail;
            }
            rest = after;
            if let Some(added) = found {
                sink.push(added.id)?;
                rest = rest.split_at(added.len).1;
            }
        }
        Ok(sink.len)
    }

    /// The first added token in `text`: leftmost, then longest. A control token that is not to be
    /// parsed still hides others that overlap it, as in the reference.
    fn next_added(&self, text: Run<'_>, parse_specials: bool) -> Option<Added> {
        let mut bytes = text.bytes();
        let mut at = 0;
        loop {
            let here = bytes.clone();
            let first = bytes.next()?;
            let matched = if self.tables.begins_added(first) {
                self.tables.longest_added(here)
            } else {
                None
            };
            at += 1;
            if let Some((id, len)) = matched {
                if parse_specials || !self.tables.is_special(id) {
                    return Some(Added { at: at - 1, len, id });
                }
                // The matched bytes after the first.
                at += bytes.by_ref().take(len - 1).count();
            }
        }
    }

    fn encode_piece(
        &self,
        piece: Run<'_>,
        scratch: &mut [u32],
        sink: &mut Sink<'_>,
    ) -> Result<(), EncodeError> {
        let whole = self.tables.ignore_merges();
        if let Some(id) = whole.then(|| self.tables.find(piece.len(), piece.bytes())).flatten() {
            return sink.push(id);
        }
        let most = scratch.len() / SCRATCH_WORDS_PER_BYTE;
        if piece.len() > most.min(u32::MAX as usize) {
            return Err(EncodeError::Piece { bytes: piece.len(), most });
        }
        let ids = piece.bytes().map(|byte| self.tables.byte_id(byte));
        let lookup = |left, right| self.tables.merge(left, right);
        bpe::merge(ids, piece.len(), scratch, lookup, |id| sink.push(id))
    }
}

/// An added token found in a text.
#[derive(Debug, Clone, Copy)]
struct Added {
    at: usize,
    len: usize,
    id: u32,
}

/// Where ids go.
struct Sink<'o> {
    out: &'o mut [u32],
    len: usize,
}

impl Sink<'_> {
    fn push(&mut self, id: u32) -> Result<(), EncodeError> {
        let room = self.out.len();
        *self.out.get_mut(self.len).ok_or(EncodeError::Full { room })? = id;
        self.len += 1;
        Ok(())
    }
}
