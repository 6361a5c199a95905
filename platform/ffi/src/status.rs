//! What came of a call, as a number and in words.

use core::ffi::{CStr, c_char};
use core::fmt::{self, Write};

use heapless::String;
use rill::engine::LoadError;
use rill::experts::{PageError, PageFault};
use rill::image::ImageError;
use rill::plan::PlanError;
use rill::saving::SaveError;
use rill::sequence::SequenceError;
use rill::tokenizer::EncodeError;

/// What came of a call.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All went well.
    Ok = 0,
    /// A pointer is null or not aligned, or a number is out of range.
    Argument = 1,
    /// The structure is of another version of the header.
    Abi = 2,
    /// No model is open there.
    Model = 3,
    /// There is no such conversation: it was freed, or never was.
    Conversation = 4,
    /// Another call with the model is under way.
    Busy = 5,
    /// The arena is too small.
    Arena = 6,
    /// The image is damaged, of another version, or none at all.
    Image = 7,
    /// The image cannot be read now.
    Read = 8,
    /// The conversation would have more tokens than its context.
    Context = 9,
    /// All conversations are in use.
    Conversations = 10,
    /// Other conversations have all memory for keys and values.
    Memory = 11,
    /// The text is not UTF-8, or has too long a run that cannot be cut.
    Text = 12,
    /// The model has no such token.
    Token = 13,
    /// There is nothing to continue.
    Empty = 14,
    /// The image does not say how its model chats.
    NoChat = 15,
    /// The model's chat template does not render the conversation.
    Template = 16,
    /// The model computes no numbers.
    Numbers = 17,
    /// The mask allows no token.
    Forbidden = 18,
    /// rill_stop ended it. What was not computed is still to be computed.
    Stopped = 19,
    /// What was kept is damaged, or of another model.
    Saved = 20,
    /// A function of the caller's failed.
    Callback = 21,
    /// This library was built without it.
    Unsupported = 22,
    /// The operating system refuses.
    System = 23,
    /// A fault of the library itself. The model can only be closed.
    Fault = 24,
}

impl Status {
    /// All of them, in order.
    ///
    /// cbindgen:ignore
    pub const ALL: [Self; 25] = [
        Self::Ok,
        Self::Argument,
        Self::Abi,
        Self::Model,
        Self::Conversation,
        Self::Busy,
        Self::Arena,
        Self::Image,
        Self::Read,
        Self::Context,
        Self::Conversations,
        Self::Memory,
        Self::Text,
        Self::Token,
        Self::Empty,
        Self::NoChat,
        Self::Template,
        Self::Numbers,
        Self::Forbidden,
        Self::Stopped,
        Self::Saved,
        Self::Callback,
        Self::Unsupported,
        Self::System,
        Self::Fault,
    ];

    /// What it means.
    pub const fn text(self) -> &'static CStr {
        match self {
            Self::Ok => c"all went well",
            Self::Argument => c"a pointer is null or not aligned, or a number is out of range",
            Self::Abi => c"`abi` is not RILL_ABI: compile with the header of this library",
            Self::Model => c"no model is open there",
            Self::Conversation => c"there is no such conversation",
            Self::Busy => c"another call with this model is under way",
            Self::Arena => c"the arena is too small: see `least` of rill_plan",
            Self::Image => c"not a usable Rill image; make one with `rill pack`",
            Self::Read => c"the image cannot be read",
            Self::Context => c"the context is full",
            Self::Conversations => c"all conversations are in use; free one, or plan for more",
            Self::Memory => c"other conversations have all memory for keys and values",
            Self::Text => c"the text is not UTF-8, or has too long a run that cannot be cut",
            Self::Token => c"the model has no such token",
            Self::Empty => c"there is nothing to continue: append something first",
            Self::NoChat => c"the image does not say how its model chats; append raw text",
            Self::Template => c"the chat template does not render the conversation",
            Self::Numbers => c"the model computes no numbers; pack it again",
            Self::Forbidden => c"the mask allows no token",
            Self::Stopped => c"stopped before all was computed",
            Self::Saved => c"what was kept is damaged, or of another model",
            Self::Callback => c"a function of the caller's failed",
            Self::Unsupported => c"this library was built without it",
            Self::System => c"the operating system refuses",
            Self::Fault => c"a fault of the library itself: the model can only be closed",
        }
    }
}

/// Bytes of a text that says what was wrong.
pub const ERROR_BYTES: usize = 252;

/// Why a call without a model failed.
#[repr(C)]
pub struct Failed {
    /// What came of the call.
    pub status: Status,
    /// Why, in UTF-8, with a 0 at the end.
    pub text: [c_char; ERROR_BYTES],
}

/// Text that is cut where there is no more room.
#[derive(Debug, Clone, Default)]
pub struct Text(String<{ ERROR_BYTES - 1 }>);

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.0.capacity() - self.0.len();
        let end = text.floor_char_boundary(room.min(text.len()));
        // As much as there is room for.
        self.0.push_str(&text[..end]).map_err(|_| fmt::Error)
    }
}

impl Text {
    /// What `value` displays.
    pub fn of(value: impl fmt::Display) -> Self {
        let mut text = Self::default();
        // A full text is one that was cut.
        let _ = write!(text, "{value}");
        text
    }

