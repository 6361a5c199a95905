//! From the Hugging Face hub straight into an image, with room for the image alone.
//!
//! In reading order:
//! - [`name`]: what the user asks for;
//! - [`web`]: requests, redirects, refusals and patience; [`error`] is what they can end in;
//! - [`hub`]: what is in a repository at one commit, and its files as a source of the packer;
//! - [`remote`]: a file that is read by ranges; [`digest`]: sums that the hub knows of files;
//! - [`choice`]: which of a repository's checkpoints is meant.

mod choice;
mod digest;
mod error;
mod hub;
mod name;
mod remote;
mod web;

pub use self::choice::choose;
pub use self::error::FetchError;
pub use self::hub::{Hub, Repository};
pub use self::name::Name;
pub use self::web::{Settings, Web};
