use std::collections::VecDeque;

use rill::seams::{Completion, Geometry, Read, Storage, StorageError, StorageErrorKind, Urgency};

use super::pieces::REQUESTS;

/// An image that lies in the address space, such as the one built into the program.
#[derive(Debug)]
pub struct InMemory {
    data: &'static [u8],
    demand: VecDeque<Read<'static>>,
    ahead: VecDeque<Read<'static>>,
}

impl InMemory {
    /// A device with these bytes.
    pub fn new(data: &'static [u8]) -> Self {
        let queue = || VecDeque::with_capacity(REQUESTS);
        Self { data, demand: queue(), ahead: queue() }
    }
}

impl Storage<'static> for InMemory {
    fn geometry(&self) -> Geometry {
        Geometry { len: self.data.len() as u64, alignment: 1, depth: REQUESTS as u16 }
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let from = usize::try_from(offset).ok();
        let bytes = from
            .and_then(|from| self.data.get(from..from.checked_add(into.len())?))
            .ok_or(StorageError { kind: StorageErrorKind::PastEnd, code: 0 })?;
        into.copy_from_slice(bytes);
        Ok(())
    }

    fn submit(&mut self, read: Read<'static>) -> Result<(), Read<'static>> {
        if self.demand.len() + self.ahead.len() == REQUESTS {
            return Err(read);
        }
        match read.urgency {
            Urgency::Demand => self.demand.push_back(read),
            Urgency::Ahead => self.ahead.push_back(read),
        }
        Ok(())
    }

    fn hurry(&mut self, tag: u32) {
        let guess = self.ahead.iter().position(|read| read.tag == tag);
        self.demand.extend(guess.and_then(|at| self.ahead.remove(at)));
    }

    fn poll(&mut self) -> Option<Completion<'static>> {
        let Read { tag, offset, into, .. } =
            self.demand.pop_front().or_else(|| self.ahead.pop_front())?;
        let result = self.read_at(offset, into);
        Some(Completion { tag, into, result })
    }

    fn wait(&mut self) -> Option<Completion<'static>> {
        self.poll()
    }
}
