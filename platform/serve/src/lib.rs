//! Serves a loaded model over HTTP, in the APIs that clients speak.
//!
//! [`Server::run`] listens, lets the caller load its model, and works until it is asked to end. Two
//! sides meet in it, and nothing but messages passes between them:
//!
//! - the caller's thread owns the engine and its sequences: `worker` takes jobs, computes batches of all
//!   answers and prompts under way, and sends what was said; `clerk` writes prompts beside it;
//! - one thread more is the door: it reads requests, checks them, and writes answers as they come.
//!
//! What an answer says depends on its request and the model alone, never on who else asks.
//!
//! In reading order:
//! - [`config`]: where to listen, who may ask, and every limit;
//! - [`model`]: what the caller brings;
//! - `job`, `worker`, `clerk` and [`form`]: the engine's side;
//! - `server`: from start to end, and what both sides share;
//! - [`systemd`] and `watch`: what starts the server and watches over it;
//! - `door` and [`keys`]: connections, and who comes in;
//! - `error`, `fields` and `api`: requests and answers in their dialects;
//! - `pages`: what people see in a browser;
//! - `files`: what the server reads of its own;
//! - `room`: what requests share, in bytes;
//! - `metrics` and `gauge`: what is counted, and what the system says of this machine.

mod api;
mod calls;
mod clerk;
pub mod config;
mod door;
mod error;
mod fields;
mod files;
pub mod form;
mod gauge;
mod job;
pub mod keys;
mod metrics;
pub mod model;
mod pages;
mod room;
mod server;
pub mod systemd;
mod watch;
mod worker;

pub use config::{Config, Limits, Listen, Share};
pub use gauge::temperature;
pub use model::{Desk, Loaded, Machine, Memory};
pub use pages::KioskError;
pub use room::Room;
pub use server::{Control, Server, StartError};
pub use systemd::Supervisor;
