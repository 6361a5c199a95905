//! Conversations: beginning and ending them, and what is said in them.

use core::ffi::c_char;

use rill::chat::Role as Speaker;
use rill::engine::MAX_RUNS;
use rill::sampler::{Bias, MOST_BIASES};
use rill::seams::World;
use rill::sequence::{Sequence, SequenceError};
use rill::session::Session;

use crate::border::{Out, elements, elements_mut, structure, text};
use crate::model::{Call, Model, with};
use crate::options::SamplingSettings;
use crate::status::{Failure, Status, Why};

/// A conversation with a model. 0 is none.
pub type Conversation = u64;

/// Most conversations that rill_advance takes.
pub const RILL_MOST_TOGETHER: usize = 64;

const _: () = assert!(RILL_MOST_TOGETHER == MAX_RUNS);
// As rill_set_biases says.
const _: () = assert!(MOST_BIASES == 300);

/// Who speaks.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Gives instructions.
    System = 0,
    /// Asks.
    User = 1,
    /// Answers.
    Assistant = 2,
}

/// A message of a conversation.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Message {
    /// Who says it: rill_role.
    pub role: u32,
    /// What is said, in UTF-8.
    pub text: *const c_char,
    /// Bytes of it.
    pub len: usize,
}

/// A logit that is changed before each choice.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Biased {
    /// The token.
    pub id: u32,
    /// Is added to its logit.
    pub bias: f32,
}

/// Begins a conversation, which is empty and chooses tokens as the image advises.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_conversation_new(
    model: *mut Model,
    conversation: *mut Conversation,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let out = Out::new(conversation)?;
            let (conversation, number) = call.begin()?;
            // The one that was here before may have chosen otherwise.
            let settings = call.inner.image.manifest.sampling.into();
            let seed = call.inner.seed;
            call.inner.session.select(number);
            call.inner.session.set_sampling(settings, seed);
            call.inner.session.set_biases(&[])?;
            out.set(conversation);
            Ok(())
        })
    }
}

/// Ends a conversation and gives its memory to others.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_conversation_free(
    model: *mut Model,
    conversation: Conversation,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let number = call.number(conversation)?;
            call.end(number);
            Ok(())
        })
    }
}

/// Begins a conversation that is a copy of another, with its settings and the state of its random
/// choices. What both have is in memory once, until one of them goes on.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_fork(
    model: *mut Model,
    from: Conversation,
    conversation: *mut Conversation,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let out = Out::new(conversation)?;
            let from = call.number(from)?;
            let (conversation, to) = call.begin()?;
            call.inner.session.select(from);
            // Both are there, and two.
            let _ = call.inner.session.fork(to);
            out.set(conversation);
            Ok(())
        })
    }
}

/// Goes back to the first `len` tokens, of which as many stay computed as can; a longer `len` changes
/// nothing. With 0 the conversation is empty. The next logits are those that were there then, bit for bit.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_cut(
    model: *mut Model,
    conversation: Conversation,
    len: usize,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let number = call.number(conversation)?;
            let (engine, sequences) = call.inner.session.parts();
            engine.cut_conversation(&mut sequences[number], len);
            Ok(())
        })
    }
}

/// The tokens of a conversation, how many they are, and how many of them were computed. Each of the three
/// results may be null.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_tokens(
    model: *mut Model,
    conversation: Conversation,
    tokens: *mut *const u32,
    len: *mut usize,
    computed: *mut usize,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let number = call.number(conversation)?;
            let (_, sequences) = call.inner.session.parts();
            let sequence = &sequences[number];
            let (tokens, len) = (Out::optional(tokens)?, Out::optional(len)?);
            if let Some(computed) = Out::optional(computed)? {
                computed.set(sequence.computed());
            }
            if let Some(len) = len {
                len.set(sequence.tokens().len());
            }
            if let Some(tokens) = tokens {
                tokens.set(sequence.tokens().as_ptr());
            }
            Ok(())
        })
    }
}

/// Appends tokens. They are computed by the next call that wants what comes after them.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_append_tokens(
    model: *mut Model,
    conversation: Conversation,
    tokens: *const u32,
    len: usize,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let tokens = elements(tokens, len)?;
            Ok(call.select(conversation)?.append(tokens)?)
        })
    }
}

