//! Room that requests share: for bodies, for their values, for forms, for what is kept of answers.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many bytes, of which parts are taken and come back.
#[derive(Debug, Clone)]
pub struct Room(Arc<Semaphore>);

/// A part of a room, which comes back when it is dropped.
#[derive(Debug)]
pub struct Part(
    #[expect(dead_code, reason = "it counts as long as it is there")] OwnedSemaphorePermit,
);

impl Room {
    /// For so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(kib(bytes))))
    }

    /// Makes it larger by so many.
    pub(crate) fn grow(&self, bytes: usize) {
        self.0.add_permits(kib(bytes));
    }

    /// So many of them, if they are left.
    pub(crate) fn take(&self, bytes: usize) -> Option<Part> {
        let count = u32::try_from(kib(bytes)).ok()?;
        Arc::clone(&self.0).try_acquire_many_owned(count).ok().map(Part)
    }

    /// So many of them, once they are left and those who came before have theirs; nothing where there can
    /// never be so many.
    pub(crate) async fn wait(&self, bytes: usize) -> Option<Part> {
        let count = u32::try_from(kib(bytes)).ok()?;
        Arc::clone(&self.0).acquire_many_owned(count).await.ok().map(Part)
    }
}

/// What is counted: whole KiB, so that a room may have terabytes.
const fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let room = Room::new(3000);
        let whole = room.take(3000).expect("it is empty");
        assert!(room.take(1).is_none());
        drop(whole);
        let _one = room.take(1).expect("it is empty again");
        assert!(room.take(3000).is_none());
        room.grow(1);
        assert!(room.take(3000).is_some());
    }
}
