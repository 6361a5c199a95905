//! Where the time of tokens went.

use crate::experts::CacheStats;
use crate::seams::Micros;

/// Where an engine's time went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Stats {
    /// Tokens of prompts that were computed.
    pub prompt: Phase,
    /// Tokens that were sampled, and computed when they were continued.
    pub decode: Phase,
    /// Tokens that were guessed and compared or computed in vain.
    pub drafted: u64,
    /// Of them, those that were what was sampled.
    pub accepted: u64,
    /// Of the guessed tokens, those that a mask left no choice of.
    pub forced: u64,
    /// Tokens of prompts that were not computed, because a known beginning has them.
    pub reused: u64,
    /// Steps of answers for which others waited: they took turns.
    pub turns: u64,
    /// How often a sequence gave up its keys and values for others.
    pub parked: u64,
    /// Tokens of those, which are computed again.
    pub parked_tokens: u64,
}

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Phase {
    /// Tokens.
    pub tokens: u64,
    /// Time from beginning to end.
    pub time: Micros,
    /// Time of it for sampling.
    pub sampling: Micros,
    /// The experts' pages; zeros for a dense model.
    pub cache: CacheStats,
}

impl Phase {
    /// Time for the model's arithmetic: what is neither sampling nor the cache's.
    pub fn computing(&self) -> Micros {
        let CacheStats { waiting, checking, managing, .. } = self.cache;
        self.time.saturating_sub(self.sampling + waiting + checking + managing)
    }

    /// What was added since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            tokens: self.tokens - before.tokens,
            time: self.time - before.time,
            sampling: self.sampling - before.sampling,
            cache: self.cache.since(before.cache),
        }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            time: self.time + other.time,
            sampling: self.sampling + other.sampling,
            cache: self.cache.plus(other.cache),
        }
    }
}
