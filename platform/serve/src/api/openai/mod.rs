//! OpenAI's API, as its own clients use it.

mod chat;
mod completions;
mod models;
pub mod shape;

pub use chat::{chat, complete_chat};
pub use completions::complete;
pub use models::{model, models};
