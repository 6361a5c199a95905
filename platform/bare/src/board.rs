//! What the board's file says.

include!(concat!(env!("OUT_DIR"), "/board.rs"));
