//! The one model that there is.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::api::{Server, model as ask_model};
use crate::error::ApiError;
use crate::model::Facts;

/// `GET /v1/models`
pub async fn models(State(shared): Server) -> Response {
    match ask_model(&shared) {
        Ok(open) => {
            Json(json!({"object": "list", "data": [describe(&open.facts)]})).into_response()
        }
        Err(error) => error.response("/v1"),
    }
}

/// `GET /v1/models/NAME`
pub async fn model(State(shared): Server, Path(name): Path<String>) -> Response {
    match ask_model(&shared) {
        Ok(open) if open.facts.name == name => Json(describe(&open.facts)).into_response(),
        Ok(open) => {
            let message = format!("the model here is `{}`", open.facts.name);
            let error = ApiError::new(StatusCode::NOT_FOUND, message).code("model_not_found");
            error.response("/v1")
        }
        Err(error) => error.response("/v1"),
    }
}

fn describe(facts: &Facts) -> Value {
    json!({
        "id": facts.name,
        "object": "model",
        "created": facts.since,
        "owned_by": "rill",
        "max_model_len": facts.context,
    })
}