    /// As far as there was room.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// With a 0 at the end, and nothing but zeros after it.
    pub fn to_c(&self) -> [c_char; ERROR_BYTES] {
        let mut bytes = [0; ERROR_BYTES];
        let letters = self.0.bytes().map(|byte| if byte == 0 { b' ' } else { byte } as c_char);
        bytes.iter_mut().zip(letters).for_each(|(to, letter)| *to = letter);
        bytes
    }
}

/// Why a call fails: small, as what everything returns.
#[derive(Debug, Clone)]
pub struct Failure {
    /// As a number.
    pub status: Status,
    /// What there is to say beside.
    why: Why,
}

/// What there is to say of a failure.
#[derive(Debug, Clone)]
pub enum Why {
    /// What its number says.
    Status,
    /// This.
    Words(&'static str),
    /// A member that is out of range.
    Range(&'static str),
    /// The arena is below the least that works.
    Least {
        /// Bytes that it has.
        arena: u64,
        /// Bytes that it needs.
        least: u64,
    },
    /// What a sequence failed of.
    Sequence(SequenceError),
    /// What an image failed of.
    Image(ImageError),
    /// What a plan failed of.
    Plan(PlanError),
    /// What an encoder failed of.
    Encode(EncodeError),
    /// Where a text is not UTF-8.
    Utf8(core::str::Utf8Error),
    /// What a system says.
    #[cfg(feature = "std")]
    System(Box<str>),
}

impl Failure {
    /// A number, and why.
    pub fn new(status: Status, why: Why) -> Self {
        Self { status, why }
    }

    /// A wrong argument.
    pub fn argument(why: &'static str) -> Self {
        Self::new(Status::Argument, Why::Words(why))
    }

    /// What a system says.
    #[cfg(feature = "std")]
    pub fn system(status: Status, error: impl fmt::Display) -> Self {
        Self::new(status, Why::System(error.to_string().into()))
    }

    /// In words.
    pub fn text(&self) -> Text {
        Text::of(self)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Status => f.write_str(self.status.text().to_str().unwrap_or_default()),
            Why::Words(words) => f.write_str(words),
            Why::Range(name) => write!(f, "`{name}` is out of range"),
            Why::Least { arena, least } => {
                write!(f, "the arena has {arena} bytes, the least that works is {least}")
            }
            Why::Sequence(error) => error.fmt(f),
            Why::Image(error) => error.fmt(f),
            Why::Plan(error) => error.fmt(f),
            Why::Encode(error) => error.fmt(f),
            Why::Utf8(error) => error.fmt(f),
            #[cfg(feature = "std")]
            Why::System(words) => f.write_str(words),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self { status, why: Why::Status }
    }
}

impl From<SequenceError> for Failure {
    fn from(error: SequenceError) -> Self {
        let status = match error {
            SequenceError::Text(_) => Status::Text,
            SequenceError::ContextFull { .. } => Status::Context,
            SequenceError::NoBlocks => Status::Memory,
            SequenceError::Token(_) => Status::Token,
            SequenceError::Page(PageError { fault: PageFault::Checksum, .. }) => Status::Image,
            SequenceError::Page(_) => Status::Read,
            SequenceError::Stopped => Status::Stopped,
            SequenceError::Empty => Status::Empty,
            SequenceError::NoChat => Status::NoChat,
            SequenceError::NoNumbers => Status::Numbers,
            SequenceError::Forbidden => Status::Forbidden,
            // The engine may learn to say more.
            SequenceError::Biases | _ => Status::Argument,
        };
        Self::new(status, Why::Sequence(error))
    }
}

impl From<EncodeError> for Failure {
    fn from(error: EncodeError) -> Self {
        let status = match error {
            EncodeError::Full { .. } => Status::Argument,
            _ => Status::Text,
        };
        Self::new(status, Why::Encode(error))
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        let status = match error {
            ImageError::Storage(..) => Status::Read,
            _ => Status::Image,
        };
        Self::new(status, Why::Image(error))
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Image(error) => error.into(),
            LoadError::Arena | _ => Status::Arena.into(),
        }
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        let status = match error {
            PlanError::BelowLeast { .. } => Status::Arena,
            _ => Status::Argument,
        };
        Self::new(status, Why::Plan(error))
    }
}

impl<E: Into<Failure>> From<SaveError<E>> for Failure {
    fn from(error: SaveError<E>) -> Self {
        match error {
            SaveError::Sequence(error) => error.into(),
            SaveError::Keeper(error) => error.into(),
            SaveError::Damaged => Status::Saved.into(),
        }
    }
}

/// What a status means. Of a number that is none, that it is none.
#[unsafe(no_mangle)]
pub extern "C" fn rill_status_text(status: i32) -> *const c_char {
    let known = Status::ALL.into_iter().find(|known| *known as i32 == status);
    known.map_or(c"no status of this library", Status::text).as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_number_and_a_text() {
        for (number, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!(status as usize, number);
            assert!(!status.text().is_empty());
        }
    }

    #[test]
    fn a_text_is_cut_between_characters_and_ends_in_a_zero() {
        let text = Text::of("é".repeat(ERROR_BYTES)).to_c();
        let bytes: Vec<u8> = text.iter().map(|&byte| byte as u8).collect();
        let text = CStr::from_bytes_until_nul(&bytes).unwrap().to_str().unwrap();
        assert_eq!(text, "é".repeat((ERROR_BYTES - 1) / 2));
    }
}
