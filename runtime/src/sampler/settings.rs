//! How a caller wants tokens chosen.

use bytemuck::{Pod, Zeroable};

use crate::image::Sampling;

/// Most biases of a sequence: as many as OpenAI's API takes.
pub const MOST_BIASES: usize = 300;

/// How to choose tokens. Made of what an image advises; the rest is then off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// What an image can advise.
    pub sampling: Sampling,
    /// Taken from the logit of every token that the answer has, as OpenAI defines it: -2 to 2, 0 is
    /// none.
    pub presence_penalty: f32,
    /// Taken from the logit of a token for each time that the answer has it, as OpenAI defines it: -2
    /// to 2, 0 is none.
    pub frequency_penalty: f32,
    /// Keeps what is at most so many standard deviations of the logits below the best; 0 keeps all.
    pub top_n_sigma: f32,
    /// Never chooses a token that ends the answer.
    pub ignore_eos: bool,
    /// Chooses no token that ends the answer before it has so many.
    pub min_tokens: u32,
}

impl Settings {
    /// Whether an answer of `tokens` tokens may end.
    pub(super) const fn may_end(&self, tokens: usize) -> bool {
        !self.ignore_eos && tokens >= self.min_tokens as usize
    }
}

impl From<Sampling> for Settings {
    fn from(sampling: Sampling) -> Self {
        Self {
            sampling,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            top_n_sigma: 0.0,
            ignore_eos: false,
            min_tokens: 0,
        }
    }
}

/// Makes a token more or less probable.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Bias {
    /// The token.
    pub id: u32,
    /// Is added to its logit.
    pub bias: f32,
}
