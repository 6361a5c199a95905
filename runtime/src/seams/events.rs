use super::{Micros, StorageErrorKind};

/// What happens inside the engine, as it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Event {
    /// The router chose `expert` of MoE bank `bank` for the token at `position`.
    Routed {
        /// Number of the token's sequence in the batch.
        run: u16,
        /// Position of the token in the sequence.
        position: u32,
        /// Number of the MoE layer, counted from the first MoE layer.
        bank: u16,
        /// The expert.
        expert: u16,
    },
    /// A page is not in RAM and was asked of the storage.
    Miss {
        /// The page: `bank * experts + expert`.
        page: u32,
    },
    /// A page arrived and its checksum was right.
    Arrived {
        /// The page.
        page: u32,
        /// Time from the request to here.
        waited: Micros,
    },
    /// A page left RAM to make room.
    Evicted {
        /// The page.
        page: u32,
    },
    /// A read failed and is tried again.
    Retry {
        /// The page.
        page: u32,
        /// What was wrong; `None` when the bytes arrived and their checksum was wrong.
        error: Option<StorageErrorKind>,
    },
}

/// Hears events. It MUST return quickly and cannot fail; it is called on the engine's own core.
pub trait Events {
    /// `event` has just happened.
    fn hear(&mut self, event: Event);

    /// Whether whoever listens wants the batch under way to end before it is complete: its tokens are
    /// then still to be computed. Asked several times in each layer.
    fn wants_stop(&mut self) -> bool {
        false
    }
}

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Events for Silent {
    fn hear(&mut self, _: Event) {}
}

/// Keeps the first `N` events.
#[cfg(any(test, feature = "fake"))]
#[derive(Debug, Default)]
pub struct Recorder<const N: usize> {
    /// The events, oldest first.
    pub events: heapless::Vec<Event, N>,
}

#[cfg(any(test, feature = "fake"))]
impl<const N: usize> Events for Recorder<N> {
    fn hear(&mut self, event: Event) {
        // A full recorder keeps what it has.
        let _ = self.events.push(event);
    }
}
