//! What the whole-system tests share: the kiosk model, reference outputs of others, a rig that runs
//! a session on fakes, hostile files under right checksums, the program and its server as their users run
//! them, a hub that it pulls from, and a server in the process of the test.

pub mod hub;
pub mod kiosk;
pub mod process;
pub mod program;
pub mod reference;
pub mod reseal;
pub mod rig;
pub mod served;
pub mod server;
pub mod tls;
