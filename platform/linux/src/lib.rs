//! What the engine needs of Linux (RAM, cores, time and files), and a loaded model for programs to stand
//! on: see [`engine`].

pub mod answer;
pub mod arena;
/// Time.
pub mod clock;
pub mod crew;
pub mod engine;
#[cfg(test)]
mod fixtures;
pub mod memory;
pub mod model;
pub mod pool;
pub mod regular;
pub mod replace;
pub mod sealed;
pub mod storage;
pub mod system;
pub mod talk;