/// Appends `len` bytes of UTF-8 as they are, after the token that begins every conversation where that is
/// missing. Names of control tokens in the text become those tokens.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_append_text(
    model: *mut Model,
    conversation: Conversation,
    text: *const c_char,
    len: usize,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let text = self::text(text, len)?;
            Ok(call.select(conversation)?.append_text(text)?)
        })
    }
}

/// Appends a message, a text of `len` bytes of UTF-8, in ChatML with the model's own tokens: what most
/// models of this family were trained with. Nothing in the text becomes a control token. `role` is a
/// rill_role. For models with another format see rill_set_messages.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_append_message(
    model: *mut Model,
    conversation: Conversation,
    role: u32,
    text: *const c_char,
    len: usize,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let (role, text) = (speaker(role)?, self::text(text, len)?);
            Ok(call.select(conversation)?.append_message(role, text)?)
        })
    }
}

/// Begins an answer after messages: the next tokens are the assistant's.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_begin_answer(
    model: *mut Model,
    conversation: Conversation,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe { with(model, |call| Ok(call.select(conversation)?.begin_answer()?)) }
}

/// Makes a conversation what these messages are, as the checkpoint's own chat template writes them, and
/// begins the answer to them. What it has of them already is not computed again. A library without an
/// operating system knows ChatML alone, and says so where a model has another template. When they cannot
/// be written, or are too long, the conversation is empty.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_set_messages(
    model: *mut Model,
    conversation: Conversation,
    messages: *const Message,
    count: usize,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let messages = elements(messages, count)?;
            for message in messages {
                speaker(message.role)?;
                text(message.text, message.len)?;
            }
            let said = messages.iter().filter_map(|said| {
                Some((speaker(said.role).ok()?, text(said.text, said.len).ok()?))
            });
            let session = call.select(conversation)?;
            let written = if needs_template(session.chat().template) {
                follow_template(call, said)
            } else {
                follow_chatml(session, said)
            };
            if written.is_err() {
                call.inner.session.reset();
            }
            written
        })
    }
}

/// Chooses the next tokens as these settings say, from now on.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_set_sampling(
    model: *mut Model,
    conversation: Conversation,
    sampling: *const SamplingSettings,
    seed: u64,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let settings = structure(sampling)?.checked()?;
            call.select(conversation)?.set_sampling(settings, seed);
            Ok(())
        })
    }
}

/// The settings that the image advises, for rill_set_sampling.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_get_sampling(
    model: *mut Model,
    sampling: *mut SamplingSettings,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let advised = call.inner.image.manifest.sampling;
            Out::new(sampling)?.set(SamplingSettings::of(&advised.into()));
            Ok(())
        })
    }
}

/// Adds biases to logits before each choice from now on, in the place of those before; at most 300.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_set_biases(
    model: *mut Model,
    conversation: Conversation,
    biases: *const Biased,
    count: usize,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let given = elements(biases, count)?;
            let mut biases = heapless::Vec::<Bias, MOST_BIASES>::new();
            for &Biased { id, bias } in given {
                biases.push(Bias { id, bias }).map_err(|_| SequenceError::Biases)?;
            }
            Ok(call.select(conversation)?.set_biases(&biases)?)
        })
    }
}

/// One batch for those of `count` conversations, in this order, that have something to compute: answers
/// side by side, each as if it were alone. `rows` is how many tokens went through the model; 0 when all is
/// computed. Then rill_step takes no time but that of choosing. At most RILL_MOST_TOGETHER.
///
/// Where there is no memory for the keys and values of all (`kv_tokens`), those come first that are first
/// here: the last of them wait, and for them too what was computed may be given up, to be computed again, as
/// rill_tokens tells. So take a step of those whose tokens are all computed, and call this again for the
/// others; end or cut those that have ended.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_advance(
    model: *mut Model,
    conversations: *const Conversation,
    count: usize,
    rows: *mut usize,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let (order, out) = (elements(conversations, count)?, Out::new(rows)?);
            let mut numbers = heapless::Vec::<usize, RILL_MOST_TOGETHER>::new();
            for &conversation in order {
                let number = call.number(conversation)?;
                if numbers.contains(&number) || numbers.push(number).is_err() {
                    return Err(Failure::argument(
                        "a conversation is there twice, or too many are",
                    ));
                }
            }
            let advance = |session: &mut Session<'static>, world: &mut World<'_, 'static>| {
                let (engine, sequences) = session.parts();
                let mut all =
                    heapless::Vec::<(usize, &mut Sequence<'_>), RILL_MOST_TOGETHER>::new();
                for (number, sequence) in sequences.iter_mut().enumerate() {
                    if let Some(place) = numbers.iter().position(|&other| other == number) {
                        // There is room for all numbers.
                        let _ = all.push((place, sequence));
                    }
                }
                all.sort_unstable_by_key(|(place, _)| *place);
                let mut chosen = heapless::Vec::<_, RILL_MOST_TOGETHER>::new();
                for (_, sequence) in all {
                    let _ = chosen.push(sequence);
                }
                engine.advance(world, &mut chosen)
            };
            out.set(call.compute(|session, world| {
                loop {
                    let advance = advance(session, world)?;
                    if !advance.is_stuck() {
                        return Ok(advance.rows);
                    }
                    if !session.make_room(&numbers) {
                        return Err(SequenceError::NoBlocks);
                    }
                }
            })?);
            Ok(())
        })
    }
}

