//! OpenAI's API, as its own clients use it.

mod chat;
mod completions;
mod models;
mod output;
mod responses;
pub mod shape;

pub use chat::{chat, complete_chat};
pub use completions::complete;
pub use models::{model, models};
pub use responses::respond_to;
