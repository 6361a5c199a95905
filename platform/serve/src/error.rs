//! What a client is told when something is wrong, in the words of its API.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::clerk::PromptError;
use crate::job::Trouble;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    pub status: StatusCode,
    /// OpenAI's kind of error.
    pub kind: &'static str,
    pub message: String,
    /// The field that is wrong.
    pub param: Option<String>,
    pub code: Option<&'static str>,
    /// Seconds after which to try again.
    pub retry_after: Option<u64>,
}

impl ApiError {
    /// A refusal without a field.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = match status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let message = message.into();
        Self { status, kind, message, param: None, code: None, retry_after: None }
    }

    /// A request that cannot be: 400.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field that cannot be: 400.
    pub fn field(name: impl Into<String>, message: impl std::fmt::Display) -> Self {
        let name = name.into();
        let message = format!("`{name}`: {message}");
        Self { param: Some(name), ..Self::bad(message) }
    }

    /// Not now: try again after so many seconds.
    pub fn later(status: StatusCode, seconds: u64, message: impl Into<String>) -> Self {
        Self { retry_after: Some(seconds), ..Self::new(status, message) }
    }

    /// With a code that programs know.
    pub fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// Its body as OpenAI's clients read it.
    pub fn body(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }})
    }

    /// As a response to who asked for `path`.
    pub fn response(self, path: &str) -> Response {
        let body = match path.starts_with("/api/") {
            true => json!({"error": self.message}),
            false => self.body(),
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<PromptError> for ApiError {
    fn from(error: PromptError) -> Self {
        Self::field("messages", error)
    }
}

impl From<Trouble> for ApiError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Request(message) => Self::bad(message),
            Trouble::Waited => Self::later(
                StatusCode::SERVICE_UNAVAILABLE,
                10,
                "no place became free in time; try again later",
            ),
            Trouble::Stuck => Self::later(
                StatusCode::SERVICE_UNAVAILABLE,
                30,
                "the model's device does not answer; try again later",
            ),
            Trouble::Engine(message) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message),
        }
    }
}
