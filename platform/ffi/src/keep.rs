//! Keeping conversations elsewhere.
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `RILLSAV2` |
//! | 8 | what tells the image from others |
//! | 4 | how keys and values are kept: rill_kv |
//! | 4 | zero |
//! | the rest but 8 | what [`rill::engine::Engine::save`] writes |
//! | 8 | XXH3-64 of all before |
//!
//! Numbers are little-endian, as every target is.

use core::ffi::c_void;

use rill::plan::KvFormat;
use rill::saving::SaveError;
use xxhash_rust::xxh3::Xxh3;

use crate::border::structure;
use crate::conversation::Conversation;
use crate::model::{Inner, Model, with};
use crate::options::{Kv, check_abi};
use crate::status::{Failure, Status};

/// First bytes of a kept conversation.
const MAGIC: [u8; 8] = *b"RILLSAV2";

/// Where the caller keeps a conversation.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SavedWriter {
    /// RILL_ABI.
    pub abi: u32,
    /// Takes the next `len` bytes; 0 when they are kept, another number otherwise.
    pub write: Option<extern "C" fn(context: *mut c_void, bytes: *const c_void, len: usize) -> i32>,
    /// What `write` is given.
    pub context: *mut c_void,
}

/// What gives back a conversation that was kept.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SavedReader {
    /// RILL_ABI.
    pub abi: u32,
    /// Writes the next `len` bytes to `into`; 0 when all are there, another number otherwise.
    pub read: Option<extern "C" fn(context: *mut c_void, into: *mut c_void, len: usize) -> i32>,
    /// What `read` is given.
    pub context: *mut c_void,
}

/// Writes a conversation with all that was computed of it, piece by piece. rill_restore takes it back, in
/// a model of the same image whose keys and values are kept alike. Settings are not kept; the
/// random choices go on from where they were.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_save(
    model: *mut Model,
    conversation: Conversation,
    sink: *const SavedWriter,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let sink = *structure(sink)?;
            check_abi(sink.abi)?;
            let write = sink.write.ok_or_else(|| Failure::argument("the sink has no `write`"))?;
            let write = |bytes: &[u8]| match write(sink.context, bytes.as_ptr().cast(), bytes.len())
            {
                0 => Ok(()),
                _ => Err(Failure::from(Status::Callback)),
            };
            let mut sum = Xxh3::new();
            let mut summed = |bytes: &[u8]| {
                sum.update(bytes);
                write(bytes)
            };
            let head = head(call.inner);
            call.select(conversation)?;
            summed(&head)?;
            call.inner.session.save(&mut summed)?;
            write(&sum.digest().to_le_bytes())
        })
    }
}

/// Takes back what rill_save wrote in the place of a conversation. When it is another model's, nothing
/// changes; after a failure that comes later the conversation is empty, also when what was kept is too
/// long for it.
///
/// # Safety
/// As the header's front page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rill_restore(
    model: *mut Model,
    conversation: Conversation,
    source: *const SavedReader,
) -> Status {
    // SAFETY: the caller's promises are the same.
    unsafe {
        with(model, |call| {
            let source = *structure(source)?;
            check_abi(source.abi)?;
            let read = source.read.ok_or_else(|| Failure::argument("the source has no `read`"))?;
            let read = |into: &mut [u8]| match read(
                source.context,
                into.as_mut_ptr().cast(),
                into.len(),
            ) {
                0 => Ok(()),
                _ => Err(Failure::from(Status::Callback)),
            };
            let mut sum = Xxh3::new();
            let mut summed = |into: &mut [u8]| {
                read(into)?;
                sum.update(into);
                Ok(())
            };
            let expected = head(call.inner);
            call.select(conversation)?;
            let mut found = [0; HEAD];
            summed(&mut found)?;
            if found != expected {
                return Err(Status::Saved.into());
            }
            let session = &mut call.inner.session;
            session
                .restore(&mut summed)
                .map_err(|error: SaveError<Failure>| Failure::from(error))?;
            let mut kept = [0; 8];
            let ended = read(&mut kept);
            if ended.is_err() || kept != sum.digest().to_le_bytes() {
                session.reset();
                ended?;
                return Err(Status::Saved.into());
            }
            Ok(())
        })
    }
}

/// Bytes before what the engine writes.
const HEAD: usize = 24;

/// What stands before a conversation with this model.
fn head(inner: &Inner) -> [u8; HEAD] {
    let kv = match inner.session.kv_format() {
        KvFormat::F16 => Kv::F16,
        KvFormat::Int8 => Kv::Int8,
    };
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&MAGIC);
    head[8..16].copy_from_slice(&inner.image.header.identity().to_le_bytes());
    head[16..20].copy_from_slice(&(kv as u32).to_le_bytes());
    head
}
