//! What is counted, for `/metrics`.

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rill::stats::{Phase, Stats};

use crate::server::lock;

/// Upper bounds of the times to the first token, in seconds.
const BUCKETS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

/// Classes of responses.
pub const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];
/// What became of answers, as [`Outcome`] has it.
pub const OUTCOMES: [&str; 4] = ["whole", "cut", "left", "failed"];

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is whole.
    Whole,
    /// A limit cut it.
    Cut,
    /// Its client left before it was whole.
    Left,
    /// It could not go on.
    Failed,
}

/// Figures of now.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Responses by [`CLASSES`].
    pub responses: [u64; CLASSES.len()],
    /// Answers by [`OUTCOMES`].
    pub answers: [u64; OUTCOMES.len()],
    /// Tokens of prompts that needed no computing.
    pub reused: u64,
    /// How many answers had a first token, and the sum of the seconds until then.
    pub first: (u64, f64),
    /// Where the engine's time went.
    pub engine: Stats,
}

/// What a server counts. One writer each, so that plain loads and stores do.
#[derive(Debug)]
pub struct Metrics {
    /// Responses by class of status: 2xx, 3xx, 4xx, 5xx.
    responses: [AtomicU64; CLASSES.len()],
    /// Answers by [`Outcome`].
    answers: [AtomicU64; OUTCOMES.len()],
    busy: AtomicU64,
    queued: AtomicU64,
    reused: AtomicU64,
    /// Times to the first token.
    first: Mutex<Histogram>,
    engine: Mutex<Stats>,
    /// When the worker was last seen at work, and whether it then waited for something to do.
    beat: Mutex<(Instant, bool)>,
}

#[derive(Debug, Default)]
struct Histogram {
    counts: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            responses: Default::default(),
            answers: Default::default(),
            busy: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            reused: AtomicU64::new(0),
            first: Mutex::default(),
            engine: Mutex::default(),
            beat: Mutex::new((Instant::now(), true)),
        }
    }
}

