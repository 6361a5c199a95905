//! A small heap, for the virtio drivers alone.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

use embedded_alloc::LlffHeap;

const BYTES: usize = 8 << 10;

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
