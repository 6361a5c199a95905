//! Conversations as tokens, in ChatML:
//!
//! ```text
//! <|startoftext|><|im_start|>system
//! You are a guide.<|im_end|>
//! <|im_start|>user
//! Where is the lift?<|im_end|>
//! <|im_start|>assistant
//! ```
//!
//! The tokens are those of the whole rendered text, written message by message as they come: what
//! stands between two control tokens (a role, a line end and the content) is encoded as one text.
//! Names of control tokens in a content are text, so nobody can forge a message.

use crate::image::Chat;
use crate::tokenizer::{EncodeError, Tokenizer};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Role {
    /// Gives instructions.
    System,
    /// Asks.
    User,
    /// Answers.
    Assistant,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::System, Self::User, Self::Assistant];

    /// What messages call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// What a model calls it.
    pub fn word(self, chat: &Chat) -> &str {
        match self {
            Self::System => &chat.system,
            Self::User => &chat.user,
            Self::Assistant => &chat.assistant,
        }
    }
}

/// Why a conversation could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ChatError {
    /// The model has no control tokens for messages.
    NoTokens,
    /// A content could not be encoded.
    Encode(EncodeError),
}

impl core::fmt::Display for ChatError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoTokens => write!(f, "this model does not chat; give it plain text to continue"),
            Self::Encode(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ChatError {}

impl From<EncodeError> for ChatError {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

/// Writes a conversation's tokens, message by message.
///
/// It remembers only where the sequence stands; the tokens go to the caller. A call that fails
/// leaves it unchanged, so the same call can be made again with more room or a shorter text.
#[derive(Debug, Clone)]
pub struct Conversation {
    chat: Chat,
    open: u32,
    close: u32,
    place: Place,
}

/// Where a sequence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing is written.
    Start,
    /// In an answer, which has no close token yet.
    Answer,
    /// Right after a close token; the line end after it is not written.
    Closed,
    /// After a whole message.
    Between,
}

impl Place {
    const ALL: [Self; 4] = [Self::Start, Self::Answer, Self::Closed, Self::Between];

    /// Its number in a saved conversation.
    pub(crate) fn code(self) -> u32 {
        self as u32
    }

    /// The place with this number.
    pub(crate) fn of(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|place| place.code() == code)
    }
}

impl Conversation {
    /// An empty conversation.
    pub fn new(chat: Chat) -> Result<Self, ChatError> {
        match (chat.open, chat.close) {
            (Some(open), Some(close)) => Ok(Self { chat, open, close, place: Place::Start }),
            _ => Err(ChatError::NoTokens),
        }
    }

    /// Writes the tokens of one message to `out` and returns how many they are.
    ///
    /// For the scratch see [`Tokenizer::encode`]: enough for the longest piece of the content,
    /// always enough for content and role together.
    pub fn message(
        &mut self,
        tokenizer: &Tokenizer<'_>,
        role: Role,
        content: &str,
        scratch: &mut [u32],
        out: &mut [u32],
    ) -> Result<usize, ChatError> {
        let mut writer = Writer { tokenizer, scratch, out, len: 0 };
        self.open_message(&mut writer)?;
        writer.text(&[role.word(&self.chat), "\n", content])?;
        writer.token(self.close)?;
        writer.text(&["\n"])?;
        self.place = Place::Between;
        Ok(writer.len)
    }

    /// Writes the beginning of the assistant's message to `out` and returns how many tokens it
    /// has. The model then continues; say how it ended with [`Self::answered`].
    pub fn prompt_answer(
        &mut self,
        tokenizer: &Tokenizer<'_>,
        scratch: &mut [u32],
        out: &mut [u32],
    ) -> Result<usize, ChatError> {
        let mut writer = Writer { tokenizer, scratch, out, len: 0 };
        self.open_message(&mut writer)?;
        writer.text(&[Role::Assistant.word(&self.chat), "\n"])?;
        if let Some(thinking) = self.chat.thinking.as_ref().filter(|thinking| thinking.prompted) {
            writer.marked(&[&thinking.open, "\n"])?;
        }
        self.place = Place::Answer;
        Ok(writer.len)
    }

    /// Says that the model's answer is complete and `last` is its last token in the sequence.
    /// An answer that does not end with the close token (cut short, or ended by another stop
    /// token) is closed before the next message.
    pub fn answered(&mut self, last: u32) {
        self.place = self.place_after(last);
    }

    /// Where a sequence stands after an answer whose last token is `last`.
    pub(crate) fn place_after(&self, last: u32) -> Place {
        if last == self.close { Place::Closed } else { Place::Answer }
    }

    /// Where the sequence stands.
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// The sequence stands here.
    pub(crate) fn set_place(&mut self, place: Place) {
        self.place = place;
    }

    /// Forgets everything: the sequence is empty again.
    pub fn reset(&mut self) {
        self.place = Place::Start;
    }

    /// Writes what must stand before a role's name.
    fn open_message(&self, writer: &mut Writer<'_, '_>) -> Result<(), ChatError> {
        match self.place {
            Place::Start => self.chat.begin.map_or(Ok(()), |begin| writer.token(begin))?,
            Place::Answer => {
                writer.token(self.close)?;
                writer.text(&["\n"])?;
            }
            Place::Closed => writer.text(&["\n"])?,
            Place::Between => {}
        }
        writer.token(self.open)
    }
}

/// Appends tokens to a buffer.
struct Writer<'a, 't> {
    tokenizer: &'a Tokenizer<'t>,
    scratch: &'a mut [u32],
    out: &'a mut [u32],
    len: usize,
}

impl Writer<'_, '_> {
    fn token(&mut self, id: u32) -> Result<(), ChatError> {
        let room = self.out.len();
        *self.out.get_mut(self.len).ok_or(EncodeError::Full { room })? = id;
        self.len += 1;
        Ok(())
    }

    /// Text, whatever it looks like.
    fn text(&mut self, parts: &[&str]) -> Result<(), ChatError> {
        self.encode(parts, false)
    }

    /// Text of ours, in which names of control tokens are meant.
    fn marked(&mut self, parts: &[&str]) -> Result<(), ChatError> {
        self.encode(parts, true)
    }

    fn encode(&mut self, parts: &[&str], parse_specials: bool) -> Result<(), ChatError> {
        let room = self.out.len();
        let out = &mut self.out[self.len..];
        let written = self.tokenizer.encode_parts(parts, parse_specials, self.scratch, out);
        self.len += written.map_err(|error| match error {
            EncodeError::Full { .. } => EncodeError::Full { room },
            piece => piece,
        })?;
        Ok(())
    }
}
