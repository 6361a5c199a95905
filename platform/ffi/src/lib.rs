//! Rill for programs in C, C++ and whatever calls C: `include/rill.h` is made of this crate, and says all
//! that a caller must know.
//!
//! ```c
#![doc = include_str!("../examples/chat.c")]
//! ```
//!
//! In reading order:
//! - `status`: what came of a call, as a number and in words;
//! - `border`: what comes over the border is looked at before it is used, and nothing unwinds over it;
//! - `options`: what a caller says of how a model is to be opened, and how tokens are chosen;
//! - `device`: where an image's bytes come from;
//! - `machine`: cores and a clock;
//! - `model`: an open model, and who may use it now;
//! - `open`, `conversation`, `choice`, `keep`: the functions;
//! - `template`: chat templates, where there is an operating system;
//! - `bare`: what a library without one needs of the program.

#![cfg_attr(not(any(test, feature = "std")), no_std)]

#[cfg(any(test, feature = "std"))]
extern crate std;

#[cfg(all(not(feature = "std"), target_os = "none"))]
mod bare;
mod border;
pub mod choice;
pub mod conversation;
mod device;
pub mod keep;
mod machine;
mod model;
pub mod open;
pub mod options;
pub mod status;
#[cfg(feature = "std")]
mod template;

pub use model::Model;
