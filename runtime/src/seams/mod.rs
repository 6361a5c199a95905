//! What the engine asks of the world it runs in: storage, a clock, cores, and somebody to tell.
//!
//! A platform implements these four traits; the engine knows no operating system, file or thread.
//! Beside each trait lies a fake for tests (feature `fake`); [`Crew`] makes [`Parallel`] of any way to
//! let cores sleep, [`Blocking`] is [`Storage`] where a read is a call that returns with the bytes, such
//! as from memory ([`InMemory`]), and on [`pieces`] stands what is [`Storage`] on a device with a queue.

mod blocking;
mod clock;
mod crew;
mod events;
mod parallel;
pub mod pieces;
mod storage;

pub use blocking::{Blocking, InMemory, ReadAt};
#[cfg(any(test, feature = "fake"))]
pub use clock::ManualClock;
pub use clock::{Clock, Micros};
pub use crew::{Crew, Park};
#[cfg(any(test, feature = "fake"))]
pub use events::Recorder;
pub use events::{Event, Events, Silent};
pub use parallel::{Parallel, Serial, Shared, for_each_chunk};
pub use storage::{
    Completion, Geometry, RETRIES, Read, Slice, Storage, StorageError, StorageErrorKind, Urgency,
};
#[cfg(any(test, feature = "fake"))]
pub use storage::{Fault, RamDisk};

/// The world, borrowed for one call into the engine.
///
/// `'a` is the lifetime of the arena, whose slots travel through the storage while they are read.
pub struct World<'w, 'a> {
    /// Where pages come from.
    pub storage: &'w mut dyn Storage<'a>,
    /// The cores.
    pub parallel: &'w dyn Parallel,
    /// Time, for statistics only: no result ever depends on it.
    pub clock: &'w dyn Clock,
    /// Who hears what happens.
    pub events: &'w mut dyn Events,
}
