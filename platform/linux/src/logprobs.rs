//! Log-probabilities of an answer's tokens, as JSON.

use rill::engine::{Ask, Sample};
use rill::generate::Guide;
use rill::sampler::Logprob;
use rill::tokenizer::Tokenizer;
use serde::Serialize;

/// Keeps what was chosen, with log-probabilities where they are wanted.
pub struct Listener {
    best: Option<usize>,
    samples: Vec<Sample>,
}

/// A token of an answer.
#[derive(Debug, Serialize)]
pub struct Choice {
    #[serde(flatten)]
    chosen: Likely,
    /// The best tokens in its place, the best first.
    top: Vec<Likely>,
}

/// A token and how likely the model thinks it.
#[derive(Debug, Serialize)]
struct Likely {
    id: u32,
    /// Its text; a token may be a part of a character.
    token: String,
    /// Natural logarithm of its probability.
    logprob: f32,
}

impl Listener {
    /// Wants the log-probabilities of chosen tokens and of the `best` in their place; of none without.
    pub fn new(best: Option<usize>) -> Self {
        Self { best, samples: Vec::new() }
    }

    /// What it heard; `None` where it wanted nothing.
    pub fn choices(&self, tokenizer: &Tokenizer<'_>) -> Option<Vec<Choice>> {
        let likely = |id, logprob| {
            let token = String::from_utf8_lossy(tokenizer.piece(id)).into_owned();
            Likely { id, token, logprob }
        };
        let choice = |sample: &Sample| {
            let logprobs = sample.logprobs.as_ref()?;
            let best = logprobs.best.iter().map(|&Logprob { id, logprob }| likely(id, logprob));
            Some(Choice { chosen: likely(sample.id, logprobs.chosen), top: best.collect() })
        };
        self.best.map(|_| self.samples.iter().filter_map(choice).collect())
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
