//! `POST /v1/chat/completions`

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::shape::{CallIds, DECORATION, DONE, Head, event, reason, token_logprobs, usage};
use crate::api::ask::{self, Whole};
use crate::api::held::Given;
use crate::api::spoken::{Reader, Spoken, Tokens};
use crate::api::stream::{Writer, respond};
use crate::api::tools::{self, Shape};
use crate::api::{Asked, Server, messages, sampling};
use crate::calls::{Call, Piece};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::form::Wanted;
use crate::job::{Account, Event, Likely, Said, Style};
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
    given: Given,
    /// Whether a stream ends with what it took.
    counts: bool,
}

async fn answer(shared: &Arc<Shared>, request: Request) -> Result<Response, ApiError> {
    complete_chat(shared, Asked::read(shared, request).await?).await
}

/// The answers to a conversation, streamed or whole.
pub async fn complete_chat(shared: &Arc<Shared>, asked: Asked) -> Result<Response, ApiError> {
    let Asked { mut fields, open, guest, room } = asked;
    let list = fields.list("messages")?;
    let list = list.ok_or_else(|| ApiError::field("messages", "is missing"))?;
    let messages = messages::read(list)?;
    let mut order = order(shared, &open, &mut fields)?;
    let tools = tools::read(&mut fields, Shape::Nested)?;
    let (field, wanted) = form(&mut fields)?;
    fields.end()?;
    let shown = tools.shown();
    let wanted = tools.prepare(&open, &messages, &field, wanted, &mut order.style)?;
    ask::form(&open, &field, wanted, &mut order.style).await?;
    let prompt = ask::conversation(&open, "messages", messages, shown).await?;
    drop(room);
    let Order { style, count, given, counts } = order;
    let answers = ask::answer(shared, &open, guest, vec![prompt], count, style, given)?;
    let streams = given == Given::Streamed;
    let object = if streams { "chat.completion.chunk" } else { "chat.completion" };
    let head = Head::new(shared, &open.facts, "chatcmpl", object);
    if streams {
        return Ok(respond(answers, Chunks::new(head, count, counts)));
    }
    let (whole, held) = answers.whole().await?;
    let mut ids = head.call_ids();
    let choices =
        whole.iter().enumerate().map(|(index, whole)| choice(index, whole, &mut ids)).collect();
    let mut body = head.with(choices);
    let accounts = whole.iter().filter_map(|whole| whole.account.as_ref());
    body["usage"] = usage(accounts, count);
    Ok(held.respond(&body))
}

