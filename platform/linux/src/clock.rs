use std::time::{Instant, SystemTime, UNIX_EPOCH};

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

/// What the local clock shows at a time, in seconds since its 1970 began.
pub fn local_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = libc::time_t::try_from(since.as_secs()).unwrap_or(0);
    // SAFETY: all of its fields are integers and a pointer, for which zero is a value.
    let mut parts: libc::tm = unsafe { core::mem::zeroed() };
    // SAFETY: both are valid for the call. It reads `TZ`, which nobody here changes.
    let known = unsafe { !libc::localtime_r(&seconds, &mut parts).is_null() };
    seconds + if known { parts.tm_gmtoff } else { 0 }
}
