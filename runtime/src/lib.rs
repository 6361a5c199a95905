//! Rill: a streaming runtime for mixture-of-experts language models.
//!
//! This crate is the engine. It is `no_std`, allocates nothing and knows no operating system:
//! memory is one arena that the caller owns, and the world comes through the traits of [`seams`].
//!
//! In reading order:
//! - [`seams`]: storage, clock, cores, events;
//! - [`image`]: the file that holds a model;
//! - [`kernels`]: the arithmetic;
//! - [`plan`] and [`arena`]: where every byte goes;
//! - [`model`]: the path of a token through the layers;
//! - [`experts`]: the pages, in RAM and on their way;
//! - [`tokenizer`], [`chat`] and [`sampler`]: text to tokens, and logits to the next one;
//! - [`sequence`], [`draft`], [`schedule`] and [`engine`]: conversations, side by side; [`prefixes`]: what
//!   they share; [`saving`]: keeping one elsewhere;
//! - [`session`], [`answer`], [`thinking`] and [`mod@generate`]: one conversation;
//! - [`stats`], [`report`] and [`size`]: where time and memory went, in words.

#![cfg_attr(not(test), no_std)]

#[cfg(test)]
extern crate std;

pub mod answer;
pub mod arena;
pub mod chat;
pub mod draft;
pub mod engine;
pub mod experts;
pub mod generate;
pub mod image;
pub mod kernels;
pub mod model;
pub mod plan;
pub mod prefixes;
pub mod report;
mod reuse;
pub mod sampler;
pub mod saving;
pub mod schedule;
pub mod seams;
pub mod sequence;
pub mod session;
pub mod size;
pub mod stats;
pub mod thinking;
pub mod tokenizer;
