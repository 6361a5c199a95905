//! Log-probabilities of an answer's tokens, as JSON.

use std::borrow::Cow;

use rill::engine::{Ask, Sample};
use rill::generate::Guide;
use rill::sampler::Logprob;
use rill::tokenizer::Tokenizer;
use serde::{Serialize, Serializer};

/// Keeps what was chosen, with log-probabilities where they are wanted.
pub struct Listener {
    best: Option<usize>,
    samples: Vec<Sample>,
}

/// What was chosen in an answer. It is written token by token: all of it as text takes several times the
/// memory.
pub struct Choices<'l> {
    samples: &'l [Sample],
    tokenizer: &'l Tokenizer<'l>,
}

/// A token of an answer.
#[derive(Debug, Serialize)]
struct Choice<'l> {
    #[serde(flatten)]
    chosen: Likely<'l>,
    /// The best tokens in its place, the best first.
    top: Vec<Likely<'l>>,
}

/// A token and how likely the model thinks it.
#[derive(Debug, Serialize)]
struct Likely<'l> {
    id: u32,
    /// Its text; a token may be a part of a character.
    token: Cow<'l, str>,
    /// Natural logarithm of its probability.
    logprob: f32,
}

impl Listener {
    /// Wants the log-probabilities of chosen tokens and of the `best` in their place; of none without.
    pub fn new(best: Option<usize>) -> Self {
        Self { best, samples: Vec::new() }
    }

    /// What it heard; `None` where it wanted nothing.
    pub fn choices<'l>(&'l self, tokenizer: &'l Tokenizer<'l>) -> Option<Choices<'l>> {
        self.best.map(|_| Choices { samples: &self.samples, tokenizer })
    }
}

impl Serialize for Choices<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let likely = |id, logprob| {
            let token = String::from_utf8_lossy(self.tokenizer.piece(id));
            Likely { id, token, logprob }
        };
        let choice = |sample: &Sample| {
            let logprobs = sample.logprobs.as_ref()?;
            let best = logprobs.best.iter().map(|&Logprob { id, logprob }| likely(id, logprob));
            Some(Choice { chosen: likely(sample.id, logprobs.chosen), top: best.collect() })
        };
        out.collect_seq(self.samples.iter().filter_map(choice))
    }
}

impl Guide for Listener {
    fn ask(&mut self) -> Ask<'_> {
        Ask { logprobs: self.best, ..Ask::default() }
    }

    fn chosen(&mut self, sample: &Sample) {
        if self.best.is_some() {
            self.samples.push(sample.clone());
        }
    }
}
