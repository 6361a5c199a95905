//! `POST /api/chat` and `POST /api/generate`

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::api::ask::{self, Answers};
use crate::api::held::Given;
use crate::api::spoken::{Reader, Spoken};
use crate::api::stream::{Writer, respond};
use crate::api::tools::{self, Shape};
use crate::api::{Asked, Server, messages, sampling};
use crate::calls::{Call, Piece};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::form::Wanted;
use crate::job::{Account, Ending, Event, Style};
use crate::server::{Open, Shared, seconds};

/// Options that change nothing here: the model is loaded, and how it computes is the server's to say.
const DECORATION: [&str; 17] = [
    "num_ctx",
    "num_keep",
    "num_batch",
    "num_gpu",
    "num_thread",
    "main_gpu",
    "use_mmap",
    "use_mlock",
    "low_vram",
    "f16_kv",
    "numa",
    "vocab_only",
    "logits_all",
    "penalize_newline",
    "repeat_last_n",
    "draft_num_predict",
    "truncate",
];

/// The field that says how many tokens an answer may have.
const MOST: &str = "options.num_predict";

/// Answers a conversation.
pub async fn chat(State(shared): Server, request: Request) -> Response {
    match converse(&shared, request).await {
        Ok(response) => response,
        Err(error) => error.response("/api/"),
    }
}

/// Answers a question, or continues a text.
pub async fn generate(State(shared): Server, request: Request) -> Response {
    match continued(&shared, request).await {
        Ok(response) => response,
        Err(error) => error.response("/api/"),
    }
}

async fn converse(shared: &Arc<Shared>, request: Request) -> Result<Response, ApiError> {
    let Asked { mut fields, open, guest, room } = Asked::read(shared, request).await?;
    let list = fields.list("messages")?.unwrap_or_default();
    let unloads = unloads(&fields);
    let (mut style, streams) = order(shared, &open, &mut fields)?;
    let wanted = format(&mut fields)?;
    let tools = tools::read(&mut fields, Shape::Nested)?;
    fields.end()?;
    if list.is_empty() {
        return Ok(loaded(&open, Form::Chat, unloads));
    }
    if let Some(number) =
        list.iter().position(|said| said["images"].as_array().is_some_and(|i| !i.is_empty()))
    {
        return Err(ApiError::field(
            format!("messages[{number}].images"),
            "this model reads text only",
        ));
    }
    style.tells_thinking = true;
    let messages = messages::read(list)?;
    let shown = tools.shown();
    let wanted = tools.prepare(&open, &messages, "format", wanted, &mut style)?;
    ask::form(&open, "format", wanted, &mut style).await?;
    let prompt = ask::conversation(&open, "messages", messages, shown).await?;
    drop(room);
    let given = Given::new(streams, MOST);
    let answers = ask::answer(shared, &open, guest, vec![prompt], 1, style, given)?;
    answer(&open, answers, streams, Form::Chat).await
}

async fn continued(shared: &Arc<Shared>, request: Request) -> Result<Response, ApiError> {
    let Asked { mut fields, open, guest, room } = Asked::read(shared, request).await?;
    let text = fields.text("prompt")?.unwrap_or_default();
    let system = fields.text("system")?;
    let raw = fields.flag("raw")?.unwrap_or(false);
    let unloads = unloads(&fields);
    let (mut style, streams) = order(shared, &open, &mut fields)?;
    let wanted = format(&mut fields)?;
    fields.only("suffix", &[json!("")])?;
    fields.only("template", &[json!("")])?;
    fields.only("images", &[json!([])])?;
    fields.only("context", &[json!([])])?;
    fields.end()?;
    if text.is_empty() {
        return Ok(loaded(&open, Form::Generate, unloads));
    }
    ask::form(&open, "format", wanted, &mut style).await?;
    let prompt = if raw {
        ask::text(&open, "prompt", text).await?
    } else {
        style.tells_thinking = true;
        let system = system.filter(|text| !text.is_empty());
        let system = system.map(|text| json!({"role": "system", "content": text}));
        let user = json!({"role": "user", "content": text});
        ask::conversation(&open, "prompt", system.into_iter().chain([user]).collect(), None).await?
    };
    drop(room);
    let given = Given::new(streams, MOST);
    let answers = ask::answer(shared, &open, guest, vec![prompt], 1, style, given)?;
    answer(&open, answers, streams, Form::Generate).await
}

