//! `cargo xtask`: tests, packing and board images.

fn main() {}
