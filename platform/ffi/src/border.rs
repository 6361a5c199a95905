//! What comes over the border is looked at before it is used, and nothing unwinds over it.

use core::ptr::NonNull;

use crate::status::{Failed, Failure, Status, Text, Why};

/// The elements that a caller points to. None where there are none, whatever the pointer is.
///
/// # Safety
/// A pointer that is neither null nor unaligned points to `len` elements that nobody changes for `'a`.
pub unsafe fn elements<'a, T>(start: *const T, len: usize) -> Result<&'a [T], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    let is_room =
        len.checked_mul(size_of::<T>()).is_some_and(|bytes| isize::try_from(bytes).is_ok());
    if start.is_null() || !start.is_aligned() || !is_room {
        return Err(Failure::argument("an array is null or not aligned, or too long"));
    }
    // SAFETY: it is neither null nor unaligned, so the caller's promise holds; its length is one that
    // an array can have.
    Ok(unsafe { core::slice::from_raw_parts(start, len) })
}

/// As [`elements`], to be written to.
///
/// # Safety
/// As there, and nobody else looks at them for `'a`.
pub unsafe fn elements_mut<'a, T>(start: *mut T, len: usize) -> Result<&'a mut [T], Failure> {
    // SAFETY: the caller's promise is stronger.
    unsafe { elements(start.cast_const(), len)? };
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as in `elements`; nobody else looks at them.
    Ok(unsafe { core::slice::from_raw_parts_mut(start, len) })
}

/// The text that a caller points to.
///
/// # Safety
/// As for [`elements`].
pub unsafe fn text<'a>(start: *const core::ffi::c_char, len: usize) -> Result<&'a str, Failure> {
    // SAFETY: the caller's promise is the same.
    let bytes = unsafe { elements(start.cast::<u8>(), len)? };
    core::str::from_utf8(bytes).map_err(|error| Failure::new(Status::Text, Why::Utf8(error)))
}

/// The structure that a caller points to.
///
/// # Safety
/// As for [`elements`], of one.
pub unsafe fn structure<'a, T>(start: *const T) -> Result<&'a T, Failure> {
    // SAFETY: the caller's promise is the same.
    unsafe { elements(start, 1).map(|one| &one[0]) }
}

/// Where the caller wants a result.
pub struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    /// Looks at it.
    ///
    /// # Safety
    /// A pointer that is neither null nor unaligned points to room for a `T`, which nobody else looks
    /// at for as long as this lives.
    pub unsafe fn new(start: *mut T) -> Result<Self, Failure> {
        let place = NonNull::new(start).filter(|start| start.is_aligned());
        place.map(Self).ok_or_else(|| Failure::argument("a result has no place: a null pointer"))
    }

    /// Looks at it, where the caller wants it at all.
    ///
    /// # Safety
    /// As for [`Self::new`].
    pub unsafe fn optional(start: *mut T) -> Result<Option<Self>, Failure> {
        if start.is_null() {
            return Ok(None);
        }
        // SAFETY: the caller's promise is the same.
        unsafe { Self::new(start) }.map(Some)
    }

    /// Writes the result.
    pub fn set(&self, value: T) {
        // SAFETY: there is room, as was promised to `new`.
        unsafe { self.0.write(value) };
    }
}

/// Calls `body`; `None` when it panics, where that can be caught.
pub fn guarded<R>(body: impl FnOnce() -> R) -> Option<R> {
    #[cfg(feature = "std")]
    return std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).ok();
    #[cfg(not(feature = "std"))]
    Some(body())
}

/// A call without a model: what came of it, also in words where the caller wants them.
///
/// # Safety
/// As for [`Out::new`].
pub unsafe fn call(error: *mut Failed, body: impl FnOnce() -> Result<(), Failure>) -> Status {
    let ended = guarded(body).unwrap_or(Err(Status::Fault.into()));
    let (status, text) = match ended {
        Ok(()) => (Status::Ok, Text::default()),
        Err(failure) => (failure.status, failure.text()),
    };
    // SAFETY: the caller's promise is the same.
    if let Ok(out) = unsafe { Out::new(error) } {
        out.set(Failed { status, text: text.to_c() });
    }
    status
}
