//! Where the time and the memory of a session went, for people and for programs.

use core::fmt;

use serde::{Serialize, Serializer};

use crate::plan::Plan;
use crate::seams::Micros;
use crate::session::Session;
use crate::size::Size;
use crate::stats::Phase;

/// What a session does not know of the platform that it runs on.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'s> {
    /// Cores at work.
    pub threads: usize,
    /// What reads the image.
    pub storage: &'static str,
    /// Time that loading took.
    pub load_time: Micros,
    /// Bytes planned for the whole program.
    pub budget: u64,
    /// Those of them that are not the arena, by name.
    pub overhead: &'s [(&'static str, u64)],
    /// The most that was used, where the platform can say.
    pub peak_resident: Option<u64>,
    /// Time that answers took, from the prompt's first token to the last text, where it is measured.
    pub answer_time: Option<Micros>,
    /// Tokens of answers that were thinking.
    pub thought: u64,
    /// Page faults, minor and major, where there are any.
    pub faults: Option<[u64; 2]>,
}

/// Where time and memory went: displayed as lines, serialised as one object.
#[derive(Debug, Clone, Serialize)]
pub struct Report<'s> {
    kernels: &'static str,
    threads: usize,
    storage: &'static str,
    load_seconds: f64,
    prompt_tokens: u64,
    prompt_tokens_per_second: f64,
    /// Tokens of prompts that a known beginning had: they are not among those that were computed.
    reused_tokens: u64,
    generated_tokens: u64,
    generated_tokens_per_second: f64,
    /// Of the generated tokens, those of thinking.
    thinking_tokens: u64,
    /// Tokens that were guessed, and those of them that were what was sampled.
    drafted_tokens: u64,
    accepted_tokens: u64,
    /// Steps of answers for which others waited: they took turns.
    steps_in_turns: u64,
    /// How often a conversation gave up its keys and values for others, and the tokens of those, which are
    /// among those of prompts again.
    parked: u64,
    parked_tokens: u64,
    prompt: Account,
    answer: Account,
    /// Time of answers that belongs to no token: text in and out.
    other_seconds: Option<f64>,
    slots: u32,
    pages: u32,
    budget_bytes: u64,
    arena_bytes: u64,
    /// What is not the arena, by name, in bytes.
    #[serde(serialize_with = "as_map")]
    overhead: &'s [(&'static str, u64)],
    peak_resident_bytes: Option<u64>,
    minor_faults: Option<u64>,
    major_faults: Option<u64>,
}

/// Where the time of one kind of tokens went.
#[derive(Debug, Clone, Serialize)]
pub struct Account {
    /// From beginning to end: the sum of computing, waiting, checksums, management and sampling.
    seconds: f64,
    compute_seconds: f64,
    /// Waiting for the flash with nothing else to do.
    read_wait_seconds: f64,
    checksum_seconds: f64,
    /// Of it, what made tokens slower: nothing that was needed was on its way meanwhile.
    checksum_exposed_seconds: f64,
    /// Deciding which page goes where, asking for it and taking it.
    management_seconds: f64,
    sampling_seconds: f64,
    /// Wanted pages that were in RAM since an earlier token.
    page_hits: u64,
    /// Wanted pages that were in RAM because of a guess.
    page_guessed: u64,
    /// Wanted pages that were on their way because of a guess.
    page_late: u64,
    /// Wanted pages that nobody had asked for.
    page_misses: u64,
    page_evictions: u64,
    /// Share of the wanted pages that were in RAM.
    page_hit_rate: f64,
    pages_read_ahead: u64,
    pages_read_ahead_wasted: u64,
    read_retries: u64,
    read_bytes: u64,
    read_bytes_per_token: f64,
}

impl Account {
    /// The account of a phase of `tokens` tokens.
    pub fn of(phase: &Phase) -> Self {
        let cache = phase.cache;
        Self {
            seconds: seconds(phase.time),
            compute_seconds: seconds(phase.computing()),
            read_wait_seconds: seconds(cache.waiting),
            checksum_seconds: seconds(cache.checking),
            checksum_exposed_seconds: seconds(cache.checking.saturating_sub(cache.hidden)),
            management_seconds: seconds(cache.managing),
            sampling_seconds: seconds(phase.sampling),
            page_hits: cache.hits,
            page_guessed: cache.guessed,
            page_late: cache.late,
            page_misses: cache.misses,
            page_evictions: cache.evictions,
            page_hit_rate: cache.hit_rate(),
            pages_read_ahead: cache.ahead,
            pages_read_ahead_wasted: cache.wasted,
            read_retries: cache.retries,
            read_bytes: cache.bytes,
            read_bytes_per_token: cache.bytes as f64 / phase.tokens.max(1) as f64,
        }
    }
}

