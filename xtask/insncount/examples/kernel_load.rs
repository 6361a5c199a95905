//! Calls one kernel some number of times: `kernel_load TABLE OPERATION TOKENS CALLS`.
//!
//! It neither uses `std` nor prints, so that the same program runs on Linux and, as an image
//! without an operating system, under qemu-user: what differs is only how the kernels were
//! compiled. The operands are zeros: no kernel's path depends on values.

#![no_std]
#![no_main]

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char, c_int};

use rill::image::layout::{BLOCK, Format, TILE_ROWS};
use rill::kernels::{
    self, Attend, Blocks, CpuFeatures, FinePanel, Head, KV_BLOCK, Kernels, KeyValues, MAX_WIDTH,
    Panel,
};

#[cfg(not(target_os = "none"))]
extern crate std;

/// Columns of the matrices.
const COLS: usize = 2048;
const TILE_ROW_COUNT: usize = 2;
const HEAD_DIM: usize = 64;
const POSITIONS: usize = 256;
const QUERIES: usize = 4;
/// The blocks of keys and values.
const TABLE: [u32; POSITIONS / KV_BLOCK] = [0, 1, 2, 3];

/// Operands, aligned as the engine aligns them.
#[repr(C, align(64))]
struct Operands {
    q4: [u8; TILE_ROW_COUNT * Format::Q4.tile_row_bytes(COLS / BLOCK)],
    q8: [u8; TILE_ROW_COUNT * Format::Q8.tile_row_bytes(COLS / BLOCK)],
    panel: [i32; Panel::len(MAX_WIDTH, COLS)],
    fine: [i32; FinePanel::len(MAX_WIDTH, COLS)],
    y: [f32; TILE_ROW_COUNT * MAX_WIDTH * TILE_ROWS],
    router: [f32; TILE_ROW_COUNT * COLS * TILE_ROWS],
    x: [f32; MAX_WIDTH * COLS],
    z: [f32; COLS],
    weight: [f32; COLS],
    keys_and_values: [u16; 2 * POSITIONS * HEAD_DIM],
}

struct Shared(UnsafeCell<Operands>);

// SAFETY: this program has one thread.
unsafe impl Sync for Shared {}

// SAFETY: numbers; zero is a value of each.
static OPERANDS: Shared = Shared(UnsafeCell::new(unsafe { core::mem::zeroed() }));

/// Calls `operation` of `kernels` once, for `tokens` tokens; false when there is none of that name.
fn call(kernels: &Kernels, operation: &[u8], tokens: usize, o: &mut Operands) -> bool {
    let panel = &mut o.panel[..Panel::len(tokens, COLS)];
    let fine = &mut o.fine[..FinePanel::len(tokens, COLS)];
    let rows = &o.x[..tokens * COLS];
    let y = &mut o.y[..TILE_ROW_COUNT * tokens * TILE_ROWS];
    match operation {
        b"q4" => kernels.matmul(Format::Q4, &o.q4, Panel::new(panel, tokens), y),
        b"q8" => kernels.matmul(Format::Q8, &o.q8, Panel::new(panel, tokens), y),
        b"q4_fine" => kernels.matmul_fine(Format::Q4, &o.q4, FinePanel::new(fine, tokens), y),
        b"q8_fine" => kernels.matmul_fine(Format::Q8, &o.q8, FinePanel::new(fine, tokens), y),
        b"f32" => (kernels.matmul_f32)(&o.router, &o.z, &mut o.y[..TILE_ROW_COUNT * TILE_ROWS]),
        b"quantise" => (kernels.quantise)(rows, tokens, panel),
        b"quantise_fine" => (kernels.quantise_fine)(rows, tokens, fine),
        b"swiglu" => (kernels.swiglu)(&mut o.z, &o.weight),
        b"rms_norm" => (kernels.rms_norm)(&o.x[..COLS], &o.weight, 1e-5, &mut o.z),
        b"add_scaled" => (kernels.add_scaled)(&mut o.z, &o.weight, 0.5),
        b"attend" => {
            let (pool, values_at) = (&o.keys_and_values[..], KV_BLOCK * HEAD_DIM);
            let (stride, width) = (2 * values_at, HEAD_DIM);
            let table = &TABLE[..];
            let blocks = Blocks { pool, table, stride, keys_at: 0, values_at, width };
            let attend = Attend {
                queries: &o.x[..QUERIES * HEAD_DIM],
                kv: KeyValues::F16(Head::unscaled(blocks)),
                head_dim: HEAD_DIM,
                len: POSITIONS,
            };
            (kernels.attend)(&attend, &mut o.z[..QUERIES * HEAD_DIM]);
        }
        _ => return false,
    }
    true
}

/// The decimal number `text`.
fn number(text: &[u8]) -> Option<usize> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

fn run(table: &[u8], operation: &[u8], tokens: usize, calls: usize) -> Option<()> {
    // SAFETY: the caller picks a table that the emulated CPU can run.
    let features =
        unsafe { CpuFeatures::new(CpuFeatures::NEON | CpuFeatures::DOTPROD | CpuFeatures::I8MM) };
    let kernels = kernels::by_name(core::str::from_utf8(table).ok()?, features)?;
    // SAFETY: the only reference.
    let operands = unsafe { &mut *OPERANDS.0.get() };
    (0..calls).all(|_| call(kernels, operation, tokens, operands)).then_some(())
}

/// Exits with 0, or with 2 when the arguments are wrong.
///
/// # Safety
/// `argv` holds `argc` strings.
#[unsafe(no_mangle)]
unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    if argc != 5 {
        return 2;
    }
    // SAFETY: the caller vouches for them.
    let arguments = [1, 2, 3, 4].map(|i| unsafe { CStr::from_ptr(*argv.add(i)) }.to_bytes());
    let [table, operation, tokens, calls] = arguments;
    let done = number(tokens).zip(number(calls)).and_then(|(t, c)| run(table, operation, t, c));
    if done.is_some() { 0 } else { 2 }
}

// The start of a Linux process: the stack holds the arguments.
#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".global _start",
    "_start:",
    "ldr x0, [sp]",
    "add x1, sp, #8",
    "bl main",
    "mov x8, #93", // exit
    "svc #0",
);

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: ends the process; exit status 101.
    unsafe { core::arch::asm!("svc #0", in("x8") 93, in("x0") 101, options(noreturn)) }
}