/// Reads what both have in common; whether the answer streams.
fn order(shared: &Shared, open: &Open, fields: &mut Fields) -> Result<(Style, bool), ApiError> {
    fields.ignore(&["model", "keep_alive"]);
    let mut style = sampling::advised(shared, open);
    style.thinking = match fields.value("think") {
        None | Some(Value::Bool(true)) => None,
        Some(Value::Bool(false)) => Some(0),
        Some(Value::String(effort)) => sampling::effort(&effort)
            .ok_or_else(|| fields.wrong("think", "must be true, false, low, medium or high"))?,
        Some(_) => return Err(fields.wrong("think", "must be true, false, low, medium or high")),
    };
    if let Some(mut options) = fields.object("options")? {
        options.ignore(&DECORATION);
        for off in ["mirostat", "mirostat_tau", "mirostat_eta", "tfs_z", "typical_p"] {
            // Their defaults do nothing without Mirostat, and some clients send them.
            let off_values = [0.0, 0.1, 1.0, 5.0].map(|value| json!(value));
            let whole = [0, 1, 5].map(|value| json!(value));
            options.only(off, &[&off_values[..], &whole].concat())?;
        }
        sampling::read_with_any_seed(&mut options, &mut style)?;
        sampling::read_most(&mut options, ["num_predict"], -2, shared, &mut style)?;
        options.end()?;
    }
    Ok((style, fields.flag("stream")?.unwrap_or(true)))
}

/// The form that an answer must have.
fn format(fields: &mut Fields) -> Result<Option<Wanted>, ApiError> {
    match fields.value("format") {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) if text == "json" => Ok(Some(Wanted::object())),
        Some(schema @ Value::Object(_)) => Ok(Some(Wanted::Schema(schema))),
        Some(_) => Err(fields.wrong("format", "must be json, or a JSON schema")),
    }
}

/// Which of both forms an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Chat,
    Generate,
}

/// Whether a request is to unload the model, where it asks nothing.
fn unloads(fields: &Fields) -> bool {
    match fields.peek("keep_alive") {
        Some(Value::Number(seconds)) => seconds.as_f64() == Some(0.0),
        Some(Value::String(time)) => {
            let number = time.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
            number.parse() == Ok(0.0)
        }
        _ => false,
    }
}

/// What is said when nothing is asked: the model is there, and stays.
fn loaded(open: &Open, form: Form, unloads: bool) -> Response {
    let mut body = Lines::new(open, form).line("", "", &[]);
    body["done"] = true.into();
    body["done_reason"] = if unloads { "unload" } else { "load" }.into();
    Json(body).into_response()
}

async fn answer(
    open: &Open,
    answers: Answers,
    streams: bool,
    form: Form,
) -> Result<Response, ApiError> {
    let mut lines = Lines::new(open, form);
    if streams {
        return Ok(respond(answers, lines));
    }
    let (mut whole, held) = answers.whole().await?;
    let whole = whole.pop().unwrap_or_default();
    let mut body = lines.line(whole.thinking.trim_end(), &whole.text, &whole.calls);
    if let Some(account) = &whole.account {
        lines.finish(&mut body, account);
    }
    Ok(held.respond(&body))
}

/// A stream of lines.
struct Lines {
    name: String,
    form: Form,
    reader: Reader,
    /// Calls so far; the last may still come.
    calls: Vec<Call>,
    /// Whether a whole call could not be written.
    is_cut: bool,
}

impl Lines {
    fn new(open: &Open, form: Form) -> Self {
        let name = open.facts.name.clone();
        Self { name, form, reader: Reader::default(), calls: Vec::new(), is_cut: false }
    }

