//! Room that requests share: for bodies, for their values, for forms, for what is kept of answers.

use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, select};
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

/// Room for bodies that are being read: each takes it as its bytes arrive. The last of it is for one that
/// found none: it has that alone, on to its end, so that bodies never all wait for each other.
#[derive(Debug)]
pub struct Bodies {
    shared: Room,
    last: Room,
    most: usize,
}

/// What a body has of the room.
#[derive(Debug, Default)]
pub struct Filled {
    bytes: usize,
    parts: Vec<Part>,
}

impl Bodies {
    /// For so many bytes of bodies, each of `most` at most.
    pub fn new(bytes: usize, most: usize) -> Self {
        Self { shared: Room::new(bytes.saturating_sub(most)), last: Room::new(most), most }
    }

    /// Has a body that is to have so many bytes take as many, once there is room for them; `false` where it
    /// may not have so many.
    pub(crate) async fn fill(&self, filled: &mut Filled, bytes: usize) -> bool {
        /// So that short pieces do not each take a whole KiB, nor each ask.
        const STEP: usize = 16 << 10;
        if bytes > self.most {
            return false;
        }
        if bytes <= filled.bytes {
            return true;
        }
        let step = (bytes - filled.bytes).max(STEP.min(self.most - filled.bytes));
        if let Some(part) = self.shared.take(step) {
            filled.bytes += step;
            filled.parts.push(part);
            return true;
        }
        let (shared, last) = (pin!(self.shared.wait(step)), pin!(self.last.wait(self.most)));
        match select(shared, last).await {
            Either::Left((Some(part), _)) => {
                filled.bytes += step;
                filled.parts.push(part);
            }
            Either::Right((Some(part), _)) => {
                *filled = Filled { bytes: self.most, parts: vec![part] }
            }
            // There are no rooms of terabytes.
            _ => return false,
        }
        true
    }
}

/// What is counted: whole KiB, so that a room may have terabytes.
const fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1024)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn fill(room: &Bodies, filled: &mut Filled, bytes: usize) -> Option<bool> {
        room.fill(filled, bytes).now_or_never()
    }

    #[test]
    fn a_body_takes_room_for_what_has_arrived_of_it() {
        let room = Bodies::new(200 << 10, 100 << 10);
        let mut bodies: [Filled; 3] = Default::default();
        assert_eq!(fill(&room, &mut bodies[0], (100 << 10) + 1), Some(false));
        // Of all three the beginning arrives, then nothing more.
        for body in &mut bodies {
            assert_eq!(fill(&room, body, 10), Some(true));
        }
        let mut whole = Filled::default();
        assert_eq!(fill(&room, &mut whole, 100 << 10), Some(true));
        assert_eq!(fill(&room, &mut Filled::default(), 60 << 10), None);
        drop(whole);
        assert_eq!(fill(&room, &mut Filled::default(), 60 << 10), Some(true));
    }

    #[test]
    fn bodies_that_want_more_than_there_is_come_to_their_end_one_by_one() {
        let room = Bodies::new(200 << 10, 100 << 10);
        let mut bodies: [Filled; 2] = Default::default();
        for body in &mut bodies {
            assert_eq!(fill(&room, body, 50 << 10), Some(true));
        }
        let [first, second] = &mut bodies;
        assert_eq!(fill(&room, first, 90 << 10), Some(true));
        assert_eq!(fill(&room, first, 100 << 10), Some(true));
        // What the first had is free again.
        assert_eq!(fill(&room, second, 99 << 10), Some(true));
        let mut third = Filled::default();
        assert_eq!(fill(&room, &mut third, 50 << 10), None);
        *first = Filled::default();
        assert_eq!(fill(&room, &mut third, 50 << 10), Some(true));
    }

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
