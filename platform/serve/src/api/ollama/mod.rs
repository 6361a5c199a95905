//! Ollama's API, as its clients and Home Assistant use it.

mod chat;
mod models;

pub use chat::{chat, generate};
pub use models::{running, show, tags, version};
