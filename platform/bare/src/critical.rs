//! Critical sections: interrupts are always masked, so only other cores have to be kept out.

use core::sync::atomic::{AtomicUsize, Ordering};

use critical_section::{Impl, RawRestoreState};

use crate::cores;

struct Spin;

/// Number of the core inside plus 1, or 0.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

critical_section::set_impl!(Spin);

// SAFETY: `acquire` returns only when no other core is inside, with everything that such a core
// wrote visible; a core that is inside already may enter again and leaves with its first entry.
unsafe impl Impl for Spin {
    unsafe fn acquire() -> RawRestoreState {
        let this = cores::number() + 1;
        if INSIDE.load(Ordering::Relaxed) == this {
            return true;
        }
        while INSIDE.compare_exchange_weak(0, this, Ordering::Acquire, Ordering::Relaxed).is_err() {
            core::hint::spin_loop();
        }
        false
    }

    unsafe fn release(again: RawRestoreState) {
        if !again {
            INSIDE.store(0, Ordering::Release);
        }
    }
}
