//! A plugin for qemu-user that counts executed instructions, exactly and repeatably.
//!
//! `qemu-aarch64 -plugin libinsncount.so PROGRAM` prints `total N` on stderr when the program ends.
//! Each argument `NAME=START:END` (hexadecimal addresses of a static program, as `nm -S` shows
//! them) adds a line with the count within that range. Programs with several threads are not
//! counted exactly: the threads share the counters without locks.
//!
//! The declarations follow QEMU's documented plugin interface, version 1
//! (<https://www.qemu.org/docs/master/devel/tcg-plugins.html>), which QEMU 4.2 to 8.2 offer.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

/// The interface version, which QEMU reads before it calls anything.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 1;

/// `QEMU_PLUGIN_INLINE_ADD_U64`.
const INLINE_ADD_U64: c_int = 0;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, callback: extern "C" fn(u64, *mut c_void));
    fn qemu_plugin_register_atexit_cb(
        id: u64,
        callback: extern "C" fn(u64, *mut c_void),
        data: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_tb_exec_inline(
        block: *mut c_void,
        operation: c_int,
        counter: *mut c_void,
        add: u64,
    );
    fn qemu_plugin_tb_n_insns(block: *const c_void) -> usize;
    fn qemu_plugin_tb_get_insn(block: *const c_void, index: usize) -> *mut c_void;
    fn qemu_plugin_insn_vaddr(instruction: *const c_void) -> u64;
}

/// Instructions executed at addresses `start..end`.
struct Counter {
    name: String,
    start: u64,
    end: u64,
    count: UnsafeCell<u64>,
}

// SAFETY: after installation `count` is only written by translated code and read once at the end;
// a lost update makes a count wrong, as the crate's documentation says, and nothing else.
unsafe impl Sync for Counter {}
// SAFETY: owns all it holds.
unsafe impl Send for Counter {}

impl Counter {
    fn new(name: &str, start: u64, end: u64) -> Self {
        Self { name: name.to_owned(), start, end, count: UnsafeCell::new(0) }
    }

    /// Parses `NAME=START:END`.
    fn parse(argument: &str) -> Option<Self> {
        let (name, range) = argument.split_once('=')?;
        let (start, end) = range.split_once(':')?;
        let address = |s: &str| u64::from_str_radix(s.trim_start_matches("0x"), 16).ok();
        Some(Self::new(name, address(start)?, address(end)?))
    }
}

static COUNTERS: OnceLock<Vec<Counter>> = OnceLock::new();

/// QEMU's entry point: returns 0 when the plugin is ready.
///
/// # Safety
/// `argv` holds `argc` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    _info: *const c_void,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    let mut counters = vec![Counter::new("total", 0, u64::MAX)];
    for i in 0..argc.max(0) as usize {
        // SAFETY: the caller vouches for the arguments.
        let argument = unsafe { CStr::from_ptr(*argv.add(i)) }.to_string_lossy();
        match Counter::parse(&argument) {
            Some(counter) => counters.push(counter),
            None => {
                eprintln!(
                    "insncount: {argument:?} is not NAME=START:END with hexadecimal addresses"
                );
                return 1;
            }
        }
    }
    if COUNTERS.set(counters).is_err() {
        eprintln!("insncount: load this plugin once");
        return 1;
    }
    // SAFETY: both callbacks live as long as the process.
    unsafe {
        qemu_plugin_register_vcpu_tb_trans_cb(id, on_translated);
        qemu_plugin_register_atexit_cb(id, on_exit, std::ptr::null_mut());
    }
    0
}

/// Makes a translated block add its instructions to the counters each time it runs.
extern "C" fn on_translated(_id: u64, block: *mut c_void) {
    let counters = COUNTERS.get().map(Vec::as_slice).unwrap_or_default();
    // SAFETY: the block and its instructions are valid during this callback, and the counters for
    // ever.
    unsafe {
        let addresses: Vec<u64> = (0..qemu_plugin_tb_n_insns(block))
            .map(|i| qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(block, i)))
            .collect();
        for counter in counters {
            let range = counter.start..counter.end;
            let add = addresses.iter().filter(|a| range.contains(a)).count() as u64;
            if add > 0 {
                let count = counter.count.get().cast();
                qemu_plugin_register_vcpu_tb_exec_inline(block, INLINE_ADD_U64, count, add);
            }
        }
    }
}

/// Prints the counts.
extern "C" fn on_exit(_id: u64, _data: *mut c_void) {
    for counter in COUNTERS.get().map(Vec::as_slice).unwrap_or_default() {
        // SAFETY: the program has ended, so that nothing writes it.
        eprintln!("{} {}", counter.name, unsafe { *counter.count.get() });
    }
}
