/// Microseconds since some fixed moment.
pub type Micros = u64;

/// A clock for statistics and traces.
///
/// An implementation MUST be monotonic, MUST NOT overflow within the life of the program and
/// cannot fail.
pub trait Clock: Sync {
    /// The time now.
    fn now(&self) -> Micros;
}

/// A clock that moves by a fixed step at each look: traces made with it repeat exactly.
#[cfg(any(test, feature = "fake"))]
#[derive(Debug, Default)]
pub struct ManualClock {
    now: core::sync::atomic::AtomicUsize,
    step: usize,
}

#[cfg(any(test, feature = "fake"))]
impl ManualClock {
    /// A clock at zero that advances `step` microseconds whenever it is read.
    pub const fn new(step: usize) -> Self {
        Self { now: core::sync::atomic::AtomicUsize::new(0), step }
    }
}

#[cfg(any(test, feature = "fake"))]
impl Clock for ManualClock {
    fn now(&self) -> Micros {
        self.now.fetch_add(self.step, core::sync::atomic::Ordering::Relaxed) as Micros
    }
}
