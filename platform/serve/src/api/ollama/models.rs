//! The one model that there is, in Ollama's words.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::chat::date;
use crate::api::{Asked, Server, model};
use crate::error::ApiError;
use crate::model::Facts;
use crate::server::Shared;

/// The version of Ollama whose API this is: clients ask for a least one.
const API: &str = "0.12.0";

/// `GET /api/version`
pub async fn version() -> Response {
    Json(json!({"version": API})).into_response()
}

/// `GET /api/tags`
pub async fn tags(State(shared): Server) -> Response {
    match model(&shared) {
        Ok(open) => Json(json!({"models": [describe(&open.facts)]})).into_response(),
        Err(error) => error.response("/api/"),
    }
}

/// `GET /api/ps`
pub async fn running(State(shared): Server) -> Response {
    match model(&shared) {
        Ok(open) => {
            let mut running = describe(&open.facts);
            // It stays until the server ends.
            running["expires_at"] = "9999-12-31T23:59:59Z".into();
            running["size_vram"] = 0.into();
            running["context_length"] = open.facts.context.into();
            Json(json!({"models": [running]})).into_response()
        }
        Err(error) => error.response("/api/"),
    }
}

/// `POST /api/show`
pub async fn show(State(shared): Server, request: Request) -> Response {
    match shown(&shared, request).await {
        Ok(body) => Json(body).into_response(),
        Err(error) => error.response("/api/"),
    }
}

async fn shown(shared: &Shared, request: Request) -> Result<Value, ApiError> {
    let Asked { mut fields, open, .. } = Asked::read(shared, request).await?;
    let name = fields.text("model")?;
    let name = name.or(fields.text("name")?).ok_or_else(|| fields.wrong("model", "is missing"))?;
    fields.ignore(&["verbose", "system", "template", "options"]);
    fields.end()?;
    let facts = &open.facts;
    // Where nothing is said of which version, it is this one.
    if name.strip_suffix(":latest").unwrap_or(&name) != facts.name {
        let message = format!("model '{name}' not found: the model here is `{}`", facts.name);
        return Err(ApiError::new(StatusCode::NOT_FOUND, message));
    }
    let sampling = &facts.sampling;
    let parameters = [
        ("temperature", sampling.temperature),
        ("top_k", sampling.top_k as f32),
        ("top_p", sampling.top_p),
        ("min_p", sampling.min_p),
        ("repeat_penalty", sampling.repetition_penalty),
    ];
    let parameters: Vec<_> = parameters.iter().map(|(name, is)| format!("{name} {is}")).collect();
    let mut capabilities = vec!["completion"];
    if facts.calls_tools() {
        capabilities.push("tools");
    }
    if facts.thinks {
        capabilities.push("thinking");
    }
    Ok(json!({
        "modelfile": "",
        "parameters": parameters.join("\n"),
        "template": facts.template.as_deref().unwrap_or_default(),
        "details": details(),
        "model_info": {
            "general.architecture": "lfm2",
            "general.basename": facts.name,
            "lfm2.context_length": facts.context,
            "lfm2.vocab_size": facts.vocab,
        },
        "capabilities": capabilities,
        "modified_at": date(facts.since),
    }))
}

fn describe(facts: &Facts) -> Value {
    json!({
        "name": facts.name,
        "model": facts.name,
        "modified_at": date(facts.since),
        "size": facts.bytes,
        "digest": format!("{:016x}", facts.identity),
        "details": details(),
    })
}

fn details() -> Value {
    json!({
        "parent_model": "",
        "format": "rill",
        "family": "lfm2",
        "families": ["lfm2"],
        "parameter_size": "",
        "quantization_level": "",
    })
}
