//! The `rill` program: runs, packs, inspects and measures models on Linux.

fn main() {}
