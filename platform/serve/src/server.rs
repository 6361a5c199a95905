//! A server from its start to its end.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::clerk::{Request, ToClerk};
use crate::config::{Config, Limits};
use crate::door::{self, Listener, Tls, TlsError};
use crate::gauge::{self, Gauge};
use crate::job::Job;
use crate::keys::{Keys, KeysError};
use crate::metrics::Metrics;
use crate::model::{Command, Desk, Facts};
use crate::pages::{Kiosk, KioskError};
use crate::room::{Bodies, Room};
use crate::systemd::{Notify, Supervisor};
use crate::worker::View;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Strangers could ask.
    #[error(
        "{0} can be reached from elsewhere: give a file of keys (--keys), or say that everybody may \
         ask (--open)"
    )]
    Strangers(SocketAddr),
    /// The address cannot be had.
    #[error("cannot listen at {0}: {1}")]
    Listen(String, io::Error),
    /// The page for visitors cannot be as its file says.
    #[error("{}: {}", .0.display(), .1)]
    Kiosk(PathBuf, KioskError),
    /// What the supervisor passed is no socket that listens.
    #[error("what was passed to listen at is no TCP or Unix socket that listens: {0}")]
    Passed(io::Error),
    /// The file of keys cannot be used.
    #[error("{}: {}", .0.display(), .1)]
    Keys(PathBuf, KeysError),
    /// There can be no TLS.
    #[error("no TLS: {0}")]
    Tls(#[from] TlsError),
    /// The system refuses something else.
    #[error("cannot start the server: {0}")]
    System(#[from] io::Error),
}

/// A server that listens and has no model yet.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
    addresses: Vec<String>,
    desk: Desk,
    renewals: Receiver<()>,
}

/// What a server is asked for from elsewhere, from before it runs on.
#[derive(Clone)]
pub struct Control(Arc<Shared>);

impl Control {
    /// No more requests; those under way have the time that the limits give them.
    pub fn stop(&self) {
        self.0.leave();
    }

    /// Keys and certificates are to be read again.
    pub fn renew(&self) {
        // A server that has ended has none.
        let _ = self.0.renewals.send(());
    }
}

/// What both sides of a server share.
pub(crate) struct Shared {
    pub limits: Limits,
    pub metrics: Metrics,
    /// Bytes of RAM that the process has.
    pub resident: Arc<Gauge<u64>>,
    /// Degrees Celsius of the board.
    pub temperature: Arc<Gauge<f64>>,
    pub names: Vec<String>,
    pub origins: Vec<String>,
    pub kiosk: Kiosk,
    /// Tells whoever runs the server.
    pub say: fn(&str),
    abandon: fn(),
    /// Places in the queue and at the engine.
    pub queue: Arc<Semaphore>,
    /// For bodies that are being read.
    pub bodies: Bodies,
    /// For the values that they are made of.
    pub values: Room,
    /// For what is kept of answers.
    pub answers: Room,
    keys: Option<(PathBuf, Mutex<Keys>)>,
    /// What TCP is spoken to through.
    pub tls: Option<Tls>,
    stage: Mutex<Stage>,
    commands: Sender<Command>,
    renewals: Sender<()>,
    leaving: watch::Sender<bool>,
    supervisor: Option<Notify>,
    pub watchdog: Option<Duration>,
    /// Whether the model is loaded: the queue's size depends on it.
    opened: AtomicBool,
    /// Numbers of answers, and seeds where a request has none.
    counter: AtomicU64,
    salt: u64,
    /// When the server was started.
    pub since: Instant,
}

/// How far a server is.
#[derive(Clone)]
enum Stage {
    Loading(Instant),
    Open(Open),
    Closed,
}

/// An open server's model.
#[derive(Clone)]
pub(crate) struct Open {
    pub facts: Arc<Facts>,
    pub clerk: ToClerk,
}

impl Server {
    /// Listens. Requests are told that the model is loading until [`Self::run`] has loaded it.
    pub fn bind(config: Config) -> Result<Self, StartError> {
        Self::bind_for(config, Supervisor::default())
    }

