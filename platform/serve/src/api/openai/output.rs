//! What a response has in it: items, and the events by which a stream tells of them.

use serde_json::{Map, Value, json};

use super::shape::{CallIds, token_logprobs};
use crate::api::spoken::{Reader, Spoken, Tokens};
use crate::api::stream::Writer;
use crate::calls::Piece;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::job::{Account, Ending, Event, Likely, Trouble};
use crate::model::Facts;
use crate::server::{Shared, seconds};

/// A response without what it says.
#[derive(Debug, Clone)]
pub struct Frame {
    body: Value,
    /// What the request says, as JSON: values take many times as many bytes.
    said: String,
    ids: CallIds,
}

impl Frame {
    /// Of the response to a request, which says again what the request says.
    pub fn new(shared: &Shared, facts: &Facts, fields: &Fields) -> Result<Self, ApiError> {
        let id = shared.id("resp").replace('-', "_");
        let body = json!({
            "id": id,
            "object": "response",
            "created_at": seconds(),
            "status": "in_progress",
            "background": false,
            "error": null,
            "incomplete_details": null,
            "model": facts.name,
            "output": [],
            "previous_response_id": null,
            "store": false,
            "usage": null,
        });
        let defaults = json!({
            "instructions": null,
            "max_output_tokens": null,
            "metadata": {},
            "parallel_tool_calls": true,
            "prompt_cache_key": null,
            "reasoning": {"effort": null, "summary": null},
            "safety_identifier": null,
            "temperature": null,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": null,
            "truncation": "disabled",
            "user": null,
        });
        let defaults = defaults.as_object().into_iter().flatten();
        let said: Vec<String> = defaults
            .map(|(name, or)| format!("\"{name}\":{}", fields.peek(name).unwrap_or(or)))
            .collect();
        let said = format!("{{{}}}", said.join(","));
        if said.len() > shared.limits.echo {
            let (len, most) = (said.len(), shared.limits.echo);
            let message = format!(
                "what the response says again of its request (instructions, tools, text, metadata) has \
                 {len} bytes, and at most {most} are taken"
            );
            return Err(ApiError::bad(message));
        }
        let of = id.trim_start_matches("resp_").to_owned();
        Ok(Self { body, said, ids: CallIds::new(of) })
    }

    /// Bytes of what it says again.
    pub fn said(&self) -> usize {
        self.said.len()
    }
}

/// An item under way.
#[derive(Debug, Clone)]
struct Item {
    kind: Kind,
    id: String,
    /// Of a call: what its output is told by, and the tool.
    call: [String; 2],
    /// Thinking, text or arguments.
    text: String,
    logprobs: Vec<Value>,
    status: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
    Call,
}

impl Item {
    /// As it stands in the output.
    fn value(&self) -> Value {
        match self.kind {
            Kind::Reasoning => json!({
                "id": self.id,
                "type": "reasoning",
                "summary": [],
                "content": self.parts(),
                "status": self.status,
            }),
            Kind::Message => json!({
                "id": self.id,
                "type": "message",
                "role": "assistant",
                "content": self.parts(),
                "status": self.status,
            }),
            Kind::Call => json!({
                "id": self.id,
                "type": "function_call",
                "call_id": self.call[0],
                "name": self.call[1],
                "arguments": self.text,
                "status": self.status,
            }),
        }
    }

    /// Its content: none before there is any.
    fn parts(&self) -> Vec<Value> {
        if self.text.is_empty() && self.status == "in_progress" {
            Vec::new()
        } else {
            vec![self.part()]
        }
    }

    fn part(&self) -> Value {
        match self.kind {
            Kind::Reasoning => json!({"type": "reasoning_text", "text": self.text}),
            _ => json!({"type": "output_text", "text": self.text, "annotations": [],
                        "logprobs": self.logprobs}),
        }
    }
}

