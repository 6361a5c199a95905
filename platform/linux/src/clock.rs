use std::time::Instant;

use rill::seams::{Clock, Micros};

/// The system's monotonic clock, counted from when this value was made.
#[derive(Debug, Clone, Copy)]
pub struct Monotonic {
    start: Instant,
}

impl Monotonic {
    /// A clock that begins at zero now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for Monotonic {
    fn now(&self) -> Micros {
        // 64 bits of microseconds last half a million years.
        self.start.elapsed().as_micros() as Micros
    }
}
