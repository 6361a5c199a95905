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
//! - `output`, `pack`: its name; a file that is there whole or not at all; with `attempt`, `journal` and `kept` one
//!   that goes on where a killed process was;
//! - `forward`: the model in f32, layer by layer; [`Reference`]: its answers, to compare an image with by
//!   [`softmax`]; `mix`: int4 or int8, by what each loses; `calibrate`: int4 values chosen by what they do
//!   to sample [`texts`];
//! - `cli` (feature `cli`): the `pack` command.

mod attempt;
mod calibrate;
pub mod chat;
mod chatml;
pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
mod forward;
pub mod gguf;
mod image;
mod journal;
mod kept;
mod manifest;
mod matrix;
mod mix;
mod model;
mod options;
mod output;
mod pack;
pub mod quantise;
mod quoted;
mod reference;
pub mod softmax;
pub mod stored;
mod summary;
mod target;
pub mod texts;
mod threads;
pub mod tokenizer;
mod vocabulary;

pub use calibrate::{LayerReport, Report as CalibrationReport};
pub use image::WriteError;
pub use matrix::{Loss, MatrixError};
pub use mix::{Choice, Report as MixReport};
pub use options::{Calibration, Options, Progress, Quiet};
pub use output::{OutputError, image_name};
pub use pack::{
    Origin, PackError, pack, pack_calibrated, pack_from, pack_new, pack_new_calibrated,
};
pub use reference::{Hidden, Reference};
pub use summary::{Class, Report, Summary, TensorReport};
pub use vocabulary::VocabularyError;
