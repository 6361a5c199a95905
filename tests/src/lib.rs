//! What the whole-system tests share: the kiosk model, reference outputs of others, and a rig that
//! runs a session on fakes.

pub mod kiosk;
pub mod reference;
pub mod rig;
