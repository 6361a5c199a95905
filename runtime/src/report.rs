//! Where the time and the memory of a session went, for people and for programs.

use core::fmt;

use serde::Serialize;

use crate::plan::Plan;
use crate::seams::Micros;
use crate::session::Session;
use crate::size::Size;

/// What a session does not know of the platform that it runs on.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings {
    /// Cores at work.
    pub threads: usize,
    /// What reads the image.
    pub storage: &'static str,
    /// Time that loading took.
    pub load_time: Micros,
    /// Bytes planned for the whole program.
    pub budget: u64,
    /// The most that was used, where the platform can say.
    pub peak_resident: Option<u64>,
}

/// Where time and memory went: displayed as lines, serialised as one object.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    kernels: &'static str,
    threads: usize,
    storage: &'static str,
    load_seconds: f64,
    prompt_tokens: u64,
    prompt_tokens_per_second: f64,
    generated_tokens: u64,
    generated_tokens_per_second: f64,
    page_hits: u64,
    page_misses: u64,
    page_evictions: u64,
    page_hit_rate: f64,
    pages_read_ahead: u64,
    pages_read_ahead_useful: u64,
    read_retries: u64,
    read_bytes: u64,
    read_bytes_per_token: f64,
    read_wait_seconds: f64,
    checksum_seconds: f64,
    slots: u32,
    pages: u32,
    budget_bytes: u64,
    peak_resident_bytes: Option<u64>,
}

impl Report {
    /// Of everything since the model was loaded.
    pub fn new(session: &Session<'_>, plan: &Plan, around: Surroundings) -> Self {
        let stats = session.stats();
        let cache = stats.cache;
        let seconds = |micros: u64| micros as f64 / 1e6;
        let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        let per_second = |count: u64, micros: u64| ratio(count as f64, seconds(micros));
        let tokens = stats.prompt_tokens + stats.sampled_tokens;
        Self {
            kernels: session.kernels().name,
            threads: around.threads,
            storage: around.storage,
            load_seconds: seconds(around.load_time),
            prompt_tokens: stats.prompt_tokens,
            prompt_tokens_per_second: per_second(stats.prompt_tokens, stats.prompt_time),
            generated_tokens: stats.sampled_tokens,
            generated_tokens_per_second: per_second(stats.sampled_tokens, stats.decode_time),
            page_hits: cache.hits,
            page_misses: cache.misses,
            page_evictions: cache.evictions,
            page_hit_rate: ratio(cache.hits as f64, (cache.hits + cache.misses) as f64),
            pages_read_ahead: cache.ahead,
            pages_read_ahead_useful: cache.ahead_useful,
            read_retries: cache.retries,
            read_bytes: cache.bytes,
            read_bytes_per_token: ratio(cache.bytes as f64, tokens as f64),
            read_wait_seconds: seconds(cache.waiting),
            checksum_seconds: seconds(cache.checking),
            slots: plan.slots,
            pages: plan.pages,
            budget_bytes: around.budget,
            peak_resident_bytes: around.peak_resident,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "load      {:.2} s, kernels {}, {} threads, storage {}",
            self.load_seconds, self.kernels, self.threads, self.storage
        )?;
        writeln!(
            f,
            "prompt    {} tokens, {:.2} tokens/s",
            self.prompt_tokens, self.prompt_tokens_per_second
        )?;
        writeln!(
            f,
            "answer    {} tokens, {:.2} tokens/s",
            self.generated_tokens, self.generated_tokens_per_second
        )?;
        if self.pages > 0 {
            writeln!(
                f,
                "experts   {} of {} in RAM, {:.1} % hits ({} hits, {} misses, {} evictions)",
                self.slots,
                self.pages,
                100.0 * self.page_hit_rate,
                self.page_hits,
                self.page_misses,
                self.page_evictions
            )?;
            writeln!(
                f,
                "guesses   {} experts read ahead, {} of them used",
                self.pages_read_ahead, self.pages_read_ahead_useful
            )?;
            writeln!(
                f,
                "flash     {} read, {} a token, {:.2} s waited, {:.2} s of checksums, {} retries",
                Size(self.read_bytes),
                Size(self.read_bytes_per_token as u64),
                self.read_wait_seconds,
                self.checksum_seconds,
                self.read_retries
            )?;
        }
        write!(f, "RAM       {} planned", Size(self.budget_bytes))?;
        match self.peak_resident_bytes {
            Some(peak) => write!(f, ", {} at most", Size(peak)),
            None => Ok(()),
        }
    }
}
