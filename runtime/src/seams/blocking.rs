use super::{Completion, Geometry, Read, Storage, StorageError, StorageErrorKind, Urgency};

/// Reads that may be under way.
const DEPTH: usize = 64;

/// What has an image's bytes and gives them before a call returns.
pub trait ReadAt {
    /// Bytes that can be read.
    fn len(&self) -> u64;

    /// Whether there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Offsets, lengths and buffer addresses must be multiples of this: see [`Geometry`].
    fn alignment(&self) -> u32 {
        1
    }

    /// Fills `into` with the bytes from `offset` on, or fails.
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError>;
}

/// A device without a queue: a read is done when somebody looks for what came of it, those that are
/// waited for first.
#[derive(Debug)]
pub struct Blocking<'a, R> {
    source: R,
    /// In order of arrival.
    reads: heapless::Vec<Read<'a>, DEPTH>,
}

/// An image that lies in the address space, such as one built into the program or in flash that the
/// CPU can read.
pub type InMemory<'d, 'a> = Blocking<'a, &'d [u8]>;

impl<R> Blocking<'_, R> {
    /// A device with these bytes.
    pub const fn new(source: R) -> Self {
        Self { source, reads: heapless::Vec::new() }
    }
}

impl ReadAt for &[u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let from = usize::try_from(offset).ok();
        let bytes = from
            .and_then(|from| self.get(from..from.checked_add(into.len())?))
            .ok_or(StorageError { kind: StorageErrorKind::PastEnd, code: 0 })?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}

impl<'a, R: ReadAt> Storage<'a> for Blocking<'a, R> {
    fn geometry(&self) -> Geometry {
        let (len, alignment) = (self.source.len(), self.source.alignment());
        Geometry { len, alignment, depth: DEPTH as u16 }
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        self.source.read_at(offset, into)
    }

    fn submit(&mut self, read: Read<'a>) -> Result<(), Read<'a>> {
        self.reads.push(read)
    }

    fn hurry(&mut self, tag: u32) {
        let hurried = self.reads.iter_mut().filter(|read| read.tag == tag);
        hurried.for_each(|read| read.urgency = Urgency::Demand);
    }

    fn poll(&mut self) -> Option<Completion<'a>> {
        let wanted = self.reads.iter().position(|read| read.urgency == Urgency::Demand);
        let next = wanted.or_else(|| (!self.reads.is_empty()).then_some(0))?;
        let Read { tag, offset, into, .. } = self.reads.remove(next);
        let result = self.read_at(offset, into);
        Some(Completion { tag, into, result })
    }

    fn wait(&mut self) -> Option<Completion<'a>> {
        self.poll()
    }
}
