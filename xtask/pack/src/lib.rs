//! Packs checkpoints into Rill images.
//!
//! [`pack`] reads an LFM2 model (GGUF, or a Hugging Face folder) and writes the image that the
//! engine runs. It streams: memory use does not grow with the model. The same source and options
//! always give the same bytes.
//!
//! In reading order:
//! - `model`: what a model is; [`checkpoint`]: both kinds of source in one shape ([`gguf`] is the container's reader,
//!   [`stored`] the encodings of weights);
//! - [`quantise`]: blocks of integers from real weights;
//! - [`tokenizer`] and [`chat`]: the checkpoint's tokenizer and chat template, checked;
//!   `chatml`: what the core writes, for comparison;
//! - `manifest`, `matrix`, `image`: the formats chosen, tile rows, the file;
//! - `output`, `pack`: its name; a file that is there whole or not at all; with `attempt` and `journal` one that goes
//!   on where a killed process was;
//! - `cli` (feature `cli`): the `pack` command.

mod attempt;
pub mod chat;
mod chatml;
pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
pub mod gguf;
mod image;
mod journal;
mod manifest;
mod matrix;
mod model;
mod options;
mod output;
mod pack;
pub mod quantise;
mod quoted;
pub mod stored;
mod summary;
mod target;
mod threads;
pub mod tokenizer;
mod vocabulary;

pub use image::WriteError;
pub use matrix::{Loss, MatrixError};
pub use options::{Options, Progress, Quiet};
pub use output::{OutputError, image_name};
pub use pack::{Origin, PackError, pack, pack_from, pack_new};
pub use summary::{Class, Report, Summary, TensorReport};
pub use vocabulary::VocabularyError;
