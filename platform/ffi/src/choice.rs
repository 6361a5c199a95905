//! Logits, and choosing the next token.

use core::ffi::c_char;

use rill::engine::{Ask, Step};
use rill::sequence::SequenceError;

use crate::border::{Out, elements};
use crate::conversation::Conversation;
use crate::model::{Call, Model, with};
use crate::status::{Failure, Status};

/// Whether an answer goes on.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It does.
    None = 0,
    /// The token ends it; it is part of the conversation, and not of the text.
    Stop = 1,
    /// The context is full. There is no token.
    Full = 2,
}

/// A token that was chosen.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Token {
    /// The token.
    pub id: u32,
    /// Whether the answer goes on.
    pub end: End,
    /// The bytes it stands for, without a 0 at the end: often no whole character. None where it ends the
    /// answer. They hold until the model is closed.
    pub text: *const c_char,
    /// How many they are.
    pub len: usize,
}

/// Computes a batch of what was appended, so that a long prompt can be seen to advance. `left` is how many
/// tokens are still to be computed.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_compute(
    model: *mut Model,
    conversation: Conversation,
    left: *mut usize,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let out = Out::new(left)?;
            let number = call.number(conversation)?;
            call.inner.session.select(number);
            call.compute(|session, world| session.compute(world))?;
            let (_, sequences) = call.inner.session.parts();
            out.set(sequences[number].pending().len());
            Ok(())
        })
    }
}

/// The logits after the last token, one for each token of the vocabulary; computes what was appended.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_logits(
    model: *mut Model,
    conversation: Conversation,
    logits: *mut *const f32,
    len: *mut usize,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let (out, out_len) = (Out::new(logits)?, Out::new(len)?);
            compute(call, conversation)?;
            let logits = call.inner.session.logits();
            out.set(logits.as_ptr());
            out_len.set(logits.len());
            Ok(())
        })
    }
}

/// Computes what was appended, chooses the next token and appends it.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_step(
    model: *mut Model,
    conversation: Conversation,
    token: *mut Token,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let out = Out::new(token)?;
            match choose(call, conversation, &Ask::default())? {
                Some(id) => out.set(accept(call, id)?),
                None => out.set(FULL),
            }
            Ok(())
        })
    }
}

/// Computes what was appended and chooses the next token, of those that a mask allows; nothing is appended:
/// see rill_accept. Token `id` is bit id % 32 of word id / 32 of `mask`, and 1 allows it; words that are
/// missing allow nothing. A null `mask` allows every token. Each call uses up a random number. A full context
/// is RILL_STATUS_CONTEXT.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_sample(
    model: *mut Model,
    conversation: Conversation,
    mask: *const u32,
    words: usize,
    id: *mut u32,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let out = Out::new(id)?;
            let allowed = if mask.is_null() { None } else { Some(elements(mask, words)?) };
            let ask = Ask { allowed, ..Ask::default() };
            let full = Failure::from(Status::Context);
            out.set(choose(call, conversation, &ask)?.ok_or(full)?);
            Ok(())
        })
    }
}

/// Appends a token to the answer, as if it had been chosen. Where the context is full nothing is appended,
/// and the end of `token` is RILL_END_FULL. `token` may be null.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_accept(
    model: *mut Model,
    conversation: Conversation,
    id: u32,
    token: *mut Token,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let out = Out::optional(token)?;
            call.select(conversation)?;
            let accepted = accept(call, id)?;
            if let Some(out) = out {
                out.set(accepted);
            }
            Ok(())
        })
    }
}

/// What is said when there is no room for a token.
const FULL: Token =
    Token { id: crate::open::RILL_NO_TOKEN, end: End::Full, text: c"".as_ptr(), len: 0 };

/// Sees to it that there are logits after the last token of a conversation, and selects it.
fn compute(call: &mut Call<'_>, conversation: Conversation) -> Result<(), Failure> {
    let session = call.select(conversation)?;
    if session.tokens().is_empty() {
        return Err(SequenceError::Empty.into());
    }
    session.want_logits();
    call.compute_pending()
}

/// Chooses the next token of a conversation; `None` when its context is full.
fn choose(
    call: &mut Call<'_>,
    conversation: Conversation,
    ask: &Ask<'_>,
) -> Result<Option<u32>, Failure> {
    call.select(conversation)?;
    let sample = call.compute(|session, world| session.choose(world, ask))?;
    Ok(sample.map(|sample| sample.id))
}

/// Appends a token that was chosen to the selected conversation.
fn accept(call: &mut Call<'_>, id: u32) -> Result<Token, Failure> {
    let session = &mut call.inner.session;
    let end = match session.accept(id)? {
        Step::Token(_) => End::None,
        Step::End(_) => End::Stop,
        Step::Full => return Ok(FULL),
    };
    let text = if end == End::None { session.tokenizer().piece(id) } else { &[] };
    Ok(Token { id, end, text: text.as_ptr().cast(), len: text.len() })
}
