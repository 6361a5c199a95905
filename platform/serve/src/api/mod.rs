//! Requests and answers in the dialects of clients.
//!
//! - `openai`: models, chat completions, completions, responses;
//! - `ollama`: models, chat and generation in Ollama's words;
//! - `llama`: what clients of llama.cpp's server ask for;
//! - `kiosk`: what visitors ask on their page;
//! - `operator`: how the server is, for its operator's page;
//! - `decide`: how likely each of some answers is;
//! - `ask`: what all of them have in common: from a request to answers under way;
//! - `held`: what is kept of answers until whoever asked has read them;
//! - `sampling`: how tokens are chosen, in every dialect's words;
//! - `messages`: conversations as clients send them;
//! - `tools`: tools that an answer may call, as clients describe them;
//! - `spoken`: what an answer's text is made of;
//! - `stream`: answers as they come.

mod ask;
mod decide;
pub mod held;
mod kiosk;
mod llama;
mod messages;
mod ollama;
mod openai;
mod operator;
mod sampling;
mod spoken;
mod stream;
mod tools;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::future::join;
use serde_json::json;

use crate::door::{self, Guest, Taken};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::pages;
use crate::server::{Open, Shared};

type Server = State<Arc<Shared>>;

/// Everything that can be asked.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/v1/health", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{*name}", get(openai::model))
        .route("/v1/chat/completions", post(openai::chat))
        .route("/v1/completions", post(openai::complete))
        .route("/v1/responses", post(openai::respond_to))
        .route("/v1/decide", post(decide::decide))
        .route(pages::CHAT, post(kiosk::chat))
        .route("/operator/state", get(operator::state))
        .route("/api/version", get(ollama::version))
        .route("/api/tags", get(ollama::tags))
        .route("/api/ps", get(ollama::running))
        .route("/api/show", post(ollama::show))
        .route("/api/chat", post(ollama::chat))
        .route("/api/generate", post(ollama::generate))
        .route("/completion", post(llama::complete))
        .route("/tokenize", post(llama::tokenize))
        .route("/detokenize", post(llama::detokenize))
        .route("/props", get(llama::props))
        .route("/slots", get(llama::slots))
        .fallback(other)
        .method_not_allowed_fallback(method)
        .with_state(shared)
}

/// A request's parts, read within limits and in time; the model that it is for.
struct Asked {
    fields: Fields,
    open: Open,
    guest: Guest,
    /// What its body takes of the room for all; kept until its prompt is written.
    room: Taken,
}

impl Asked {
    async fn read(shared: &Shared, request: Request) -> Result<Self, ApiError> {
        // Who cannot be answered is told before its body is read.
        let open = model(shared)?;
        let (parts, body) = request.into_parts();
        let (bytes, room) = door::read(shared, &parts.headers, body).await?;
        let guest = parts.extensions.get::<Guest>().cloned().unwrap_or_default();
        Ok(Self { fields: Fields::parse(&bytes)?, open, guest, room })
    }
}

/// The model, if it can be asked now.
fn model(shared: &Shared) -> Result<Open, ApiError> {
    let later = |seconds, message: String| {
        Err(ApiError::later(StatusCode::SERVICE_UNAVAILABLE, seconds, message))
    };
    if shared.is_leaving() {
        return later(30, "the server is about to end".into());
    }
    match shared.model() {
        Ok(_) if shared.is_stuck() => {
            let seconds = shared.metrics.silence().as_secs();
            later(
                30,
                format!("the engine has been at one batch for {seconds} s: its device is stuck"),
            )
        }
        Ok(open) => Ok(open),
        Err(Some(seconds)) => {
            later(2, format!("the model is being loaded, for {seconds} s so far"))
        }
        Err(None) => later(30, "the server has no model any more".into()),
    }
}

/// Whether the server can answer: what balancers and supervisors ask.
async fn health(State(shared): Server) -> Response {
    match model(&shared) {
        Ok(_) => Json(json!({"status": "ok"})).into_response(),
        Err(error) => error.response("/health"),
    }
}

async fn metrics(State(shared): Server) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    let (resident, celsius) = join(shared.resident.look(), shared.temperature.look()).await;
    (kind, shared.metrics.text(resident, celsius)).into_response()
}

/// A page, or nothing.
async fn other(State(shared): Server, request: Request) -> Response {
    let path = request.uri().path();
    let page = matches!(*request.method(), Method::GET | Method::HEAD)
        .then(|| pages::page(&shared.kiosk, path));
    page.flatten().unwrap_or_else(|| {
        ApiError::new(StatusCode::NOT_FOUND, "there is nothing at this path").response(path)
    })
}

async fn method(request: Request) -> Response {
    let message = format!("{} is not possible here", request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).response(request.uri().path())
}
