//! What the engine needs of Linux: RAM, cores, time and files.

pub mod arena;
/// Time.
pub mod clock;
/// What the CPU can do.
pub mod cpu;
pub mod crew;
pub mod memory;
pub mod pool;
pub mod regular;
pub mod replace;
pub mod storage;
