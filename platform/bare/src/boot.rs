//! From the loader to `main`, and the other cores to `secondary_main`.

use core::arch::global_asm;
use core::cell::UnsafeCell;

use crate::board;

/// Stack of the first core: a token's way through the model, and the console.
pub const MAIN_STACK: usize = 52 << 10;
/// Stack of another core: kernels.
pub const STACK: usize = 12 << 10;

/// The lowest bytes of a stack, 2 to this power, are watched: a core that gets there has no stack left.
const GUARD_BITS: u32 = 9;

/// Memory that only assembly and the core it belongs to know. What is watched lies at a multiple of
/// its size.
#[repr(C, align(512))]
struct Stack<const N: usize>(UnsafeCell<[u8; N]>);

// SAFETY: Rust makes no reference into a stack; each is one core's.
unsafe impl<const N: usize> Sync for Stack<N> {}

const _: () = {
    assert!(align_of::<Stack<MAIN_STACK>>() == 1 << GUARD_BITS);
    assert!(MAIN_STACK.is_multiple_of(1 << GUARD_BITS) && STACK.is_multiple_of(1 << GUARD_BITS));
};

static MAIN: Stack<MAIN_STACK> = Stack(UnsafeCell::new([0; MAIN_STACK]));
static OTHERS: Stack<{ STACK * (board::CORES - 1) }> =
    Stack(UnsafeCell::new([0; STACK * (board::CORES - 1)]));

global_asm!(
    include_str!("boot.s"),
    main_stack = sym MAIN,
    main_stack_bytes = const MAIN_STACK,
    stacks = sym OTHERS,
    stack_bytes = const STACK,
    guard_bits = const GUARD_BITS,
    main = sym crate::main,
    secondary_main = sym crate::cores::secondary_main,
    exception = sym crate::cpu::exception,
);
global_asm!(include_str!(concat!(env!("OUT_DIR"), "/tables.s")));
global_asm!(include_str!("memory.s"));

unsafe extern "C" {
    /// Where the other cores begin.
    pub fn start_secondary();
    static _start: u8;
    static __image_end: u8;
}

/// The first address after the program, aligned to 16 KiB.
pub fn image_end() -> usize {
    (&raw const __image_end).addr()
}

/// Bytes of the program: code, data, stacks and heap.
pub fn image_bytes() -> usize {
    image_end() - (&raw const _start).addr()
}

/// Bytes of the stack of core `number` that were ever used, and its size: stacks begin as zeros.
pub fn stack_use(number: usize) -> (usize, usize) {
    let (start, bytes) = match number {
        0 => (MAIN.0.get().addr(), MAIN_STACK),
        _ => (OTHERS.0.get().addr() + (number - 1) * STACK, STACK),
    };
    let untouched = (start..start + bytes).step_by(size_of::<u64>()).take_while(|&at| {
        // SAFETY: the address lies in a stack; its core may write there, and any value will do.
        unsafe { (at as *const u64).read_volatile() == 0 }
    });
    (bytes - untouched.count() * size_of::<u64>(), bytes)
}
