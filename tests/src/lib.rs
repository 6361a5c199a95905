//! What the whole-system tests share: the kiosk model, reference outputs of others, a rig that runs
//! a session on fakes, and the program as its users run it.

pub mod kiosk;
pub mod program;
pub mod reference;
pub mod rig;