fn order(shared: &Shared, open: &Open, fields: &mut Fields) -> Result<Order, ApiError> {
    fields.ignore(&DECORATION);
    fields.only("modalities", &[json!(["text"])])?;
    let mut style = sampling::advised(shared, open);
    style.tells_thinking = true;
    sampling::read(fields, &mut style)?;
    sampling::read_biases(fields, open, &mut style)?;
    let names = ["max_tokens", "max_completion_tokens"];
    let most = sampling::read_most(fields, names, 1, shared, &mut style)?;
    if let Some(effort) = fields.text("reasoning_effort")? {
        style.thinking = sampling::read_effort(fields, "reasoning_effort", &effort)?;
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
    Ok(Order { style, count, given: Given::new(streams, most), counts })
}

/// The form that an answer must have, and the field that says so.
fn form(fields: &mut Fields) -> Result<(String, Option<Wanted>), ApiError> {
    let grammar = fields.text("grammar")?;
    let (field, wanted) = format(fields)?;
    match grammar {
        None => Ok((field, wanted)),
        Some(_) if wanted.is_some() => {
            let message = "cannot be there beside `grammar`: leave one of them out";
            Err(fields.wrong("response_format", message))
        }
        Some(grammar) => Ok(("grammar".into(), Some(Wanted::Grammar(grammar)))),
    }
}

/// The form that `response_format` says, and the field that says so.
fn format(fields: &mut Fields) -> Result<(String, Option<Wanted>), ApiError> {
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
fn choice(index: usize, whole: &Whole, ids: &mut CallIds) -> Value {
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    let says = !whole.text.is_empty() || whole.calls.is_empty();
    message.insert("content".into(), says.then_some(&*whole.text).into());
    message.insert("refusal".into(), Value::Null);
    if !whole.thinking.is_empty() {
        message.insert("reasoning_content".into(), whole.thinking.trim_end().into());
    }
    if !whole.calls.is_empty() {
        let call = |call: &Call| {
            let function = json!({"name": call.name, "arguments": call.arguments});
            json!({"id": ids.next(), "type": "function", "function": function})
        };
        message.insert("tool_calls".into(), whole.calls.iter().map(call).collect());
    }
    let ending = whole.account.map(|account| reason(account.ending, !whole.calls.is_empty()));
    json!({
        "index": index,
        "message": message,
        "logprobs": logprobs(&whole.tokens),
        "finish_reason": ending,
    })
}

fn logprobs(tokens: &[Likely]) -> Value {
    if tokens.is_empty() {
        return Value::Null;
    }
    json!({"content": token_logprobs(tokens), "refusal": null})
}

/// A stream of pieces.
struct Chunks {
    head: Head,
    counts: bool,
    ids: CallIds,
    choices: Vec<Choice>,
    failed: bool,
}

/// One of the answers in a stream.
#[derive(Default)]
struct Choice {
    reader: Reader,
    tokens: Tokens,
    /// Calls so far.
    calls: usize,
    account: Option<Account>,
}

impl Chunks {
    fn new(head: Head, count: usize, counts: bool) -> Self {
        let choices = (0..count).map(|_| Choice::default()).collect();
        Self { ids: head.call_ids(), head, counts, choices, failed: false }
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

    /// What a token says, in deltas.
    fn deltas(&mut self, choice: usize, said: Said) -> Vec<Value> {
        let (mut thinking, mut text, mut pieces) = (String::new(), String::new(), Vec::new());
        let Choice { reader, calls, .. } = &mut self.choices[choice];
        reader.read(said, |spoken| match spoken {
            Spoken::Thinking(piece) => thinking.push_str(&piece),
            Spoken::Text(piece) => text.push_str(&piece),
            Spoken::Call(piece) => pieces.push(piece),
        });
        let mut deltas = Vec::new();
        if !thinking.is_empty() {
            deltas.push(json!({"reasoning_content": thinking}));
        }
        if !text.is_empty() {
            deltas.push(json!({"content": text}));
        }
        for piece in pieces {
            let call = match piece {
                Piece::Begin(name) => {
                    *calls += 1;
                    json!({
                        "index": *calls - 1,
                        "id": self.ids.next(),
                        "type": "function",
                        "function": {"name": name, "arguments": ""},
                    })
                }
                Piece::Arguments(more) => {
                    json!({"index": calls.saturating_sub(1), "function": {"arguments": more}})
                }
                Piece::End => continue,
            };
            deltas.push(json!({"tool_calls": [call]}));
        }
        deltas
    }
}

impl Writer for Chunks {
    const KIND: &'static str = "text/event-stream";
    const PING: &'static str = ": waiting\n\n";

    fn begin(&mut self) -> String {
        let delta = json!({"role": "assistant", "content": ""});
        let all = 0..self.choices.len();
        all.map(|index| self.chunk(index, &delta, &Value::Null, None)).collect()
    }

    fn event(&mut self, choice: usize, happened: Event) -> String {
        match happened {
            Event::Begun { .. } | Event::Decided(_) => String::new(),
            Event::Said { text, token, behind } => {
                let tokens = self.choices[choice].tokens.read(&text, token, behind);
                let deltas = self.deltas(choice, text);
                let chunk = |delta: Value| {
                    let said = if delta.get("content").is_some() { &tokens[..] } else { &[] };
                    self.chunk(choice, &delta, &logprobs(said), None)
                };
                deltas.into_iter().map(chunk).collect()
            }
            Event::Ended(account) => {
                let Choice { reader, calls, account: place, .. } = &mut self.choices[choice];
                *place = Some(account);
                let reason = reason(reader.ending(account.ending), *calls > 0);
                self.chunk(choice, &json!({}), &Value::Null, Some(reason))
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
        let accounts = self.choices.iter().filter_map(|choice| choice.account.as_ref());
        last["usage"] = usage(accounts, self.choices.len());
        event(&last) + DONE
    }
}