impl Metrics {
    /// A response of this status was begun.
    pub fn response(&self, status: u16) {
        let class = usize::from(status / 100).saturating_sub(2);
        if let Some(count) = self.responses.get(class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An answer ended so.
    pub fn answer(&self, outcome: Outcome) {
        self.answers[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// All figures but how busy it is.
    pub fn figures(&self) -> Figures {
        let read = |counts: &[AtomicU64; 4]| counts.each_ref().map(|n| n.load(Ordering::Relaxed));
        let first = lock(&self.first);
        Figures {
            responses: read(&self.responses),
            answers: read(&self.answers),
            reused: self.reused.load(Ordering::Relaxed),
            first: (first.count, first.sum),
            engine: *lock(&self.engine),
        }
    }

    /// So many places are busy, and so many answers wait for one.
    pub fn load(&self, busy: usize, queued: usize) {
        self.busy.store(busy as u64, Ordering::Relaxed);
        self.queued.store(queued as u64, Ordering::Relaxed);
    }

    /// How many places are busy, and how many answers wait.
    pub fn loads(&self) -> (u64, u64) {
        (self.busy.load(Ordering::Relaxed), self.queued.load(Ordering::Relaxed))
    }

    /// So many tokens of a prompt needed no computing.
    pub fn reuse(&self, tokens: usize) {
        self.reused.fetch_add(tokens as u64, Ordering::Relaxed);
    }

    /// The first token of an answer came so long after its request.
    pub fn first_token(&self, after: Duration) {
        let seconds = after.as_secs_f64();
        let mut first = lock(&self.first);
        for (count, bound) in first.counts.iter_mut().zip(BUCKETS) {
            *count += u64::from(seconds <= bound);
        }
        first.count += 1;
        first.sum += seconds;
    }

    /// Where the engine's time went so far.
    pub fn engine(&self, stats: Stats) {
        *lock(&self.engine) = stats;
    }

    /// The worker is at work.
    pub fn beat(&self) {
        *lock(&self.beat) = (Instant::now(), false);
    }

    /// The worker waits for something to do.
    pub fn idle(&self) {
        *lock(&self.beat) = (Instant::now(), true);
    }

    /// For how long the worker has been in one batch.
    pub fn silence(&self) -> Duration {
        let (since, idle) = *lock(&self.beat);
        if idle { Duration::ZERO } else { since.elapsed() }
    }

    /// All of it in Prometheus' text format, with what the system says of this machine, where it does: RAM
    /// that the process has, and the board's temperature.
    pub fn text(&self, resident: Option<u64>, celsius: Option<f64>) -> String {
        let mut page = Page::default();
        page.head("rill_responses_total", "counter", "Responses by class of status.");
        for (class, count) in CLASSES.iter().zip(&self.responses) {
            let labels = format!("{{class=\"{class}\"}}");
            page.line("rill_responses_total", &labels, count.load(Ordering::Relaxed) as f64);
        }
        page.head("rill_answers_total", "counter", "Answers by what became of them.");
        for (outcome, count) in OUTCOMES.iter().zip(&self.answers) {
            let labels = format!("{{outcome=\"{outcome}\"}}");
            page.line("rill_answers_total", &labels, count.load(Ordering::Relaxed) as f64);
        }
        let (busy, queued) = self.loads();
        page.one("rill_answers_active", "gauge", "Answers under way.", busy as f64);
        page.one("rill_answers_queued", "gauge", "Answers that wait for a place.", queued as f64);
        let reused = self.reused.load(Ordering::Relaxed) as f64;
        let what = "Tokens of prompts that needed no computing.";
        page.one("rill_prompt_tokens_reused_total", "counter", what, reused);
        page.first_tokens(&lock(&self.first));
        page.engine(&lock(&self.engine));
        page.machine(resident, celsius);
        page.text
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.text, "{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        self.line(name, "", value);
    }

    fn first_tokens(&mut self, first: &Histogram) {
        let name = "rill_first_token_seconds";
        self.head(name, "histogram", "Time from a request to the first token of its answer.");
        for (count, bound) in first.counts.iter().zip(BUCKETS) {
            self.line(&format!("{name}_bucket"), &format!("{{le=\"{bound}\"}}"), *count as f64);
        }
        self.line(&format!("{name}_bucket"), "{le=\"+Inf\"}", first.count as f64);
        self.line(&format!("{name}_sum"), "", first.sum);
        self.line(&format!("{name}_count"), "", first.count as f64);
    }

    fn engine(&mut self, stats: &Stats) {
        let phases = [("prompt", &stats.prompt), ("answer", &stats.decode)];
        type Get = fn(&Phase) -> f64;
        let rows: [(&str, &str, Get); 6] = [
            ("rill_tokens_total", "Tokens that were computed.", |phase| phase.tokens as f64),
            ("rill_seconds_total", "Time in the engine.", |phase| phase.time as f64 / 1e6),
            ("rill_page_hits_total", "Experts that were in RAM when wanted.", |phase| {
                (phase.cache.hits + phase.cache.guessed) as f64
            }),
            ("rill_page_misses_total", "Experts that were not in RAM when wanted.", |phase| {
                (phase.cache.misses + phase.cache.late) as f64
            }),
            ("rill_read_bytes_total", "Bytes read from the image.", |phase| {
                phase.cache.bytes as f64
            }),
            ("rill_read_wait_seconds_total", "Time of waiting for the image's device.", |phase| {
                phase.cache.waiting as f64 / 1e6
            }),
        ];
        for (name, help, get) in rows {
            self.head(name, "counter", help);
            for (label, phase) in phases {
                self.line(name, &format!("{{phase=\"{label}\"}}"), get(phase));
            }
        }
        self.one(
            "rill_drafted_total",
            "counter",
            "Tokens that were guessed.",
            stats.drafted as f64,
        );
        let what = "Guessed tokens that the form of an answer left no choice of.";
        self.one("rill_drafts_forced_total", "counter", what, stats.forced as f64);
        let what = "Guessed tokens that were right.";
        self.one("rill_drafts_accepted_total", "counter", what, stats.accepted as f64);
        let what = "Steps of answers for which others waited, because taking turns cost less.";
        self.one("rill_turn_steps_total", "counter", what, stats.turns as f64);
        let what = "Answers that gave up their keys and values for others, to compute them again.";
        self.one("rill_parked_total", "counter", what, stats.parked as f64);
        let what = "Tokens of those.";
        self.one("rill_parked_tokens_total", "counter", what, stats.parked_tokens as f64);
    }

    fn machine(&mut self, resident: Option<u64>, celsius: Option<f64>) {
        if let Some(bytes) = resident {
            let what = "RAM that the process has.";
            self.one("process_resident_memory_bytes", "gauge", what, bytes as f64);
        }
        if let Some(celsius) = celsius {
            let what = "Temperature of the board's first sensor.";
            self.one("rill_board_temperature_celsius", "gauge", what, celsius);
        }
    }
}
