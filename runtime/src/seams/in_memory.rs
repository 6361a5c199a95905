use super::{Completion, Geometry, Read, Storage, StorageError, StorageErrorKind, Urgency};

/// Reads that may be under way.
const DEPTH: usize = 64;

/// An image that lies in the address space, such as one built into the program or in flash that the
/// CPU can read.
#[derive(Debug)]
pub struct InMemory<'d, 'a> {
    data: &'d [u8],
    /// In order of arrival.
    reads: heapless::Vec<Read<'a>, DEPTH>,
}

impl<'d> InMemory<'d, '_> {
    /// A device with these bytes.
    pub const fn new(data: &'d [u8]) -> Self {
        Self { data, reads: heapless::Vec::new() }
    }
}

impl<'a> Storage<'a> for InMemory<'_, 'a> {
    fn geometry(&self) -> Geometry {
        Geometry { len: self.data.len() as u64, alignment: 1, depth: DEPTH as u16 }
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let from = usize::try_from(offset).ok();
        let bytes = from
            .and_then(|from| self.data.get(from..from.checked_add(into.len())?))
            .ok_or(StorageError { kind: StorageErrorKind::PastEnd, code: 0 })?;
        into.copy_from_slice(bytes);
        Ok(())
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
