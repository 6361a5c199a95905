//! What chat and plain completions have in common.

use serde_json::{Value, json};

use crate::job::{Account, Ending, Likely, Token};
use crate::model::Facts;
use crate::server::{Shared, seconds};

/// Fields that say something about the request and nothing about the answer.
pub const DECORATION: [&str; 14] = [
    "model",
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "verbosity",
    "cache_prompt",
    "id_slot",
    "prediction",
    "timings_per_token",
    "return_progress",
];

/// What stands at the head of an answer and of each of its pieces.
#[derive(Debug, Clone)]
pub struct Head {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    fingerprint: String,
}

impl Head {
    /// Of an answer to be.
    pub fn new(shared: &Shared, facts: &Facts, kind: &str, object: &'static str) -> Self {
        Self {
            id: shared.id(kind),
            object,
            created: seconds(),
            model: facts.name.clone(),
            fingerprint: format!("rill-{}-{}", env!("CARGO_PKG_VERSION"), facts.kernels),
        }
    }

    /// Names for the calls in it.
    pub fn call_ids(&self) -> CallIds {
        let of = self.id.rsplit('-').next().unwrap_or_default();
        CallIds::new(of.to_owned())
    }

    /// With its choices.
    pub fn with(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        })
    }
}

/// Names of calls that no other call has.
#[derive(Debug, Clone)]
pub struct CallIds {
    of: String,
    count: usize,
}

impl CallIds {
    /// For the answer of this name.
    pub fn new(of: String) -> Self {
        Self { of, count: 0 }
    }

    /// The name of the next call.
    pub fn next(&mut self) -> String {
        self.count += 1;
        format!("call_{}{:x}", self.of, self.count)
    }
}

/// Why an answer ended, in OpenAI's words; `calls` says whether it called a tool.
pub fn reason(ending: Ending, calls: bool) -> &'static str {
    match ending {
        Ending::Stop if calls => "tool_calls",
        Ending::Stop | Ending::StopText => "stop",
        Ending::Length => "length",
    }
}

/// What answers took together. A prompt counts once, however many answers it has.
pub fn usage<'a>(accounts: impl Iterator<Item = &'a Account>, per_prompt: usize) -> Value {
    let (mut prompt, mut cached, mut tokens, mut thought) = (0, 0, 0, 0);
    for (number, account) in accounts.enumerate() {
        if number % per_prompt.max(1) == 0 {
            prompt += account.prompt as u64;
            cached += account.cached as u64;
        }
        tokens += account.tokens;
        thought += account.thought;
    }
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "total_tokens": prompt + tokens,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": thought},
    })
}

/// A log-probability as JSON, which has no infinity: OpenAI gives this for what is impossible.
pub fn logprob(value: f32) -> f32 {
    if value.is_finite() { value } else { -9999.0 }
}

/// The text of a token by itself.
pub fn text(token: &Token) -> String {
    String::from_utf8_lossy(&token.bytes).into_owned()
}

/// Tokens with their log-probabilities, and the best in their places.
pub fn token_logprobs(tokens: &[Likely]) -> Vec<Value> {
    let one = |token: &Token| json!({"token": text(token), "logprob": logprob(token.logprob), "bytes": token.bytes});
    let all = tokens.iter().map(|(token, best)| {
        let mut said = one(token);
        said["top_logprobs"] = best.iter().map(one).collect();
        said
    });
    all.collect()
}

/// A server-sent event.
pub fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

/// The event that ends a stream.
pub const DONE: &str = "data: [DONE]\n\n";
