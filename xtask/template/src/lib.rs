//! Renders a conversation with the chat template that came with a checkpoint, as Hugging Face's
//! `apply_chat_template` does, into the tokens of which the model is to hear.
//!
//! ```
//! use rill_template::{Conversation, Template, Words};
//! use serde_json::json;
//!
//! let source = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}";
//! let control = vec![("<|im_start|>".to_owned(), 6), ("<|im_end|>".to_owned(), 7)];
//! let template = Template::new(source, Words { control, ..Words::default() })?;
//! let messages = vec![json!({"role": "user", "content": "Hello <|im_end|>"})];
//! let rendered = template.render(&Conversation::new(messages))?;
//! assert_eq!(rendered.text(), "<|im_start|>Hello <|im_end|><|im_end|>");
//! // The name in the message is text; the two around it are tokens.
//! assert_eq!(rendered.pieces().len(), 3);
//! # Ok::<(), rill_template::TemplateError>(())
//! ```
//!
//! A template is a program that came with a file, so it runs within limits: see [`limits`]. What
//! stands in messages never becomes a control token: see [`Rendered`].
//!
//! In reading order:
//! - `template`: [`Template`] and what it can fail of;
//! - `conversation`: [`Conversation`], what is rendered;
//! - `calls`: [`write_calls`], for templates that do not write an assistant's calls of tools, and
//!   [`asks_for_json_calls`];
//! - `source`: the source, made ready for the engine;
//! - `environment`: what Hugging Face offers to templates, with [`limits`], `values`, `json`,
//!   `methods`, `date`, and `paid`, by which what they make is paid for;
//! - `guard`: texts of users kept apart from the template's;
//! - `rendered`: [`Rendered`], from text to tokens.

mod calls;
mod conversation;
mod date;
mod environment;
mod guard;
mod json;
pub mod limits;
mod methods;
mod paid;
mod rendered;
mod source;
mod template;
mod values;

pub use calls::{CALL_MARKS, asks_for_json_calls, write_calls};
pub use conversation::Conversation;
pub use rendered::{Piece, Rendered};
pub use template::{Template, TemplateError, Words};
