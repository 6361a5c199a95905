//! The experts' pages: which are in RAM, which are on their way, and which must go.

mod cache;
mod lookahead;
mod policy;

pub use cache::{Arrival, Cache, CacheStats, Memory, PageError, PageFault, Part, SlotId};
pub use lookahead::Lookahead;
pub use policy::{DecayedLfu, History, LayerLru, Lru, Policy};