    /// Listens, also at the sockets that a supervisor passed, and tells it how the server is.
    pub fn bind_for(config: Config, supervisor: Supervisor) -> Result<Self, StartError> {
        let keys = match config.keys {
            None => None,
            Some(path) => match Keys::read(&path) {
                Ok(keys) => Some((path, Mutex::new(keys))),
                Err(error) => return Err(StartError::Keys(path, error)),
            },
        };
        let kiosk = match config.kiosk {
            None => Kiosk::default(),
            Some(path) => {
                let keys = keys.as_ref().map(|(_, keys)| keys);
                kiosk(&path, keys).map_err(|error| StartError::Kiosk(path, error))?
            }
        };
        let tls = config.tls.map(Tls::read).transpose()?;
        let is_guarded = keys.is_some() || config.open;
        let passed = supervisor.sockets.into_iter().map(Listener::adopt);
        let own = config.listen.iter().map(Listener::bind);
        let listeners: Vec<Listener> = passed.chain(own).collect::<Result<_, _>>()?;
        let strangers = |listener: &Listener| match listener.tcp_address() {
            Some(address) if !address.ip().is_loopback() => Some(address),
            _ => None,
        };
        if let Some(address) = listeners.iter().find_map(strangers).filter(|_| !is_guarded) {
            return Err(StartError::Strangers(address));
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let addresses = listeners.iter().map(|listener| listener.address(scheme)).collect();
        let (commands, jobs) = channel();
        let (renew, renewals) = channel();
        let mut salt = [0; 8];
        rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty())
            .map_err(io::Error::from)?;
        let mut names = config.names;
        names.extend(host_names());
        let limits = config.limits.countable();
        let shared = Arc::new(Shared {
            limits,
            metrics: Metrics::default(),
            resident: Gauge::new(gauge::resident),
            temperature: Gauge::new(config.temperature),
            names,
            origins: config.origins,
            kiosk,
            say: config.tell,
            abandon: config.abandon,
            queue: Arc::new(Semaphore::new(limits.queue)),
            bodies: Bodies::new(limits.bodies, limits.body),
            values: Room::new(limits.values),
            answers: Room::new(limits.answers),
            keys,
            tls,
            stage: Mutex::new(Stage::Loading(Instant::now())),
            commands,
            renewals: renew,
            leaving: watch::Sender::new(false),
            supervisor: supervisor.notify,
            watchdog: supervisor.watchdog,
            opened: AtomicBool::new(false),
            counter: AtomicU64::new(0),
            salt: u64::from_le_bytes(salt),
            since: Instant::now(),
        });
        let desk = Desk { shared: Arc::clone(&shared), jobs };
        Ok(Self { shared, listeners, addresses, desk, renewals })
    }

    /// Where it listens: URLs, or the paths of sockets.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// What others ask it through.
    pub fn control(&self) -> Control {
        Control(Arc::clone(&self.shared))
    }

    /// Serves until it is asked to end: `load` loads a model on this thread and calls
    /// [`Desk::serve`] with it.
    pub fn run<E: From<StartError>>(
        self,
        load: impl FnOnce(Desk) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { shared, listeners, desk, renewals, .. } = self;
        renew_when_asked(&shared, renewals).map_err(StartError::System)?;
        let door_shared = Arc::clone(&shared);
        let start = move || {
            let outcome = door::run(listeners, &door_shared);
            // Without a door nobody can ask.
            door_shared.end_worker();
            if outcome.is_ok() && door_shared.close_early() {
                (door_shared.abandon)();
            }
            outcome
        };
        let thread = Builder::new().name("rill-door".into());
        let thread = thread.spawn(start).map_err(StartError::System)?;
        let outcome = load(desk);
        shared.close();
        shared.leave();
        match thread.join() {
            Ok(door) => outcome.and(door.map_err(|error| StartError::System(error).into())),
            Err(_) => outcome.and(Err(StartError::System(io::Error::other("it panicked")).into())),
        }
    }
}

/// Reads files again whenever that is asked for, in a thread of its own: a file system or whoever reads
/// standard error may take any time, and the door waits for neither. It ends with the server.
fn renew_when_asked(shared: &Arc<Shared>, renewals: Receiver<()>) -> io::Result<()> {
    let shared = Arc::downgrade(shared);
    let renew = move || {
        while renewals.recv().is_ok() {
            // Those that came meanwhile want the same.
            while renewals.try_recv().is_ok() {}
            let Some(shared) = shared.upgrade() else { return };
            shared.renew().iter().for_each(|line| (shared.say)(line));
        }
    };
    Builder::new().name("rill-renewer".into()).spawn(renew)?;
    Ok(())
}

impl Shared {
    /// The model is loaded; `false` where the server has ended before that.
    pub fn open(&self, facts: Facts, requests: UnboundedSender<Request>) -> bool {
        if !self.opened.swap(true, Ordering::SeqCst) {
            self.queue.add_permits(facts.places);
            let kept = self.limits.kept(facts.places).saturating_mul(facts.context);
            self.answers.grow(kept);
        }
        let mut stage = self.stage();
        if matches!(*stage, Stage::Closed) {
            return false;
        }
        *stage = Stage::Open(Open { facts: Arc::new(facts), clerk: ToClerk(requests) });
        // Nobody sees it open before this is told.
        self.tell("READY=1");
        true
    }

