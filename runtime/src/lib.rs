//! Rill: a streaming runtime for mixture-of-experts language models.
//!
//! This crate is the engine. It is `no_std`, allocates nothing and knows no operating system:
//! memory is one arena that the caller owns, and the world comes through the traits of [`seams`].
//!
//! A whole program that answers a question, with std for nothing but the file, the clock and
//! finding out what the CPU can do:
//!
//! ```no_run
#![doc = include_str!("../examples/answer.rs")]
//! ```
//!
//! - **Targets**: 64-bit, little-endian, with 64-bit atomics. Products are in vectors on x86-64 (AVX2,
//!   AVX-VNNI, AVX-512 VNNI) and aarch64 (NEON, dotprod, i8mm), else plain Rust; all give the same
//!   bits.
//! - **Features**: `std` finds out what the CPU can do, `defmt` formats errors and statistics for
//!   boards, `fake` has fakes of the seams for tests. None is on by itself.
//! - **Stack**: 48 KiB for the core that calls the engine, 12 KiB for each other one.
//!
//! In reading order, each on top of those before it:
//! - [`seams`]: storage, clock, cores, events;
//! - [`image`]: the file that holds a model;
//! - [`kernels`]: the arithmetic;
//! - [`arena`] and [`experts`]: memory, and the pages in it or on their way;
//! - `model`: the path of a token through the layers;
//! - [`tokenizer`], [`chat`] and [`sampler`]: text to tokens, and logits to the next one;
//! - [`draft`], `turns` and [`sequence`]: a conversation, guesses how it goes on, and when it does;
//!   `saved` and `prefixes`: what several begin with, also where it is kept elsewhere;
//! - `desk` and [`plan`]: where every byte goes;
//! - [`stats`], `schedule` and [`engine`]: conversations, side by side; [`saving`]: keeping one elsewhere;
//! - [`session`], [`thinking`], [`answer`] and [`mod@generate`]: one conversation;
//! - [`size`] and [`report`]: where time and memory went, in words.

#![cfg_attr(not(test), no_std)]

#[cfg(any(test, feature = "std"))]
extern crate std;

#[cfg(not(all(target_pointer_width = "64", target_endian = "little", target_has_atomic = "64")))]
compile_error!("rill needs a 64-bit little-endian target with 64-bit atomics");

pub mod answer;
pub mod arena;
pub mod chat;
mod desk;
pub mod draft;
pub mod engine;
pub mod experts;
pub mod generate;
pub mod image;
pub mod kernels;
mod model;
pub mod plan;
mod prefixes;
pub mod report;
pub mod sampler;
mod saved;
pub mod saving;
mod schedule;
pub mod seams;
pub mod sequence;
pub mod session;
pub mod size;
pub mod stats;
pub mod thinking;
pub mod tokenizer;
mod turns;