    /// A line. Of calls it has those that are whole: their arguments are an object here, which has no
    /// number that is larger than any of a machine, and goes no deeper than a client follows.
    fn line(&mut self, thinking: &str, text: &str, calls: &[Call]) -> Value {
        let mut line = Map::new();
        line.insert("model".into(), self.name.as_str().into());
        line.insert("created_at".into(), date(seconds()).into());
        let mut said = Map::new();
        let content = match self.form {
            Form::Chat => {
                said.insert("role".into(), "assistant".into());
                "content"
            }
            Form::Generate => "response",
        };
        said.insert(content.into(), text.into());
        if !thinking.is_empty() {
            said.insert("thinking".into(), thinking.into());
        }
        let is_cut = &mut self.is_cut;
        let call = |call: &Call| {
            let arguments = serde_json::from_str::<Value>(&call.arguments);
            *is_cut |= arguments.is_err();
            Some(json!({"function": {"name": call.name, "arguments": arguments.ok()?}}))
        };
        let calls: Vec<_> = calls.iter().filter(|call| call.whole).filter_map(call).collect();
        if !calls.is_empty() {
            said.insert("tool_calls".into(), calls.into());
        }
        match self.form {
            Form::Chat => drop(line.insert("message".into(), said.into())),
            Form::Generate => line.extend(said),
        }
        line.insert("done".into(), false.into());
        line.into()
    }

    /// Says how an answer ended, and what it took: times in nanoseconds.
    fn finish(&self, line: &mut Value, account: &Account) {
        let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let total = account.queued + account.prompt_time + account.answer_time;
        line["done"] = true.into();
        line["done_reason"] = match self.reader.ending(account.ending) {
            Ending::Stop if self.is_cut => "length".into(),
            Ending::Stop | Ending::StopText => "stop".into(),
            Ending::Length => "length".into(),
        };
        line["total_duration"] = nanos(total).into();
        line["load_duration"] = nanos(account.queued).into();
        line["prompt_eval_count"] = account.prompt.into();
        line["prompt_eval_duration"] = nanos(account.prompt_time).into();
        line["eval_count"] = account.tokens.into();
        line["eval_duration"] = nanos(account.answer_time).into();
    }
}

impl Writer for Lines {
    const KIND: &'static str = "application/x-ndjson";
    // Every line must be an object with something in it.
    const PING: &'static str = "";

    fn event(&mut self, _: usize, happened: Event) -> String {
        let line = match happened {
            Event::Begun { .. } | Event::Decided(_) => return String::new(),
            Event::Said { text, .. } => {
                let (mut thinking, mut said, mut ended) =
                    (String::new(), String::new(), Vec::new());
                let Self { reader, calls, .. } = self;
                reader.read(text, |spoken| match spoken {
                    Spoken::Thinking(piece) => thinking.push_str(&piece),
                    Spoken::Text(piece) => said.push_str(&piece),
                    Spoken::Call(Piece::End) => {
                        Call::collect(calls, Piece::End);
                        ended.append(calls);
                    }
                    Spoken::Call(piece) => Call::collect(calls, piece),
                });
                if thinking.is_empty() && said.is_empty() && ended.is_empty() {
                    return String::new();
                }
                self.line(&thinking, &said, &ended)
            }
            Event::Ended(account) => {
                let mut line = self.line("", "", &[]);
                self.finish(&mut line, &account);
                line
            }
            Event::Failed(trouble) => json!({"error": ApiError::from(trouble).message}),
        };
        format!("{line}\n")
    }
}

/// A time in seconds since 1970 as RFC 3339 writes it. Days to dates: Howard Hinnant's `civil_from_days`.
pub fn date(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_call_that_cannot_be_written_makes_an_answer_one_that_was_cut() {
        let account = Account {
            ending: Ending::Stop,
            prompt: 1,
            cached: 0,
            tokens: 1,
            thought: 0,
            queued: Duration::ZERO,
            prompt_time: Duration::ZERO,
            answer_time: Duration::ZERO,
        };
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(200), "]".repeat(200));
        for (arguments, calls, reason) in
            [("{\"a\": 1}", 1, "stop"), ("{\"a\": 1e999}", 0, "length"), (&deep, 0, "length")]
        {
            let call = Call { name: "f".into(), arguments: arguments.into(), whole: true };
            let (name, reader) = ("a".into(), Reader::default());
            let mut lines =
                Lines { name, form: Form::Chat, reader, calls: Vec::new(), is_cut: false };
            let mut line = lines.line("", "", &[call]);
            lines.finish(&mut line, &account);
            let written = line["message"]["tool_calls"].as_array().map_or(0, Vec::len);
            assert_eq!((written, line["done_reason"].as_str()), (calls, Some(reason)), "{line}");
        }
    }

    #[test]
    fn dates_are_as_in_the_calendar() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(date(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(date(1_735_689_599), "2024-12-31T23:59:59Z");
    }
}
