//! The engine's crew of threads, built with the atomics of loom: `crew_model.rs`, beside it, has the
//! tests. Without `--cfg loom` this crate is empty.

#[cfg(loom)]
#[path = "../../../runtime/src/seams/crew.rs"]
mod crew;
#[cfg(loom)]
#[path = "../../../runtime/src/seams/parallel.rs"]
mod parallel;

#[cfg(loom)]
pub use crew::{Crew, Park};
#[cfg(loom)]
pub use parallel::{Parallel, Serial, Shared, for_each_chunk};
