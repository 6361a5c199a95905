//! A small heap, for the virtio drivers alone. Other boards have none: whoever asked would get
//! nothing, and nobody asks.

#[cfg(block = "virtio")]
pub use small::start;

#[cfg(block = "virtio")]
mod small {
    use core::cell::UnsafeCell;
    use core::mem::MaybeUninit;

    use embedded_alloc::LlffHeap;

    const BYTES: usize = 6 << 10;

    struct Memory(UnsafeCell<[MaybeUninit<u8>; BYTES]>);

    // SAFETY: only the heap uses it.
    unsafe impl Sync for Memory {}

    static MEMORY: Memory = Memory(UnsafeCell::new([MaybeUninit::uninit(); BYTES]));

    #[global_allocator]
    static HEAP: LlffHeap = LlffHeap::empty();

    /// Makes the heap ready; to be called once.
    pub fn start() {
        // SAFETY: the memory is static and used by nobody else.
        unsafe { HEAP.init(MEMORY.0.get().addr(), BYTES) };
    }
}

#[cfg(not(block = "virtio"))]
mod none {
    use core::alloc::{GlobalAlloc, Layout};
    use core::ptr;

    /// The virtio crate names a heap also where nothing of it is used.
    struct NoHeap;

    #[global_allocator]
    static HEAP: NoHeap = NoHeap;

    // SAFETY: null says that there is no memory; nothing that was given out can come back.
    unsafe impl GlobalAlloc for NoHeap {
        unsafe fn alloc(&self, _: Layout) -> *mut u8 {
            ptr::null_mut()
        }
        unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
    }
}