/// A response as it comes, and the events that tell of it.
pub struct Events {
    frame: Frame,
    /// Whether anybody takes the events.
    streams: bool,
    reader: Reader,
    items: Vec<Item>,
    tokens: Tokens,
    /// Tokens of the text that is taken.
    likely: Vec<Likely>,
    /// Events so far.
    number: u64,
    /// Events that were not written yet.
    out: String,
}

impl Events {
    /// Of a response that has said nothing yet; without `streams` there are no events, and what it is
    /// in the end is all.
    pub fn new(frame: Frame, streams: bool) -> Self {
        let (reader, tokens) = <(Reader, Tokens)>::default();
        let (items, likely, out) = (Vec::new(), Vec::new(), String::new());
        Self { frame, streams, reader, items, tokens, likely, number: 0, out }
    }

    /// The response as it is.
    pub fn response(&self) -> Value {
        let mut body = self.frame.body.clone();
        // It was written here.
        let said: Map<String, Value> = serde_json::from_str(&self.frame.said).unwrap_or_default();
        if let Some(body) = body.as_object_mut() {
            body.extend(said);
        }
        body["output"] = self.items.iter().map(Item::value).collect();
        body
    }

    /// Takes what happened; an answer that failed is an error.
    pub fn take(&mut self, happened: Event) -> Result<(), Trouble> {
        match happened {
            Event::Begun { .. } | Event::Decided(_) => {}
            Event::Said { text, token, behind } => {
                self.likely = self.tokens.read(&text, token, behind);
                let mut all = Vec::new();
                self.reader.read(text, |spoken| all.push(spoken));
                all.into_iter().for_each(|spoken| self.say(spoken));
            }
            Event::Ended(account) => self.end_with(&account),
            Event::Failed(trouble) => return Err(trouble),
        }
        Ok(())
    }

    /// Adds an event.
    fn tell(&mut self, kind: &str, mut data: Value) {
        if !self.streams {
            return;
        }
        data["type"] = kind.into();
        data["sequence_number"] = self.number.into();
        self.number += 1;
        self.out.push_str(&format!("event: {kind}\ndata: {data}\n\n"));
    }

    fn say(&mut self, spoken: Spoken) {
        match spoken {
            Spoken::Thinking(text) => self.add(Kind::Reasoning, &text),
            Spoken::Text(text) => self.add(Kind::Message, &text),
            Spoken::Call(Piece::Begin(name)) => {
                let id = self.frame.ids.next();
                self.open(Kind::Call, [id, name]);
            }
            Spoken::Call(Piece::Arguments(text)) => self.add(Kind::Call, &text),
            Spoken::Call(Piece::End) => self.close("completed"),
        }
    }

    /// More of an item of a kind, which begins where another stands.
    fn add(&mut self, kind: Kind, text: &str) {
        if self.items.last().is_none_or(|item| item.kind != kind || item.status != "in_progress") {
            // Arguments come after the beginning of their call.
            self.open(kind, <[String; 2]>::default());
        }
        let index = self.items.len() - 1;
        let Some(item) = self.items.last_mut() else { return };
        item.text.push_str(text);
        let mut data = json!({"item_id": item.id, "output_index": index, "delta": text});
        let name = match kind {
            Kind::Call => "response.function_call_arguments.delta",
            Kind::Reasoning => "response.reasoning_text.delta",
            Kind::Message => {
                let logprobs = token_logprobs(&std::mem::take(&mut self.likely));
                item.logprobs.extend(logprobs.iter().cloned());
                data["logprobs"] = logprobs.into();
                "response.output_text.delta"
            }
        };
        if kind != Kind::Call {
            data["content_index"] = 0.into();
        }
        self.tell(name, data);
    }

