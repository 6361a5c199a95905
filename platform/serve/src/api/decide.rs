//! `POST /v1/decide`: how likely each of some answers is, for classification.
//!
//! Takes `messages`, or a plain `prompt`, and `choices`, a list of texts. The prompt goes through the
//! model once, which weighs the first token of every choice; the others go through it together, of as many
//! choices at once as conversations have a free place. Gives the natural logarithm of each
//! choice's probability as the answer's beginning, and its share of the probability of all choices. A model
//! that thinks first is asked for what it says without having thought.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use rill::tokenizer::EncodeError;
use serde_json::json;

use super::ask::{self, gone};
use super::held::ANSWER;
use super::openai::shape;
use super::{Asked, Server, messages};
use crate::error::ApiError;
use crate::job::Work;
use crate::server::Shared;

/// Most choices, and most tokens of one.
const MOST: usize = 64;

/// Bytes of what is said of a choice, beside its text.
const CHOICE: usize = 1 << 10;

/// Weighs choices.
pub async fn decide(State(shared): Server, request: Request) -> Response {
    match answer(&shared, request).await {
        Ok(response) => response,
        Err(error) => error.response("/v1"),
    }
}

async fn answer(shared: &Arc<Shared>, request: Request) -> Result<Response, ApiError> {
    let Asked { mut fields, open, guest, room } = Asked::read(shared, request).await?;
    let list = fields.list("messages")?;
    let text = fields.text("prompt")?;
    let choices = fields.texts("choices")?.unwrap_or_default();
    fields.ignore(&["model", "user", "metadata"]);
    fields.end()?;
    if choices.len() < 2 || choices.len() > MOST || choices.iter().any(String::is_empty) {
        let message = format!("must be 2 to {MOST} texts that are not empty");
        return Err(ApiError::field("choices", message));
    }
    let prompt = match (list, text) {
        (Some(list), None) => {
            ask::conversation(&open, "messages", messages::read(list)?, None).await?
        }
        (None, Some(text)) => ask::text(&open, "prompt", text).await?,
        _ => return Err(ApiError::field("messages", "either it or `prompt` must be there")),
    };
    let texts = choices.clone();
    let encode = move |clerk: &mut crate::clerk::Clerk<'_>| {
        let prompt = clerk.without_thinking(prompt)?;
        let encoded: Result<Vec<_>, EncodeError> =
            texts.iter().map(|text| clerk.tokens(text, false)).collect();
        Ok((prompt, encoded?))
    };
    let encoded: Option<Result<_, EncodeError>> = open.clerk.ask(encode).await;
    let encoded = encoded.ok_or_else(gone)?;
    let (prompt, encoded) = encoded.map_err(|error| ApiError::field("choices", error))?;
    let longest = encoded.iter().map(Vec::len).max().unwrap_or(0);
    if longest > MOST || prompt.tokens.len() + longest > open.facts.context {
        let message = format!("has a text of {longest} tokens: more than fit, or more than {MOST}");
        return Err(ApiError::field("choices", message));
    }
    drop(room);
    let tokens = prompt.tokens.len();
    // Each text, its tokens and its part of the response.
    let texts: usize = choices.iter().map(|text| 3 * text.len() + CHOICE).sum();
    let bytes = ANSWER + texts + longest * size_of::<u32>() * choices.len();
    let answers = ask::start(shared, guest, vec![prompt], 1, &Work::Decide(encoded), bytes)?;
    let (whole, held) = answers.whole().await?;
    let logprobs = whole.first().map_or(&[][..], |whole| &whole.decided);
    let best = logprobs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logprobs.iter().map(|l| f64::from(l - best).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let chosen = logprobs.iter().position(|logprob| *logprob == best);
    let each = choices.iter().zip(logprobs).zip(&weights).map(|((text, logprob), weight)| {
        json!({"text": text, "logprob": shape::logprob(*logprob), "share": weight / sum})
    });
    let body = json!({
        "object": "decision",
        "model": open.facts.name,
        "choice": chosen.map(|chosen| &choices[chosen]),
        "choices": each.collect::<Vec<_>>(),
        "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
    });
    Ok(held.respond(&body))
}