    /// There will be no model; `false` where it is not being loaded any more.
    fn close_early(&self) -> bool {
        let mut stage = self.stage();
        let is_loading = matches!(*stage, Stage::Loading(_));
        if is_loading {
            *stage = Stage::Closed;
        }
        is_loading
    }

    /// There is no model any more.
    pub fn close(&self) {
        *self.stage() = Stage::Closed;
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        lock(&self.stage)
    }

    /// The model, or for how long it has been loading; nothing at the end.
    pub fn model(&self) -> Result<Open, Option<u64>> {
        match &*self.stage() {
            Stage::Open(open) => Ok(open.clone()),
            Stage::Loading(since) => Err(Some(since.elapsed().as_secs())),
            Stage::Closed => Err(None),
        }
    }

    /// Whether the engine has been at one batch for longer than any takes.
    pub fn is_stuck(&self) -> bool {
        self.metrics.silence() > self.limits.stuck
    }

    /// Has the worker do something; `false` when it has gone.
    pub fn send(&self, job: Job) -> bool {
        self.commands.send(Command::Job(Box::new(job))).is_ok()
    }

    /// Has the worker say how the engine is; nothing where it has gone.
    pub fn look(&self) -> Option<oneshot::Receiver<View>> {
        let (tell, view) = oneshot::channel();
        self.commands.send(Command::Look(tell)).is_ok().then_some(view)
    }

    /// Ends the worker.
    pub fn end_worker(&self) {
        // It may have ended.
        let _ = self.commands.send(Command::End);
    }

    /// No more requests from now on.
    pub fn leave(&self) {
        if !self.leaving.send_replace(true) {
            self.tell("STOPPING=1\nSTATUS=answers under way may end");
        }
    }

    /// Tells who started the server, if somebody wants to hear it.
    pub fn tell(&self, lines: &str) {
        if let Some(supervisor) = &self.supervisor {
            supervisor.tell(lines);
        }
    }

    /// Whether the server was asked to end.
    pub fn is_leaving(&self) -> bool {
        *self.leaving.borrow()
    }

    /// What wakes when the server is asked to end.
    pub fn leaving(&self) -> watch::Receiver<bool> {
        self.leaving.subscribe()
    }

    /// The keys, if some are needed.
    pub fn keys(&self) -> Option<MutexGuard<'_, Keys>> {
        let (_, keys) = self.keys.as_ref()?;
        Some(lock(keys))
    }

    /// Reads keys and certificates again; says what was read, and what cannot be used and changes
    /// nothing.
    pub fn renew(&self) -> Vec<String> {
        let mut said = Vec::new();
        if let Some((path, keys)) = &self.keys {
            said.push(match Keys::read(path) {
                Ok(fresh) => {
                    lock(keys).renew(fresh);
                    "the keys were read again".into()
                }
                Err(error) => format!("{}: {error}; the keys stay as they were", path.display()),
            });
        }
        if let Some(tls) = &self.tls {
            said.push(match tls.renew() {
                Ok(()) => "the certificate was read again".into(),
                Err(error) => format!("{error}; the certificate stays as it was"),
            });
        }
        said
    }

    /// A number that no other answer has.
    pub fn number(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// A name that no other answer has, of this run or of others.
    pub fn id(&self, kind: &str) -> String {
        format!("{kind}-{:016x}{:08x}", self.salt, self.number())
    }

    /// What tells this run from others.
    pub fn run_id(&self) -> String {
        format!("{:016x}", self.salt)
    }

    /// A seed for who gives none.
    pub fn seed(&self) -> u64 {
        self.salt ^ self.number().wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// The time in seconds since 1970.
pub(crate) fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The page for visitors, whose key is one of those that may ask.
fn kiosk(path: &Path, keys: Option<&Mutex<Keys>>) -> Result<Kiosk, KioskError> {
    let kiosk = Kiosk::read(path)?;
    let is_known = |name: &str| keys.is_some_and(|keys| lock(keys).has(name));
    match kiosk.key.as_deref().filter(|name| !is_known(name)) {
        Some(name) => Err(KioskError::Key(name.to_owned())),
        None => Ok(kiosk),
    }
}

/// A lock that no panic of another thread keeps.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What others on the network call this machine.
fn host_names() -> Vec<String> {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy().to_lowercase();
    if name.is_empty() { Vec::new() } else { vec![format!("{name}.local"), name] }
}
