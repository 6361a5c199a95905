//! `cargo xtask pack`.

pub use rill_pack::cli::{Args, run};
