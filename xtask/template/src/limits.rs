//! What a template may use. It is a program from a file of unknown origin: whatever it does, a
//! rendering ends soon, with a text or with an error.
//!
//! - **Fuel** ([`fuel`]) bounds instructions and the bytes that they make; it is the limit that a
//!   template meets, and it is deterministic.
//! - **Nesting** ([`DEPTH`]): what a template keeps in variables is a plain tree. A namespace
//!   cannot hold a namespace, so nothing holds itself.
//! - **Stack** ([`STACK_BYTES`]): templates are compiled and run on a thread of their own; the
//!   engine's limits of nesting and recursion stay within it.
//! - **Output** ([`OUTPUT_BYTES`]).
//! - **Time and memory** ([`TIME`], [`MEMORY`]) are watched from outside, should fuel not see
//!   something. A rendering that is given up this way has no fuel left, and its thread ends soon.

use std::time::Duration;

/// Longest template, in bytes. Those of published models have up to 20 KiB.
pub const SOURCE_BYTES: usize = 64 << 10;
/// Longest rendered text, in bytes.
pub const OUTPUT_BYTES: usize = 16 << 20;
/// How deep lists and maps may lie in each other.
pub const DEPTH: usize = 64;
/// Bytes of the stack of a rendering. Only what is used of it takes RAM.
pub const STACK_BYTES: usize = 64 << 20;
/// Longest time of a rendering.
pub const TIME: Duration = Duration::from_secs(10);
/// Most bytes by which the process may grow during a rendering, on Linux.
pub const MEMORY: u64 = 256 << 20;

/// Fuel of every rendering: one for about an instruction, for 16 bytes that are made, or for 64 that are
/// read.
const FUEL: u64 = 200_000;
/// Fuel for each value of the conversation: a message, a key, a text.
const FUEL_PER_VALUE: u64 = 500;
/// Fuel for each byte of the conversation's texts: a template may copy them 16 times, and search them 64
/// times.
const FUEL_PER_BYTE: u64 = 1;

/// Most fuel: that for a quarter of [`MEMORY`] in bytes that are made. More than a conversation needs that fits a model's context.
const FUEL_MOST: u64 = MEMORY / 64;

/// The fuel for a conversation of so many values with so many bytes of text.
pub fn fuel(values: usize, bytes: usize) -> u64 {
    let values = (values as u64).saturating_mul(FUEL_PER_VALUE);
    let bytes = (bytes as u64).saturating_mul(FUEL_PER_BYTE);
    FUEL.saturating_add(values).saturating_add(bytes).min(FUEL_MOST)
}