    fn open(&mut self, kind: Kind, call: [String; 2]) {
        self.end_item("completed");
        let index = self.items.len();
        let sort = match kind {
            Kind::Reasoning => "rs",
            Kind::Message => "msg",
            Kind::Call => "fc",
        };
        let id = self.frame.body["id"].as_str().unwrap_or_default();
        let id = format!("{sort}_{}{index:x}", id.trim_start_matches("resp_"));
        let (text, logprobs, status) = (String::new(), Vec::new(), "in_progress");
        let item = Item { kind, id, call, text, logprobs, status };
        let (value, part, id) = (item.value(), item.part(), item.id.clone());
        self.items.push(item);
        self.tell("response.output_item.added", json!({"output_index": index, "item": value}));
        if kind != Kind::Call {
            let data =
                json!({"item_id": id, "output_index": index, "content_index": 0, "part": part});
            self.tell("response.content_part.added", data);
        }
    }

    /// Ends the item that is under way with what follows it: a call that was not at its end is cut.
    fn end_item(&mut self, status: &'static str) {
        let is_call = self.items.last().is_some_and(|item| item.kind == Kind::Call);
        self.close(if is_call { "incomplete" } else { status });
    }

    /// Ends the item that is under way.
    fn close(&mut self, status: &'static str) {
        let index = self.items.len().saturating_sub(1);
        let Some(item) = self.items.last_mut().filter(|item| item.status == "in_progress") else {
            return;
        };
        item.status = status;
        let item = item.clone();
        let of = |mut more: Value| {
            more["item_id"] = item.id.as_str().into();
            more["output_index"] = index.into();
            if item.kind != Kind::Call {
                more["content_index"] = 0.into();
            }
            more
        };
        match item.kind {
            Kind::Call => {
                let data = of(json!({"name": item.call[1], "arguments": item.text}));
                self.tell("response.function_call_arguments.done", data);
            }
            Kind::Reasoning => {
                self.tell("response.reasoning_text.done", of(json!({"text": item.text})));
            }
            Kind::Message => {
                let data = of(json!({"text": item.text, "logprobs": item.logprobs}));
                self.tell("response.output_text.done", data);
            }
        }
        if item.kind != Kind::Call {
            self.tell("response.content_part.done", of(json!({"part": item.part()})));
        }
        let data = json!({"output_index": index, "item": item.value()});
        self.tell("response.output_item.done", data);
    }

    fn end_with(&mut self, account: &Account) {
        if self.items.iter().all(|item| item.kind == Kind::Reasoning) {
            self.open(Kind::Message, <[String; 2]>::default());
        }
        let is_whole = self.reader.ending(account.ending) != Ending::Length;
        let status = if is_whole { "completed" } else { "incomplete" };
        self.end_item(status);
        let body = &mut self.frame.body;
        body["status"] = status.into();
        if !is_whole {
            body["incomplete_details"] = json!({"reason": "max_output_tokens"});
        }
        body["usage"] = json!({
            "input_tokens": account.prompt,
            "input_tokens_details": {"cached_tokens": account.cached},
            "output_tokens": account.tokens,
            "output_tokens_details": {"reasoning_tokens": account.thought},
            "total_tokens": account.prompt as u64 + account.tokens,
        });
        if self.streams {
            let response = self.response();
            self.tell(&format!("response.{status}"), json!({"response": response}));
        }
    }
}

impl Writer for Events {
    const KIND: &'static str = "text/event-stream";
    const PING: &'static str = ": waiting\n\n";

    fn begin(&mut self) -> String {
        let response = self.response();
        self.tell("response.created", json!({"response": response}));
        self.tell("response.in_progress", json!({"response": response}));
        std::mem::take(&mut self.out)
    }

    fn event(&mut self, _: usize, happened: Event) -> String {
        if let Err(trouble) = self.take(happened) {
            let error = ApiError::from(trouble);
            self.close("incomplete");
            self.frame.body["status"] = "failed".into();
            self.frame.body["error"] = json!({"code": "server_error", "message": error.message});
            let response = self.response();
            self.tell("response.failed", json!({"response": response}));
        }
        std::mem::take(&mut self.out)
    }
}