/// Names and their bytes as one object.
fn as_map<S: Serializer>(parts: &[(&'static str, u64)], out: S) -> Result<S::Ok, S::Error> {
    out.collect_map(parts.iter().copied())
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

impl<'s> Report<'s> {
    /// Of everything since the model was loaded.
    pub fn new(session: &Session<'_>, plan: &Plan, around: Surroundings<'s>) -> Self {
        let stats = session.stats();
        let speed = |phase: &Phase| match phase.time {
            0 => 0.0,
            time => phase.tokens as f64 / seconds(time),
        };
        let accounted = stats.prompt.time + stats.decode.time;
        Self {
            kernels: session.kernels().name,
            threads: around.threads,
            storage: around.storage,
            load_seconds: seconds(around.load_time),
            prompt_tokens: stats.prompt.tokens,
            prompt_tokens_per_second: speed(&stats.prompt),
            reused_tokens: stats.reused,
            generated_tokens: stats.decode.tokens,
            generated_tokens_per_second: speed(&stats.decode),
            thinking_tokens: around.thought,
            drafted_tokens: stats.drafted,
            accepted_tokens: stats.accepted,
            steps_in_turns: stats.turns,
            parked: stats.parked,
            parked_tokens: stats.parked_tokens,
            prompt: Account::of(&stats.prompt),
            answer: Account::of(&stats.decode),
            other_seconds: around.answer_time.map(|time| seconds(time.saturating_sub(accounted))),
            slots: plan.slots,
            pages: plan.pages,
            budget_bytes: around.budget,
            arena_bytes: plan.total(),
            overhead: around.overhead,
            peak_resident_bytes: around.peak_resident,
            minor_faults: around.faults.map(|[minor, _]| minor),
            major_faults: around.faults.map(|[_, major]| major),
        }
    }

    /// The account of `tokens` tokens.
    fn show(
        &self,
        f: &mut fmt::Formatter<'_>,
        name: &str,
        account: &Account,
        (tokens, speed): (u64, f64),
    ) -> fmt::Result {
        let a = account;
        writeln!(f, "{name:<9} {tokens} tokens, {speed:.2} tokens/s, {:.2} s:", a.seconds)?;
        writeln!(
            f,
            "          {:.3} s computing, {:.3} s waiting for flash, {:.3} s checksums \
             ({:.3} s with nothing on its way), {:.3} s management, {:.3} s sampling",
            a.compute_seconds,
            a.read_wait_seconds,
            a.checksum_seconds,
            a.checksum_exposed_seconds,
            a.management_seconds,
            a.sampling_seconds
        )?;
        if self.pages == 0 {
            return Ok(());
        }
        writeln!(
            f,
            "          experts: {:.1} % hits ({} resident, {} guessed in time, {} guessed late, \
             {} missed), {} evictions",
            100.0 * a.page_hit_rate,
            a.page_hits,
            a.page_guessed,
            a.page_late,
            a.page_misses,
            a.page_evictions
        )?;
        writeln!(
            f,
            "          flash: {} read, {} a token, {} retries; {} experts read ahead, {} of them \
             for nothing",
            Size(a.read_bytes),
            Size(a.read_bytes_per_token as u64),
            a.read_retries,
            a.pages_read_ahead,
            a.pages_read_ahead_wasted
        )
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "load      {:.2} s, kernels {}, {} threads, storage {}",
            self.load_seconds, self.kernels, self.threads, self.storage
        )?;
        let prompt = (self.prompt_tokens, self.prompt_tokens_per_second);
        self.show(f, "prompt", &self.prompt, prompt)?;
        if self.reused_tokens > 0 {
            let (reused, computed) = (self.reused_tokens, self.prompt_tokens);
            writeln!(f, "          {reused} more tokens were known, {computed} computed")?;
        }
        let answer = (self.generated_tokens, self.generated_tokens_per_second);
        self.show(f, "answer", &self.answer, answer)?;
        if self.thinking_tokens > 0 {
            writeln!(f, "          {} of them thinking", self.thinking_tokens)?;
        }
        if self.steps_in_turns > 0 {
            writeln!(f, "          {} steps in turns, while others waited", self.steps_in_turns)?;
        }
        if self.parked > 0 {
            let (times, tokens) = (self.parked, self.parked_tokens);
            writeln!(f, "          {times} times without room for all, {tokens} tokens again")?;
        }
        if self.drafted_tokens > 0 {
            let share = 100.0 * self.accepted_tokens as f64 / self.drafted_tokens as f64;
            writeln!(
                f,
                "drafts    {} of {} guessed tokens were right ({share:.0} %)",
                self.accepted_tokens, self.drafted_tokens
            )?;
        }
        if let Some(other) = self.other_seconds {
            writeln!(f, "the rest  {other:.3} s")?;
        }
        if self.pages > 0 {
            writeln!(f, "experts   {} of {} fit in RAM", self.slots, self.pages)?;
        }
        write!(
            f,
            "RAM       {} planned: {} arena",
            Size(self.budget_bytes),
            Size(self.arena_bytes)
        )?;
        for &(name, bytes) in self.overhead.iter().filter(|(_, bytes)| *bytes > 0) {
            write!(f, ", {} {name}", Size(bytes))?;
        }
        if let Some(peak) = self.peak_resident_bytes {
            write!(f, "; {} used at most", Size(peak))?;
        }
        if let (Some(minor), Some(major)) = (self.minor_faults, self.major_faults) {
            write!(f, "; {minor} minor and {major} major faults")?;
        }
        Ok(())
    }
}
