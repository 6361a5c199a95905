//! `POST /v1/chat/completions`

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use rill::thinking::Part;
use serde_json::{Map, Value, json};

use super::shape::{DECORATION, DONE, Head, event, logprob, reason, text, usage};
use crate::api::ask::{self, Whole};
use crate::api::stream::{Writer, respond};
use crate::api::{Asked, Server, messages, sampling};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::form::Wanted;
use crate::job::{Account, Event, Style, Token};
use crate::server::{Open, Shared};

/// Answers a conversation.
pub async fn chat(State(shared): Server, request: Request) -> Response {
    match answer(&shared, request).await {
        Ok(response) => response,
        Err(error) => error.response("/v1"),
    }
}

/// What a request asks for besides its conversation.
struct Order {
    style: Style,
    count: usize,
    streams: bool,
    /// Whether a stream ends with what it took.
    counts: bool,
}

async fn answer(shared: &Arc<Shared>, request: Request) -> Result<Response, ApiError> {
    let Asked { mut fields, open, guest, room } = Asked::read(shared, request).await?;
    let list = fields.list("messages")?;
    let list = list.ok_or_else(|| ApiError::field("messages", "is missing"))?;
    let messages = messages::read(list)?;
    let mut order = order(shared, &open, &mut fields)?;
    let (field, wanted) = form(&mut fields)?;
    fields.end()?;
    ask::form(&open, &field, wanted, &mut order.style).await?;
    let prompt = ask::conversation(&open, messages, None).await?;
    drop(room);
    let answers = ask::answer(shared, guest, vec![prompt], order.count, order.style)?;
    let object = if order.streams { "chat.completion.chunk" } else { "chat.completion" };
    let head = Head::new(shared, &open.facts, "chatcmpl", object);
    if order.streams {
        return Ok(respond(answers, Chunks::new(head, order.count, order.counts)));
    }
    let whole = answers.whole().await?;
    let choices = whole.iter().enumerate().map(|(index, whole)| choice(index, whole)).collect();
    let mut body = head.with(choices);
    let accounts = whole.iter().filter_map(|whole| whole.account.as_ref());
    body["usage"] = usage(accounts, order.count);
    Ok(Json(body).into_response())
}

fn order(shared: &Shared, open: &Open, fields: &mut Fields) -> Result<Order, ApiError> {
    fields.ignore(&DECORATION);
    fields.only("modalities", &[json!(["text"])])?;
    fields.only("tools", &[json!([])])?;
    fields.only("tool_choice", &[json!("none"), json!("auto")])?;
    let mut style = sampling::advised(shared, open);
    style.tells_thinking = true;
    sampling::read(fields, &mut style)?;
    sampling::read_biases(fields, open, &mut style)?;
    let names = ["max_tokens", "max_completion_tokens"];
    sampling::read_most(fields, &names, 1, shared, &mut style)?;
    if let Some(effort) = fields.text("reasoning_effort")? {
        style.thinking = sampling::effort(&effort).ok_or_else(|| {
            fields.wrong("reasoning_effort", "must be none, minimal, low, medium, high or xhigh")
        })?;
    }
    let best = fields.integer("top_logprobs", 0..=20)?;
    if fields.flag("logprobs")?.unwrap_or(false) {
        style.logprobs = Some(best.unwrap_or(0) as usize);
    } else if best.is_some_and(|best| best > 0) {
        return Err(fields.wrong("top_logprobs", "needs `logprobs` to be true"));
    }
    let count = fields.integer("n", 1..=shared.limits.choices as i64)?.unwrap_or(1) as usize;
    let streams = fields.flag("stream")?.unwrap_or(false);
    let mut counts = false;
    if let Some(mut options) = fields.object("stream_options")? {
        counts = options.flag("include_usage")?.unwrap_or(false);
        options.ignore(&["include_obfuscation"]);
        options.end()?;
    }
    Ok(Order { style, count, streams, counts })
}

