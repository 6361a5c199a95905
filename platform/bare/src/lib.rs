//! What the `rill` program needs on a board without an operating system, as far as it knows no
//! hardware: its configuration, the layout of its card, reads under way, a line editor, which
//! conversations there are, and the protocol of SD cards. All of it is tested on any machine.
//!
//! The program itself (`main.rs`, feature `board`) adds boot, memory, cores, clock, console and
//! drivers for the board that a file of `boards/` describes. It was tested under QEMU; nothing has
//! run on hardware yet.

#![cfg_attr(not(test), no_std)]

#[cfg(test)]
extern crate std;

pub mod config;
pub mod disk;
pub mod line;
pub mod storage;
pub mod talks;
