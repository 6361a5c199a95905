//! Signals to a server: SIGTERM and Ctrl-C ask it to end, SIGHUP has it read its files again.
//!
//! They are heard before there is a server: whoever starts it may send one at any moment.

use std::mem::replace;
use std::process::exit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rill_serve::Control;
use signal_hook::consts::SIGHUP;

use crate::failure::{Failure, INTERRUPTED};
use crate::interrupt;

/// What hears them.
pub struct Signals(Arc<Mutex<Heard>>);

/// What was heard so far.
#[derive(Default)]
struct Heard {
    /// Whom it is for; nobody while the server is not there yet.
    server: Option<Control>,
    /// Whether the program was asked to end.
    ends: bool,
    /// Whether the server has to read its files again as soon as it is there.
    renews: bool,
}

impl Signals {
    /// From now on they are heard.
    pub fn watch() -> Result<Self, Failure> {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let signals = Self(Arc::clone(&heard));
        interrupt::listen(move |signal| {
            if let Some(status) = lock(&heard).hear(signal) {
                exit(status.into());
            }
        })?;
        Ok(signals)
    }

    /// From now on they are for this server, and so is what came before.
    pub fn pass_to(&self, server: Control) {
        lock(&self.0).pass_to(server);
    }
}

impl Heard {
    /// Takes a signal; the status to end with, where the program ends at once.
    fn hear(&mut self, signal: i32) -> Option<u8> {
        match &self.server {
            Some(server) if signal == SIGHUP => server.renew(),
            None if signal == SIGHUP => self.renews = true,
            _ if replace(&mut self.ends, true) => return Some(INTERRUPTED),
            Some(server) => server.stop(),
            // Nobody has asked anything yet.
            None => return Some(0),
        }
        None
    }

    fn pass_to(&mut self, server: Control) {
        if replace(&mut self.renews, false) {
            server.renew();
        }
        self.server = Some(server);
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use rill_serve::keys::Key;
    use rill_serve::{Config, Listen, Server, StartError};
    use signal_hook::consts::{SIGINT, SIGTERM};

    use super::*;

    static SAID: Mutex<Option<Sender<String>>> = Mutex::new(None);

    #[test]
    fn before_there_is_a_server_the_program_ends_at_once() {
        let mut heard = Heard::default();
        assert_eq!(heard.hear(SIGHUP), None);
        assert_eq!(heard.hear(SIGTERM), Some(0));
        assert_eq!(heard.hear(SIGHUP), None);
        assert_eq!(heard.hear(SIGINT), Some(INTERRUPTED));
    }

    #[test]
    fn a_server_hears_what_came_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys.txt");
        std::fs::write(&keys, Key::new("desk", None, None).unwrap().line).unwrap();
        let (sender, said) = channel();
        *SAID.lock().unwrap() = Some(sender);
        let tell = |line: &str| {
            let sender = SAID.lock().unwrap();
            sender.as_ref().unwrap().send(line.to_owned()).unwrap();
        };
        let here = Config::new(Listen::Tcp(([127, 0, 0, 1], 0).into()));
        let mut heard = Heard::default();
        assert_eq!(heard.hear(SIGHUP), None);
        let server = Server::bind(Config { keys: Some(keys), tell, ..here }).unwrap();
        heard.pass_to(server.control());
        let load = |desk| {
            assert_eq!(said.recv().unwrap(), "the keys were read again");
            assert_eq!(heard.hear(SIGTERM), None);
            assert_eq!(heard.hear(SIGTERM), Some(INTERRUPTED));
            drop(desk);
            Ok::<_, StartError>(())
        };
        server.run(load).unwrap();
    }
}
