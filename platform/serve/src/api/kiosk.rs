//! `POST /kiosk/chat`: what visitors ask on their page. A request has nothing but a conversation; the rest
//! is as the kiosk's owner says, and the answer is a stream of OpenAI's chat completion.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::{Asked, Server, openai};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::pages::Kiosk;
use crate::server::Shared;

/// Answers a visitor.
pub async fn chat(State(shared): Server, request: Request) -> Response {
    match answer(&shared, request).await {
        Ok(response) => response,
        Err(error) => error.response("/v1"),
    }
}

async fn answer(shared: &Arc<Shared>, request: Request) -> Result<Response, ApiError> {
    let mut asked = Asked::read(shared, request).await?;
    let said = asked.fields.list("messages")?;
    let said = said.ok_or_else(|| ApiError::field("messages", "is missing"))?;
    std::mem::replace(&mut asked.fields, Fields::of(Map::new(), String::new())).end()?;
    let most = shared.kiosk.tokens.unwrap_or(u64::MAX).min(shared.limits.tokens);
    asked.fields = Fields::of(completion(&shared.kiosk, said, most)?, String::new());
    openai::complete_chat(shared, asked).await
}

/// The request for a chat completion that a visitor's conversation becomes.
fn completion(kiosk: &Kiosk, said: Vec<Value>, most: u64) -> Result<Map<String, Value>, ApiError> {
    for (number, message) in said.iter().enumerate() {
        if !matches!(message["role"].as_str(), Some("user" | "assistant")) {
            let name = format!("messages[{number}].role");
            return Err(ApiError::field(name, "must be user or assistant"));
        }
    }
    let system = kiosk.system.iter().map(|text| json!({"role": "system", "content": text}));
    let messages: Vec<Value> = system.chain(said).collect();
    let mut fields = Map::new();
    fields.insert("messages".into(), messages.into());
    fields.insert("stream".into(), true.into());
    fields.insert("max_tokens".into(), most.into());
    if let Some(effort) = &kiosk.thinking {
        fields.insert("reasoning_effort".into(), effort.as_str().into());
    }
    Ok(fields)
}