/// The form that an answer must have, and the field that says so.
fn form(fields: &mut Fields) -> Result<(String, Option<Wanted>), ApiError> {
    if let Some(grammar) = fields.text("grammar")? {
        return Ok(("grammar".into(), Some(Wanted::Grammar(grammar))));
    }
    let Some(mut format) = fields.object("response_format")? else {
        return Ok((String::new(), None));
    };
    let kind = format.text("type")?;
    let wanted = match kind.as_deref() {
        Some("text") => None,
        Some("json_object") => Some(Wanted::object()),
        Some("json_schema") => {
            let missing = |name: &str| format.wrong(name, "is missing");
            let (object, schema) = (missing("json_schema"), missing("json_schema.schema"));
            let mut named = format.object("json_schema")?.ok_or(object)?;
            named.ignore(&["name", "description", "strict"]);
            let wanted = Wanted::Schema(named.value("schema").ok_or(schema)?);
            named.end()?;
            format.end()?;
            return Ok(("response_format.json_schema.schema".into(), Some(wanted)));
        }
        _ => return Err(format.wrong("type", "must be text, json_object or json_schema")),
    };
    format.end()?;
    Ok(("response_format".into(), wanted))
}

/// A whole answer.
fn choice(index: usize, whole: &Whole) -> Value {
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    message.insert("content".into(), whole.text.as_str().into());
    message.insert("refusal".into(), Value::Null);
    if !whole.thinking.is_empty() {
        message.insert("reasoning_content".into(), whole.thinking.trim_end().into());
    }
    let ending = whole.account.map(|account| reason(account.ending));
    json!({
        "index": index,
        "message": message,
        "logprobs": logprobs(&whole.tokens),
        "finish_reason": ending,
    })
}

fn logprobs(tokens: &[(Token, Vec<Token>)]) -> Value {
    if tokens.is_empty() {
        return Value::Null;
    }
    let one = |token: &Token| json!({"token": text(token), "logprob": logprob(token.logprob), "bytes": token.bytes});
    let content = tokens.iter().map(|(token, best)| {
        let mut said = one(token);
        said["top_logprobs"] = best.iter().map(one).collect();
        said
    });
    json!({"content": content.collect::<Vec<_>>(), "refusal": null})
}

/// A stream of pieces.
struct Chunks {
    head: Head,
    counts: bool,
    count: usize,
    accounts: Vec<Option<Account>>,
    failed: bool,
}

impl Chunks {
    fn new(head: Head, count: usize, counts: bool) -> Self {
        Self { head, counts, count, accounts: vec![None; count], failed: false }
    }

    fn chunk(&self, index: usize, delta: &Value, logprobs: &Value, reason: Option<&str>) -> String {
        let choice = json!({
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": reason,
        });
        let mut chunk = self.head.with(vec![choice]);
        if self.counts {
            chunk["usage"] = Value::Null;
        }
        event(&chunk)
    }
}

impl Writer for Chunks {
    const KIND: &'static str = "text/event-stream";
    const PING: &'static str = ": waiting\n\n";

    fn begin(&mut self) -> String {
        let delta = json!({"role": "assistant", "content": ""});
        (0..self.count).map(|index| self.chunk(index, &delta, &Value::Null, None)).collect()
    }

    fn event(&mut self, choice: usize, happened: Event) -> String {
        match happened {
            Event::Begun { .. } | Event::Decided(_) => String::new(),
            Event::Said { text, token } => {
                let (mut thinking, mut said) = (String::new(), String::new());
                for (part, piece) in text {
                    match part {
                        Part::Mark => {}
                        Part::Thinking => thinking.push_str(&piece),
                        Part::Answer => said.push_str(&piece),
                    }
                }
                if thinking.is_empty() && said.is_empty() && token.is_none() {
                    return String::new();
                }
                let mut delta = Map::new();
                if !thinking.is_empty() {
                    delta.insert("reasoning_content".into(), thinking.into());
                }
                if !said.is_empty() || delta.is_empty() {
                    delta.insert("content".into(), said.into());
                }
                let token: Vec<_> = token.into_iter().collect();
                self.chunk(choice, &delta.into(), &logprobs(&token), None)
            }
            Event::Ended(account) => {
                self.accounts[choice] = Some(account);
                self.chunk(choice, &json!({}), &Value::Null, Some(reason(account.ending)))
            }
            Event::Failed(trouble) => {
                self.failed = true;
                event(&ApiError::from(trouble).body())
            }
        }
    }

    fn end(&mut self) -> String {
        if !self.counts || self.failed {
            return DONE.into();
        }
        let mut last = self.head.with(Vec::new());
        last["usage"] = usage(self.accounts.iter().flatten(), self.count);
        event(&last) + DONE
    }
}
