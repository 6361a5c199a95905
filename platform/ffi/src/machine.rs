//! Cores and a clock: the library's own, or the caller's.

use core::ffi::c_void;

use rill::kernels::CpuFeatures;
use rill::seams::{Clock, Micros, Parallel, Serial};

use crate::border::structure;
use crate::options::{Cores, Options};
use crate::status::Failure;

/// What computes.
pub enum Workers {
    /// The caller's thread.
    One(Serial),
    /// Cores of the caller's.
    Callers(CallersCores),
    /// Threads.
    #[cfg(feature = "std")]
    Pool(rill_linux::pool::Pool),
}

impl Workers {
    /// As the caller says.
    ///
    /// # Safety
    /// As for [`structure`].
    pub unsafe fn new(options: &Options) -> Result<Self, Failure> {
        if options.cores.is_null() {
            return Ok(Self::own(options.threads));
        }
        // SAFETY: it is not null, so the caller's promise holds.
        let cores = *unsafe { structure(options.cores)? };
        match cores.run {
            Some(_) if cores.width > 0 => Ok(Self::Callers(CallersCores(cores))),
            _ => Err(Failure::argument("`cores` has no `run`, or no core")),
        }
    }

    #[cfg(feature = "std")]
    fn own(threads: u32) -> Self {
        let most = std::thread::available_parallelism().map_or(1, usize::from);
        match if threads == 0 { most } else { threads as usize } {
            1 => Self::One(Serial),
            // More threads than this are a mistake, and more than the engine would use.
            threads => Self::Pool(rill_linux::pool::Pool::new(threads.min(1024))),
        }
    }

    #[cfg(not(feature = "std"))]
    fn own(_: u32) -> Self {
        Self::One(Serial)
    }

    /// For the engine.
    pub fn parallel(&self) -> &dyn Parallel {
        match self {
            Self::One(serial) => serial,
            Self::Callers(cores) => cores,
            #[cfg(feature = "std")]
            Self::Pool(pool) => pool,
        }
    }
}

/// Cores of the caller's.
pub struct CallersCores(Cores);

// SAFETY: `run` is called only within the caller's own calls, by one core at a time; its parts do not
// look at the structure.
unsafe impl Sync for CallersCores {}

/// What the parts of a loop share.
struct Work<'b> {
    parts: usize,
    body: &'b (dyn Fn(usize) + Sync),
}

/// A part of a loop, on any core.
extern "C" fn part(work: *mut c_void, index: usize) {
    // SAFETY: the caller was told to give it what it was given, and not to come late: `run` has not
    // returned, so the loop is there.
    let work = unsafe { &*work.cast::<Work<'_>>() };
    // Another number would be a part of nothing.
    if index < work.parts {
        (work.body)(index);
    }
}

impl Parallel for CallersCores {
    fn width(&self) -> usize {
        self.0.width
    }

    fn run(&self, parts: usize, body: &(dyn Fn(usize) + Sync)) {
        match self.0.run {
            Some(run) if parts > 1 => {
                let mut work = Work { parts, body };
                run(self.0.context, parts, part, (&raw mut work).cast());
            }
            _ => (0..parts).for_each(body),
        }
    }
}

/// Time, for statistics.
pub enum Time {
    /// The caller's.
    Callers(extern "C" fn(context: *mut c_void) -> u64, *mut c_void),
    /// The system's.
    #[cfg(feature = "std")]
    System(rill_linux::clock::Monotonic),
    /// There is none.
    #[cfg(not(feature = "std"))]
    None,
}

// SAFETY: it is asked only within the caller's own calls, by one core at a time.
unsafe impl Sync for Time {}

impl Time {
    /// As the caller says.
    pub fn new(options: &Options) -> Self {
        match options.now {
            Some(now) => Self::Callers(now, options.now_context),
            #[cfg(feature = "std")]
            None => Self::System(rill_linux::clock::Monotonic::start()),
            #[cfg(not(feature = "std"))]
            None => Self::None,
        }
    }
}

impl Clock for Time {
    fn now(&self) -> Micros {
        match self {
            Self::Callers(now, context) => now(*context),
            #[cfg(feature = "std")]
            Self::System(clock) => clock.now(),
            #[cfg(not(feature = "std"))]
            Self::None => 0,
        }
    }
}

/// What the cores can do.
pub fn features() -> CpuFeatures {
    #[cfg(feature = "std")]
    return CpuFeatures::detect();
    #[cfg(all(not(feature = "std"), target_arch = "aarch64"))]
    // SAFETY: the library was compiled for cores that have Advanced SIMD, and with what else the
    // compiler was told that they have.
    return unsafe {
        let has = |feature, bit| if feature { bit } else { 0 };
        CpuFeatures::new(
            CpuFeatures::NEON
                | has(cfg!(target_feature = "dotprod"), CpuFeatures::DOTPROD)
                | has(cfg!(target_feature = "i8mm"), CpuFeatures::I8MM),
        )
    };
    #[cfg(all(not(feature = "std"), not(target_arch = "aarch64")))]
    CpuFeatures::NONE
}
