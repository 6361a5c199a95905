//! RAM that an engine works in, and the device that reads into it.

use std::marker::PhantomData;
use std::path::Path;
use std::slice;
use std::sync::Arc;

use rill::image::{Image, Section, Span};
use rill::plan::Plan;
use rill::seams::{Completion, Geometry, Read, Storage, StorageError};

use super::Note;
use crate::arena::Arena;
use crate::model::Device;
use crate::storage;

/// The RAM of a model that is loaded into it; empty before. It outlives the model, and is given back
/// when it is dropped or another model is loaded into it.
#[derive(Debug, Default)]
pub struct Memory(Option<Keep>);

/// Keeps an arena mapped, and never touches its bytes.
#[derive(Debug)]
struct Keep(Arc<Arena>);

impl Memory {
    /// No RAM yet.
    pub const fn new() -> Self {
        Self(None)
    }

    /// Becomes `arena`; its bytes are lent to the engine, and to `device`, which reads into them.
    pub(super) fn lend<'m>(&'m mut self, arena: Arena, device: Device) -> (&'m mut [u8], Lent<'m>) {
        let arena = Arc::new(arena);
        let (start, len) = (arena.start(), arena.size());
        let arena = Keep(self.0.insert(Keep(arena)).0.clone());
        // SAFETY: `self` is borrowed for `'m`, and nothing but this slice touches the bytes: a `Keep`
        // only keeps them mapped.
        let bytes = unsafe { slice::from_raw_parts_mut(start.as_ptr(), len) };
        (bytes, Lent { device, arena, bytes: PhantomData })
    }
}

/// A device that reads into borrowed RAM. Its threads, and the kernel, may write there for as long as
/// it lives: it keeps the RAM mapped until it has ended them, also where it is never dropped.
pub(super) struct Lent<'m> {
    /// The first field: it is dropped before the RAM is given back.
    device: Device,
    arena: Keep,
    bytes: PhantomData<&'m mut [u8]>,
}

impl<'m> Lent<'m> {
    /// Makes the device ready to read pages of `image` into `bytes`, all of what was lent. `kept` is
    /// what the names of files begin with that are kept for the image.
    pub(super) fn prepare(
        &mut self,
        image: &Image,
        plan: &Plan,
        kept: Option<&Path>,
        bytes: &'m mut [u8],
        note: &mut dyn FnMut(Note<'_>),
    ) -> &'m mut [u8] {
        let (Device::File(disk), Some(kept)) = (&mut self.device, kept) else { return bytes };
        disk.note().into_iter().for_each(|text| note(Note::Remark(text)));
        disk.queue().confine(bytes);
        // A model that stays in RAM whole is read once: nothing depends on how.
        if plan.slots == plan.pages {
            return bytes;
        }
        let Span { offset, len, .. } = image.header.span(Section::Pages);
        let identity = image.header.identity();
        let file = storage::probe_file(kept);
        storage::tune(disk, identity, (offset, len), &file, self.arena.forever(bytes))
    }

    /// What reads, by name.
    pub(super) fn via(&self) -> &'static str {
        self.device.via()
    }
}

impl Keep {
    /// The same bytes, for a device that is dropped before they are given back.
    fn forever(&self, bytes: &mut [u8]) -> &'static mut [u8] {
        let from = bytes.as_ptr().addr().checked_sub(self.0.start().addr().get());
        let end = from.and_then(|from| from.checked_add(bytes.len()));
        assert!(end.is_some_and(|end| end <= self.0.size()), "reads go into what was lent");
        // SAFETY: the bytes are this arena's, so they stay mapped for as long as `self`, which is
        // dropped after the device that they go to; and they are the caller's alone, who has them back
        // through the device only.
        unsafe { slice::from_raw_parts_mut(bytes.as_mut_ptr(), bytes.len()) }
    }
}

impl<'m> Storage<'m> for Lent<'m> {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        self.device.storage().read_at(offset, into)
    }

    fn rest(&mut self, attempt: u8) {
        self.device.storage().rest(attempt);
    }

    fn submit(&mut self, read: Read<'m>) -> Result<(), Read<'m>> {
        let Read { tag, offset, into, urgency, attempt } = read;
        let into = self.arena.forever(into);
        self.device.storage().submit(Read { tag, offset, into, urgency, attempt })
    }

    fn hurry(&mut self, tag: u32) {
        self.device.storage().hurry(tag);
    }

    fn abandon(&mut self, tag: u32) {
        self.device.storage().abandon(tag);
    }

    fn poll(&mut self) -> Option<Completion<'m>> {
        self.device.storage().poll()
    }

    fn wait(&mut self) -> Option<Completion<'m>> {
        self.device.storage().wait()
    }
}
