//! Text and messages to tokens of a sequence.

use super::Engine;
use crate::chat::{ChatError, Place, Role};
use crate::sequence::{Sequence, SequenceError};
use crate::tokenizer::EncodeError;

impl<'a> Engine<'a> {
    /// Appends tokens to a sequence. They are computed by the next batch that it has a share in.
    pub fn append(&self, sequence: &mut Sequence<'a>, tokens: &[u32]) -> Result<(), SequenceError> {
        if let Some(&id) = tokens.iter().find(|&&id| id >= self.model.shape.vocab) {
            return Err(SequenceError::Token(id));
        }
        let needed = sequence.tokens().len() + tokens.len();
        let full = sequence.full(Some(needed));
        sequence.room().get_mut(..tokens.len()).ok_or(full)?.copy_from_slice(tokens);
        sequence.grow(tokens.len());
        Ok(())
    }

    /// Appends raw text, without any chat format; a begin token goes first where the sequence is
    /// empty, the model wants one, and the text does not bring it. Names of control tokens in the
    /// text become those tokens.
    pub fn append_text(
        &mut self,
        sequence: &mut Sequence<'a>,
        text: &str,
    ) -> Result<(), SequenceError> {
        let is_first = sequence.tokens().is_empty();
        let begin = self.chat.begin.filter(|_| is_first);
        let begin = begin.filter(|&begin| !self.tokenizer.begins_with(text, begin));
        // A context has at least one token.
        let (first, rest) = sequence.room().split_at_mut(usize::from(begin.is_some()));
        first.iter_mut().zip(begin).for_each(|(first, begin)| *first = begin);
        let begins = first.len();
        let written = self.tokenizer.encode(text, true, self.desk.pieces, rest);
        wrote(sequence, written.map(|count| begins + count).map_err(ChatError::Encode))
    }

    /// Writes the tokens of a text to `out`, and says how many they are: see [`Tokenizer::encode`]. A run
    /// without a place to cut has at most [`PIECE_BYTES`](super::PIECE_BYTES) bytes.
    ///
    /// [`Tokenizer::encode`]: crate::tokenizer::Tokenizer::encode
    pub fn encode(
        &mut self,
        text: &str,
        parse_specials: bool,
        out: &mut [u32],
    ) -> Result<usize, EncodeError> {
        self.tokenizer.encode(text, parse_specials, self.desk.pieces, out)
    }

    /// Appends raw text to the answer under way, as if the model had said it.
    pub fn append_to_answer(
        &mut self,
        sequence: &mut Sequence<'a>,
        text: &str,
    ) -> Result<(), SequenceError> {
        let begin = sequence.answer;
        self.append_text(sequence, text)?;
        sequence.answer = begin;
        Ok(())
    }

    /// Appends a message of a conversation; nothing in it is taken for a control token.
    pub fn append_message(
        &mut self,
        sequence: &mut Sequence<'a>,
        role: Role,
        content: &str,
    ) -> Result<(), SequenceError> {
        let Some(conversation) = &mut self.conversation else { return Err(SequenceError::NoChat) };
        conversation.set_place(sequence.place);
        let (pieces, room) = (&mut *self.desk.pieces, sequence.room());
        let written = conversation.message(&self.tokenizer, role, content, pieces, room);
        sequence.place = conversation.place();
        wrote(sequence, written)
    }

    /// Goes back to the first `len` tokens of a conversation: see [`Engine::cut`]. A message that is
    /// appended next follows the last of them, which may lie within an answer.
    pub fn cut_conversation(&mut self, sequence: &mut Sequence<'a>, len: usize) {
        let before = sequence.tokens().len();
        self.cut(sequence, len);
        if sequence.tokens().len() < before {
            let close = |id: &u32| Some(*id) == self.chat.close;
            let is_line_end = |id: &u32| self.tokenizer.piece(*id) == b"\n";
            sequence.place = match sequence.tokens() {
                [] => Place::Start,
                [begin] if Some(*begin) == self.chat.begin => Place::Between,
                [.., last] if close(last) => Place::Closed,
                [.., before, last] if close(before) && is_line_end(last) => Place::Between,
                _ => Place::Answer,
            };
        }
    }

    /// Begins an answer: the next tokens are the assistant's.
    pub fn begin_answer(&mut self, sequence: &mut Sequence<'a>) -> Result<(), SequenceError> {
        let Some(conversation) = &mut self.conversation else { return Err(SequenceError::NoChat) };
        conversation.set_place(sequence.place);
        let (pieces, room) = (&mut *self.desk.pieces, sequence.room());
        let written = conversation.prompt_answer(&self.tokenizer, pieces, room);
        sequence.place = conversation.place();
        wrote(sequence, written)
    }
}

/// Takes note of tokens that an encoder wrote after a sequence.
fn wrote(
    sequence: &mut Sequence<'_>,
    written: Result<usize, ChatError>,
) -> Result<(), SequenceError> {
    match written {
        Ok(count) => {
            sequence.grow(count);
            Ok(())
        }
        Err(ChatError::Encode(EncodeError::Full { .. })) => Err(sequence.full(None)),
        Err(ChatError::Encode(error)) => Err(SequenceError::Text(error)),
        Err(ChatError::NoTokens) => Err(SequenceError::NoChat),
    }
}
