//! What is kept of answers until whoever asked has read them, and the room for it.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::config::Limits;
use crate::error::ApiError;
use crate::job::{EVENTS, Style};
use crate::room::{Part, Room};

/// Bytes of an answer whatever it says: its events, its biases and what ends it.
pub const ANSWER: usize = 16 << 10;
/// Bytes of a token's text as it is kept, and as JSON: those of its piece, and as many twice.
pub const TOKEN: usize = 3 * PIECE;
/// Bytes of a token in an answer that is kept, on average: one that has more ends.
const PIECE: usize = 16;
/// The least bytes that such an answer may have.
const LEAST: usize = 4 << 10;
/// Bytes of a log-probability with its token, as it is kept and as JSON.
const LOGPROB: usize = 240;
/// The same as values of JSON, with the room that they grow into.
pub const LOGPROB_VALUES: usize = 1280;
/// Most tokens whose text is held back, beside those that may become a stop text: what may be a mark of
/// thinking, or is no character yet.
const HELD: usize = 32;
/// Times that a stream of Responses says the text of an answer, from what it keeps.
const TIMES: usize = 6;

/// How an answer is given, which says what is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// In one piece; the field that says how many tokens it may have.
    Whole(&'static str),
    /// As it comes.
    Streamed,
    /// As the events of a response, which tell in the end what they told before, and the request's own
    /// words, of so many bytes, too.
    Response(usize),
}

impl Given {
    /// As it comes, or in one piece, of as many tokens as `field` says.
    pub fn new(streams: bool, field: &'static str) -> Self {
        if streams { Self::Streamed } else { Self::Whole(field) }
    }

    /// Bounds the style of `count` answers that have room for `left` tokens to what may be kept; returns how
    /// many bytes that are. Where more tokens are asked for than can have log-probabilities it is an error:
    /// nothing that was asked for is left out.
    pub fn bound(
        self,
        style: &mut Style,
        left: u64,
        count: usize,
        limits: &Limits,
    ) -> Result<usize, ApiError> {
        let each = style.logprobs.map_or(0, |best| 1 + best);
        let queued = EVENTS * each * LOGPROB;
        if self == Self::Streamed {
            let stop = style.stops.iter().map(String::len).max().unwrap_or(0);
            return Ok(count * (ANSWER + queued + (stop + HELD) * each * LOGPROB));
        }
        if each > 0 {
            let most = (limits.logprobs / (each * count) as u64).max(1);
            let asked = style.most.min(left);
            if style.most < limits.tokens && asked > most {
                return Err(self.too_likely(asked, each, count, most, limits));
            }
            style.most = style.most.min(most);
        }
        let tokens = usize::try_from(style.most.min(left)).unwrap_or(usize::MAX);
        let bytes = tokens.saturating_mul(PIECE).max(LEAST);
        style.most_bytes = bytes as u64;
        let (times, logprob, said) = match self {
            Self::Response(said) => (TIMES, LOGPROB_VALUES + TIMES * LOGPROB, said * TIMES),
            _ => (1, LOGPROB, 0),
        };
        let text = bytes.saturating_mul(TOKEN / PIECE * times);
        let probable = tokens.saturating_mul(each).saturating_mul(logprob);
        let answer = text.saturating_add(probable).saturating_add(ANSWER + queued);
        Ok(answer.saturating_mul(count).saturating_add(said))
    }

    /// So many tokens cannot all have log-probabilities, but `most` can.
    fn too_likely(
        self,
        asked: u64,
        each: usize,
        count: usize,
        most: u64,
        limits: &Limits,
    ) -> ApiError {
        let (field, or) = match self {
            Self::Whole(field) => (field, "log-probabilities, or stream the answer"),
            _ => ("max_output_tokens", "log-probabilities"),
        };
        let limit = limits.logprobs;
        let message = format!(
            "{asked} tokens of {count} answer(s), of each token {each} log-probabilities, are more than the \
             {limit} that one response has: ask for at most {most} tokens or for fewer {or}"
        );
        ApiError::field(field, message)
    }
}

/// A part of the room for answers, given back with the last of its copies.
#[derive(Debug, Clone)]
pub struct Held(#[expect(dead_code, reason = "it counts as long as it is there")] Arc<Part>);

impl Held {
    /// So many bytes, if they are left.
    pub fn take(room: &Room, bytes: usize) -> Option<Self> {
        room.take(bytes).map(|part| Self(Arc::new(part)))
    }

    /// A response of JSON, which has its room until it was sent.
    pub fn respond(self, body: &Value) -> Response {
        let sent = Bytes::from_owner(Sent { text: body.to_string(), _room: self });
        ([(header::CONTENT_TYPE, "application/json")], Body::from(sent)).into_response()
    }
}

/// What is sent, with its room.
struct Sent {
    text: String,
    _room: Held,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use rill::image::Sampling;

    use super::*;

    fn style(most: u64, logprobs: Option<usize>) -> Style {
        Style { logprobs, ..Style::new(Sampling::default().into(), 0, most) }
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_is_not_is_free() {
        let mut whole = style(u64::MAX, None);
        let limits = Limits::default();
        let given = Given::Whole("max_tokens");
        let bytes = given.bound(&mut whole, 1000, 2, &limits).unwrap();
        assert_eq!((whole.most, whole.most_bytes), (u64::MAX, 16_000));
        assert_eq!(bytes, 2 * (1000 * TOKEN + ANSWER));
        // A stream keeps nothing of its text.
        let mut streamed = style(u64::MAX, None);
        assert_eq!(Given::Streamed.bound(&mut streamed, 1000, 2, &limits).unwrap(), 2 * ANSWER);
        assert_eq!(streamed.most_bytes, u64::MAX);
        // Log-probabilities are for all answers of a request together, and at least one token has them.
        let mut likely = style(u64::MAX, Some(20));
        given.bound(&mut likely, 1000, 4, &limits).unwrap();
        assert_eq!(likely.most, 2048 / (21 * 4));
        let mut few = style(u64::MAX, Some(20));
        given.bound(&mut few, 1000, 4, &Limits { logprobs: 10, ..limits }).unwrap();
        assert_eq!(few.most, 1);
    }

    #[test]
    fn tokens_that_were_asked_for_are_not_left_out() {
        let (limits, given) = (Limits::default(), Given::Whole("n_predict"));
        let bound = |given: Given, most, left| {
            let mut style = style(most, Some(20));
            given.bound(&mut style, left, 1, &limits).map(|_| style.most)
        };
        assert_eq!(bound(given, 97, 1000), Ok(97));
        let error = bound(given, 98, 1000).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("n_predict"));
        assert!(error.message.contains("at most 97 tokens"), "{error:?}");
        // There is no room for so many, or they are not kept.
        assert_eq!(bound(given, 500, 97), Ok(97));
        assert_eq!(bound(Given::Streamed, 500, 1000), Ok(500));
        let error = bound(Given::Response(0), 500, 1000).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("max_output_tokens"));
    }
}
