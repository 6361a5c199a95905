//! Rill: a streaming runtime for mixture-of-experts language models.
//!
//! This crate is the engine. It is `no_std`, allocates nothing and knows no operating system:
//! memory is one arena that the caller owns, and the world comes through the traits of [`seams`].
//!
//! In reading order:
//! - [`seams`]: storage, clock, cores, events;
//! - [`image`]: the file that holds a model;
//! - [`kernels`]: the arithmetic;
//! - [`tokenizer`]: text to tokens and back;
//! - [`chat`]: conversations as tokens;
//! - [`sampler`]: the choice of the next token.

#![cfg_attr(not(test), no_std)]

#[cfg(test)]
extern crate std;

pub mod chat;
pub mod image;
pub mod kernels;
pub mod sampler;
pub mod seams;
pub mod tokenizer;
