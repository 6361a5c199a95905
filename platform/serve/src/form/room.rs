//! What all forms may take together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes for the forms that are kept, that wait and that are at work, but for what they grow by there.
#[derive(Debug, Clone)]
pub struct Room(Arc<Semaphore>);

/// What a form has of them, given back with the form.
pub type Part = OwnedSemaphorePermit;

impl Room {
    /// For so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / 1024)))
    }

    /// So many of them, if they are left.
    pub fn take(&self, bytes: usize) -> Option<Part> {
        let kib = u32::try_from(bytes.div_ceil(1024)).ok()?;
        Arc::clone(&self.0).try_acquire_many_owned(kib).ok()
    }
}
