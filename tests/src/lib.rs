//! What the whole-system tests share: the kiosk model, reference outputs of others, a rig that runs
//! a session on fakes, hostile files under right checksums, the program as its users run it, a hub
//! that it pulls from, and a server that clients ask.

pub mod hub;
pub mod kiosk;
pub mod program;
pub mod reference;
pub mod reseal;
pub mod rig;
pub mod server;
pub mod tls;
