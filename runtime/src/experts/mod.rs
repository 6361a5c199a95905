//! The experts' pages: which are in RAM, which are on their way, and which must go.

mod cache;
mod history;
mod lookahead;
mod policy;
mod shelf;

pub use cache::{Cache, CacheStats, Memory, PageError, PageFault, Part};
pub use history::{History, Rates};
pub use lookahead::Lookahead;
pub use policy::{DecayedLfu, LayerLru, Lru, POLICIES, Policy, Reuse, policy};
pub use shelf::{Found, Placed, Shelf, SlotId};
