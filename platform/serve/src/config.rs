//! Where to listen, who may ask, and every limit.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::api::held;
use crate::{door, form, gauge};

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
    /// Is called where the server was asked to end and its model is still being loaded, which nothing
    /// interrupts: a program can end there.
    pub abandon: fn(),
    /// Reads the board's temperature, in degrees Celsius; may take its time, or never come back.
    pub temperature: fn() -> Option<f64>,
    /// The limits.
    pub limits: Limits,
}

impl Config {
    /// At one address, for this machine alone, with all limits as they are by default; tells nobody
    /// anything, and waits in the end for a model that is being loaded.
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
            abandon: || {},
            temperature: gauge::temperature,
            limits: Limits::default(),
        }
    }
}

/// How much a server takes on. Each limit has its own refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's body; more are refused with 413.
    pub body: usize,
    /// Bytes of all bodies that are being read, as they arrive, at least two of the largest; who comes later
    /// waits.
    pub bodies: usize,
    /// Bytes of the values that bodies are made of, of all of them; who comes later waits, and a body of
    /// more is refused with 413.
    pub values: usize,
    /// Bytes of the forms of answers that wait or are under way, and of those kept for who asks again; more
    /// are refused with 429.
    pub forms: usize,
    /// Bytes of what is kept of answers until they were read, beside the texts of as many whole ones as may
    /// wait; more are refused with 429.
    pub answers: usize,
    /// Bytes of what a response says again of its request (400).
    pub echo: usize,
    /// Most log-probabilities of the answers to a request that are given whole; more are refused with 400
    /// where a number of tokens is asked for, else the answers end, as if they had all their tokens.
    pub logprobs: u64,
    /// Most tokens of an answer; a request for more is refused with 400.
    pub tokens: u64,
    /// Most answers to one request (`n`), and never more than may wait and be under way (400).
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

/// Bytes that a server takes at most, beside the engine and what every program with a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// For connections: what is read and written, and TLS.
    pub connections: u64,
    /// For requests, from their bodies to their answers.
    pub requests: u64,
    /// The same for each token of the context: prompts that wait, and answers that are given whole.
    pub token: u64,
    /// For forms of answers.
    pub forms: u64,
    /// The same for each token of the vocabulary: what forms choose from.
    pub word: u64,
}

impl Limits {
    /// Most answers that may wait, and most connections: more are a slip of the hand, and cannot be counted.
    pub const MOST_PLACES: u64 = 1 << 16;
    /// The longest time, a year: so far ahead every clock can count.
    pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

    /// These limits, or the most of each that can be counted.
    pub(crate) fn countable(self) -> Self {
        let places = Self::MOST_PLACES as usize;
        Self {
            time: self.time.min(Self::LONGEST),
            queue: self.queue.min(places),
            connections: self.connections.min(places),
            ..self
        }
    }

    /// What a server with these limits takes at most, where so many answers are under way at once.
    ///
    /// What is counted while the server runs is what the limits say; the rest is what libraries allow, or
    /// was measured and rounded up. `tests/tests/serve_memory.rs` holds a server to it.
    pub fn memory(&self, tls: bool, places: u32) -> Share {
        // What serves it: its task, its router, a timer.
        const CONNECTION: usize = 16 << 10;
        // The code of the server, its pages, its threads' stacks.
        const REST: usize = 6 << 20;
        // A token's bytes, its place in the tree of all of them, and in those of what texts may have.
        const WORD: u64 = 160;
        let places = places as usize;
        let sum =
            |parts: &[usize]| parts.iter().fold(0, |sum: usize, part| sum.saturating_add(*part));
        let buffers = 2 * self.head.max(door::LEAST_BUFFER);
        let tls = if tls { door::TLS_BUFFERS } else { 0 };
        let connections = self.connections.saturating_mul(CONNECTION + buffers + tls);
        // One response after the other is made, of values that may be there twice.
        let values = (self.logprobs as usize).saturating_mul(2 * held::LOGPROB_VALUES);
        let echo = self.echo.saturating_mul(40);
        let requests = sum(&[
            // Bodies as bytes and as texts; their values as they are read and as they are handed on.
            self.bodies.max(self.body).saturating_mul(2),
            self.values.saturating_mul(2),
            // One prompt as it is rendered and as tokens, of which each byte may be one.
            self.body.saturating_mul(12),
            self.answers,
            values,
            echo,
            REST,
        ]);
        let at_work = places.saturating_mul(form::MOST_AT_WORK + form::MOST_GROWTH);
        let forms = sum(&[self.forms, at_work, form::MOST_MAKING]);
        // A prompt, what is kept of an answer, and what its form grows by.
        let prompts = self.queue.saturating_add(places).saturating_mul(size_of::<u32>());
        let token = sum(&[prompts, self.kept(places), places.saturating_mul(form::TOKEN_GROWTH)]);
        Share {
            connections: connections as u64,
            requests: requests as u64,
            token: token as u64,
            forms: forms as u64,
            word: WORD,
        }
    }

    /// Bytes for each token of the context that whole answers take where so many are under way and as many
    /// wait as may.
    pub(crate) fn kept(&self, places: usize) -> usize {
        self.queue.saturating_add(places).saturating_mul(held::TOKEN)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 1 << 20,
            bodies: 2 << 20,
            values: 4 << 20,
            forms: 10 << 20,
            answers: 8 << 20,
            echo: 64 << 10,
            logprobs: 2048,
            tokens: 1 << 20,
            choices: 8,
            time: Duration::from_secs(600),
            arrival: Duration::from_secs(20),
            patience: Duration::from_secs(30),
            stuck: Duration::from_secs(300),
            queue: 32,
            connections: 64,
            head: 16 << 10,
            drain: Duration::from_secs(30),
        }
    }
}
