//! Reading a request's body within limits.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::weight::{VALUE, weigh};
use crate::error::ApiError;
use crate::room::{Filled, Part};
use crate::server::Shared;

/// What a body takes of the room for all bodies, and its values of that for all values.
#[derive(Debug)]
pub struct Taken {
    _bytes: Filled,
    _values: Part,
}

/// The bytes of a body: at most as many as the limits say (413), in the time that they say (408).
pub async fn read(
    shared: &Shared,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Vec<u8>, Taken), ApiError> {
    let most = shared.limits.body;
    let long = || {
        let message = format!("the body has more than {most} bytes, the most that is read");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding.as_bytes() != b"identity") {
        let message = "bodies are read as they are: send it without a content encoding";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let said = body.size_hint();
    if said.lower() > most as u64 {
        return Err(long());
    }
    let arrival = shared.limits.arrival;
    let reading = async {
        let (mut bytes, mut room) = (Vec::new(), Filled::default());
        let mut parts = body.into_data_stream();
        while let Some(part) = parts.next().await {
            let part = part.map_err(|_| ApiError::bad("the body broke off"))?;
            // What comes when there is no room waits for it; what was only announced takes none.
            if !shared.bodies.fill(&mut room, bytes.len() + part.len()).await {
                return Err(long());
            }
            bytes.extend_from_slice(&part);
        }
        let weight = weigh(&bytes);
        let many = || {
            let (values, list) = (shared.limits.values, shared.limits.values / VALUE);
            let message = format!(
                "the body's values take {weight} bytes, and at most {values} are taken, those of a list of \
                 {list} numbers: send fewer, and a long prompt as a text instead of token ids"
            );
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
        };
        if weight > shared.limits.values {
            return Err(many());
        }
        // Who has room for values waits for nothing more.
        let values = shared.values.wait(weight).await.ok_or_else(many)?;
        Ok((bytes, Taken { _bytes: room, _values: values }))
    };
    timeout(arrival, reading).await.unwrap_or_else(|_| Err(late(arrival)))
}

fn late(arrival: Duration) -> ApiError {
    let message = format!("the body did not arrive within {} s", arrival.as_secs());
    ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
}
