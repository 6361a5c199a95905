//! Where to listen, who may ask, and every limit.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::form::CACHE_BYTES;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A socket in the file system; who may open it may ask, without a key.
    Unix(PathBuf),
}

/// What TLS is made of: files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, then those that vouch for it.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: Vec<Listen>,
    /// The file of keys, see [`keys`](crate::keys); with one, every request over TCP needs a key.
    pub keys: Option<PathBuf>,
    /// With it, TCP is spoken to through TLS alone; sockets in the file system stay as they are.
    pub tls: Option<TlsFiles>,
    /// Lets everybody ask who reaches an address.
    pub open: bool,
    /// Names by which this server is reached, besides its addresses, its host name and `localhost`.
    pub names: Vec<String>,
    /// Origins of web pages that may ask, for example `https://desk.example`.
    pub origins: Vec<String>,
    /// The file of the page for visitors; without one it is as it is by default.
    pub kiosk: Option<PathBuf>,
    /// Tells whoever runs the server something, in a line; may take its time.
    pub tell: fn(&str),
    /// The limits.
    pub limits: Limits,
}

impl Config {
    /// At one address, for this machine alone, with all limits as they are by default; tells nobody
    /// anything.
    pub fn new(listen: Listen) -> Self {
        Self {
            listen: vec![listen],
            keys: None,
            tls: None,
            open: false,
            names: Vec::new(),
            origins: Vec::new(),
            kiosk: None,
            tell: |_| {},
            limits: Limits::default(),
        }
    }
}

/// How much a server takes on. Each limit has its own refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's body; more are refused with 413.
    pub body: usize,
    /// Bytes of all bodies that are being read; who comes later waits.
    pub bodies: usize,
    /// Most tokens of an answer; a request for more is refused with 400.
    pub tokens: u64,
    /// Most answers to one request (`n`).
    pub choices: usize,
    /// Time for an answer from its request on; then it ends, as if it had all its tokens.
    pub time: Duration,
    /// Time for a request's head to arrive, and for its body (408).
    pub arrival: Duration,
    /// Time that an answer waits for a client that does not read.
    pub patience: Duration,
    /// No batch takes longer on any board: then its device is stuck. Answers that wait for it end with an
    /// error, and others are refused with 503 until it answers again.
    pub stuck: Duration,
    /// Answers that wait for a place; more are refused with 429.
    pub queue: usize,
    /// Connections; more wait until one ends.
    pub connections: usize,
    /// Bytes of a request's head (431).
    pub head: usize,
    /// Time for answers under way after the server was asked to end.
    pub drain: Duration,
}

impl Limits {
    /// Bytes that a server with these limits takes at most, beside the engine: bodies as text and as
    /// values, buffers of connections, prompts that wait, a template at work, forms that were asked for.
    pub fn memory(&self) -> u64 {
        const BODY: usize = 4;
        const CONNECTION: usize = 16 << 10;
        const PROMPT: usize = 64 << 10;
        const REST: usize = 4 << 20;
        let connections = self.connections.saturating_mul(CONNECTION + 2 * self.head);
        let bodies = self.bodies.saturating_mul(BODY);
        let prompts = self.queue.saturating_mul(PROMPT);
        [connections, bodies, prompts, CACHE_BYTES].into_iter().fold(REST, usize::saturating_add)
            as u64
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 1 << 20,
            bodies: 4 << 20,
            tokens: 1 << 20,
            choices: 8,
            time: Duration::from_secs(600),
            arrival: Duration::from_secs(20),
            patience: Duration::from_secs(30),
            stuck: Duration::from_secs(300),
            queue: 32,
            connections: 128,
            head: 16 << 10,
            drain: Duration::from_secs(30),
        }
    }
}
