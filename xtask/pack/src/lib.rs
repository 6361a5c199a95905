//! Packs checkpoints into Rill images.
