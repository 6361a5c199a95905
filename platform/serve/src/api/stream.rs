//! Answers as they come.

use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use tokio::time::timeout;

use super::ask::Answers;
use crate::job::Event;

/// After so much silence a stream says that it lives.
const PING: Duration = Duration::from_secs(15);

/// What a dialect writes of answers as they come.
pub trait Writer: Send + 'static {
    /// The type of what is written.
    const KIND: &'static str;
    /// What says nothing, for the connection's sake.
    const PING: &'static str;

    /// What comes first.
    fn begin(&mut self) -> String {
        String::new()
    }

    /// What is written of an event of an answer.
    fn event(&mut self, choice: usize, event: Event) -> String;

    /// What comes last.
    fn end(&mut self) -> String {
        String::new()
    }
}

/// Where a stream stands.
enum Stage {
    Begin,
    Within,
    Over,
}

/// A response that is written as the answers come.
pub fn respond<W: Writer>(answers: Answers, writer: W) -> Response {
    let step = async |(mut answers, mut writer, stage): (Answers, W, Stage)| {
        let (mut text, mut stage) = match stage {
            Stage::Begin => (writer.begin(), Stage::Within),
            Stage::Within => (String::new(), Stage::Within),
            Stage::Over => return None,
        };
        while text.is_empty() {
            match timeout(PING, answers.next()).await {
                Ok(Some((choice, event))) => text = writer.event(choice, event),
                Ok(None) => {
                    text = writer.end();
                    stage = Stage::Over;
                    if text.is_empty() {
                        return None;
                    }
                }
                Err(_) => text = W::PING.into(),
            }
        }
        Some((Ok::<_, std::convert::Infallible>(text), (answers, writer, stage)))
    };
    let body = Body::from_stream(unfold((answers, writer, Stage::Begin), step));
    ([(header::CONTENT_TYPE, W::KIND)], body).into_response()
}
