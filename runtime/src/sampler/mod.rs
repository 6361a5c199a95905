//! Choosing the next token from its logits.
//!
//! The steps and their order are those of Hugging Face `transformers`, to which Liquid's advice
//! refers, with those that it does not have where they belong:
//!
//! 1. *mask*: what the caller does not allow is impossible, and so are tokens that end the answer
//!    where it may not end. It comes first, so that nothing can bring back what is forbidden, and so
//!    that every later step speaks of shares of what is allowed;
//! 2. *logit bias*: is added. It says what a logit should have been, so penalties see the sum;
//! 3. *repetition penalty* (Keskar et al. 2019, CTRL) on every token seen before: a positive logit
//!    is divided by it, a negative one multiplied;
//! 4. *frequency and presence penalty* (as OpenAI defines them) on the tokens of the answer: they
//!    are subtracted, the first once for each time that the token is there. They come last of what
//!    changes single logits, so that they are what they say whatever came before;
//! 5. *top-n-sigma* (Tang et al. 2024, arXiv 2411.07641): what is at most n standard deviations of
//!    the logits below the best stays. The temperature does not matter to it, so it looks at the
//!    logits before something can have overflowed; it comes before the steps that take tokens away,
//!    because it wants the deviation of all;
//! 6. *temperature*: logits are divided by it; 0 means the best token, and nothing else is done;
//! 7. *top-k*: the k best stay, of equal ones those of lower id (`transformers` keeps all equals);
//! 8. *top-p* (Holtzman et al. 2020): of what is left the best stay, until their share of its
//!    probability reaches p; of equal ones those of lower id;
//! 9. *min-p* (Nguyen et al. 2024): what is at least p times as probable as the best stays.
//!
//! llama.cpp applies temperature last; with the advised settings its top-k and top-p are off and
//! min-p would be looser than in the order that the advice was made for.
//!
//! A logit that is not a number counts as impossible, positive infinity as the largest number. The
//! result depends on the settings, the seed, the situation and the logits alone: `exp` is libm's,
//! sums are in order of id.

mod cuts;
mod logprobs;
mod penalties;
mod random;
mod set;
mod settings;
#[cfg(test)]
mod tests;

pub use logprobs::{Logprob, Logprobs, MOST_LOGPROBS};
pub use set::{contains, insert, set_words};
pub use settings::{Bias, MOST_BIASES, Settings};

use cuts::{keep_top_k, keep_top_n_sigma, keep_top_p};
use penalties::{add_biases, penalise_said, penalise_seen};
pub(crate) use random::Xoshiro256;

/// Chooses tokens; keeps the state of the random numbers.
#[derive(Debug, Clone)]
pub struct Sampler {
    settings: Settings,
    pub(crate) random: Xoshiro256,
}

/// What a choice depends on besides settings, seed and logits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Situation<'s> {
    /// The set of tokens that may be chosen, see [`set_words`]: a bit that is 1 allows its token.
    /// `None` allows all.
    pub allowed: Option<&'s [u32]>,
    /// Tokens that end the answer.
    pub stops: &'s [u32],
    /// What is added to which logits.
    pub biases: &'s [Bias],
    /// The set of tokens that the sequence has so far.
    pub seen: &'s [u32],
    /// The tokens of the answer so far.
    pub answer: &'s [u32],
}

/// Why no token can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum NoChoice {
    /// No logit is a number, or there is none.
    NoNumbers,
    /// No possible token is allowed.
    Forbidden,
}

impl Sampler {
    /// A sampler with settings as a checked manifest has them. Equal seeds, equal choices.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self { settings, random: Xoshiro256::new(seed) }
    }

    /// The settings in use.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Chooses a token and spoils `logits` (vocabulary,). `marks` is room for a set of tokens.
    ///
    /// One random number is used up unless the temperature is 0. After an error none is, and the
    /// logits are as they were.
    ///
    /// Needs no other memory; O(vocabulary + answer).
    pub fn sample(
        &mut self,
        logits: &mut [f32],
        marks: &mut [u32],
        situation: &Situation<'_>,
    ) -> Result<u32, NoChoice> {
        let best = self.change(logits, marks, situation)?;
        if self.settings.sampling.temperature == 0.0 {
            return Ok(best);
        }
        let point = self.random.unit();
        self.weigh(logits, best);
        Ok(draw(logits, point).unwrap_or(best))
    }

    /// Does what changes single logits, and returns the best token.
    fn change(
        &self,
        logits: &mut [f32],
        marks: &mut [u32],
        situation: &Situation<'_>,
    ) -> Result<u32, NoChoice> {
        let Situation { allowed, stops, biases, seen, answer } = *situation;
        let settings = &self.settings;
        let stops = if settings.may_end(answer.len()) { &[] } else { stops };
        set::check(logits, allowed, stops)?;
        if let Some(allowed) = allowed {
            set::keep_allowed(logits, allowed);
        }
        set::forbid(logits, stops);
        add_biases(logits, biases);
        penalise_seen(logits, seen, settings.sampling.repetition_penalty);
        let (presence, frequency) = (settings.presence_penalty, settings.frequency_penalty);
        penalise_said(logits, answer, presence, frequency, marks);
        best(logits).ok_or(NoChoice::NoNumbers)
    }

    /// Makes weights of logits whose best is `best`: 1 for it, 0 for what is not to be chosen.
    fn weigh(&self, logits: &mut [f32], best: u32) {
        let settings = &self.settings.sampling;
        let top = finite(logits[best as usize]);
        keep_top_n_sigma(logits, top, self.settings.top_n_sigma);
        for logit in logits.iter_mut() {
            // The difference first: a quotient could overflow.
            *logit = (finite(*logit) - top) / settings.temperature;
        }
        keep_top_k(logits, settings.top_k);
        // What min-p is going to take away needs no weight, unless top-p counts it. The margin is far
        // beyond what rounding can do.
        let counted = if settings.top_p < 1.0 { 0.0 } else { settings.min_p };
        let least = libm::logf(counted) - 0.01;
        for weight in logits.iter_mut() {
            *weight = if *weight < least { 0.0 } else { libm::expf(*weight) };
        }
        keep_top_p(logits, settings.top_p);
        // The best has weight 1.
        for weight in logits.iter_mut().filter(|weight| **weight < settings.min_p) {
            *weight = 0.0;
        }
    }
}

/// A logit as a number, or negative infinity where it is none.
fn finite(logit: f32) -> f32 {
    if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) }
}

/// The first of the largest logits.
fn best(logits: &[f32]) -> Option<u32> {
    let mut best = None;
    let mut top = f32::NEG_INFINITY;
    for (id, &logit) in logits.iter().enumerate() {
        // False for what is not a number.
        if logit > top {
            (best, top) = (Some(id as u32), logit);
        }
    }
    best
}

/// The token at `point` (0..1) of the weights laid end to end, in order of id.
fn draw(weights: &[f32], point: f64) -> Option<u32> {
    let total: f64 = weights.iter().copied().map(f64::from).sum();
    let target = point * total;
    let mut sum = 0.0;
    let mut last = None;
    for (id, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        sum += f64::from(weight);
        last = Some(id as u32);
        if sum > target {
            break;
        }
    }
    last
}