/// Writes the tokens of a text of `len` bytes of UTF-8 to `tokens`, where there is room for `room`, and says
/// how many they are; none is added. With `control` other than 0 the names of control tokens become those
/// tokens. As many tokens as bytes are always enough.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_encode(
    model: *mut Model,
    text: *const c_char,
    len: usize,
    control: u32,
    tokens: *mut u32,
    room: usize,
    count: *mut usize,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let (text, out) = (self::text(text, len)?, Out::new(count)?);
            let (engine, _) = call.inner.session.parts();
            out.set(engine.encode(text, control != 0, elements_mut(tokens, room)?)?);
            Ok(())
        })
    }
}

/// The bytes that a token stands for, `len` of them without a 0 at the end: often no whole character. Those
/// of a control token are its name. They hold until the model is closed.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_piece(
    model: *mut Model,
    token: u32,
    bytes: *mut *const c_char,
    len: *mut usize,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let (out, out_len) = (Out::new(bytes)?, Out::new(len)?);
            if token >= call.inner.image.manifest.shape.vocab {
                return Err(SequenceError::Token(token).into());
            }
            let piece = call.inner.session.tokenizer().piece(token);
            out.set(piece.as_ptr().cast());
            out_len.set(piece.len());
            Ok(())
        })
    }
}

/// Who speaks, of a rill_role.
fn speaker(role: u32) -> Result<Speaker, Failure> {
    match role {
        role if role == Role::System as u32 => Ok(Speaker::System),
        role if role == Role::User as u32 => Ok(Speaker::User),
        role if role == Role::Assistant as u32 => Ok(Speaker::Assistant),
        _ => Err(Failure::argument("`role` is no rill_role")),
    }
}

/// Whether ChatML would not be what the model was trained with.
fn needs_template(verdict: rill::image::Template) -> bool {
    use rill::image::Template;
    match verdict {
        Template::Same | Template::Missing => false,
        // Without an answer that has gone before, there is no thinking to be told apart.
        Template::SameButThinking => cfg!(feature = "std"),
        Template::Differs => true,
    }
}

/// Makes the selected conversation what ChatML writes.
fn follow_chatml<'t>(
    session: &mut Session<'_>,
    messages: impl Iterator<Item = (Speaker, &'t str)>,
) -> Result<(), Failure> {
    session.reset();
    for (role, text) in messages {
        session.append_message(role, text)?;
    }
    Ok(session.begin_answer()?)
}

/// Makes the selected conversation what the template writes.
#[cfg(feature = "std")]
fn follow_template<'t>(
    call: &mut Call<'_>,
    messages: impl Iterator<Item = (Speaker, &'t str)>,
) -> Result<(), Failure> {
    let missing = || Failure::new(Status::Template, Why::Words("the image has no chat template"));
    let template = call.inner.template.as_ref().ok_or_else(missing)?;
    template.follow(&mut call.inner.session, messages)
}

#[cfg(not(feature = "std"))]
fn follow_template<'t>(
    _: &mut Call<'_>,
    _: impl Iterator<Item = (Speaker, &'t str)>,
) -> Result<(), Failure> {
    Err(Failure::new(
        Status::Template,
        Why::Words(
            "the model has a chat format of its own, which only a library with an operating system \
             writes",
        ),
    ))
}
