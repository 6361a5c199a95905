//! `POST /v1/responses`, of which nothing is kept: a request brings its whole conversation.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::output::{Events, Frame};
use super::shape::DECORATION;
use crate::api::held::Given;
use crate::api::stream::respond;
use crate::api::tools::{self, Shape};
use crate::api::{Asked, Server, ask, messages, sampling};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::form::Wanted;
use crate::job::Style;
use crate::server::{Open, Shared};

/// Most items of a conversation.
const MOST: usize = 4096;

/// What `include` asks for that a response has otherwise not.
const LOGPROBS: &str = "message.output_text.logprobs";
/// What it may ask for beside: parts of what never comes here, and thinking for who keeps nothing, which is
/// given as it is.
const ABSENT: [&str; 7] = [
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
];

/// Answers a conversation.
pub async fn respond_to(State(shared): Server, request: Request) -> Response {
    match answer(&shared, request).await {
        Ok(response) => response,
        Err(error) => error.response("/v1"),
    }
}

async fn answer(shared: &Arc<Shared>, request: Request) -> Result<Response, ApiError> {
    let Asked { mut fields, open, guest, room } = Asked::read(shared, request).await?;
    let frame = Frame::new(shared, &open.facts, &fields)?;
    let messages = conversation(&mut fields)?;
    let (mut style, streams) = order(shared, &open, &mut fields)?;
    let tools = tools::read(&mut fields, Shape::Flat)?;
    let (field, wanted) = form(&mut fields)?;
    fields.end()?;
    let shown = tools.shown();
    let wanted = tools.prepare(&open, &messages, &field, wanted, &mut style)?;
    ask::form(&open, &field, wanted, &mut style).await?;
    let prompt = ask::conversation(&open, "input", messages, shown).await?;
    drop(room);
    let given = Given::Response(frame.said());
    let mut answers = ask::answer(shared, &open, guest, vec![prompt], 1, style, given)?;
    let mut events = Events::new(frame, streams);
    if streams {
        return Ok(respond(answers, events));
    }
    while let Some((_, happened)) = answers.next().await {
        events.take(happened)?;
    }
    Ok(answers.held().respond(&events.response()))
}

fn order(shared: &Shared, open: &Open, fields: &mut Fields) -> Result<(Style, bool), ApiError> {
    if fields.value("previous_response_id").is_some() {
        let message = "this server keeps no responses: send the whole conversation as `input`";
        return Err(fields.wrong("previous_response_id", message).code("unsupported_value"));
    }
    fields.ignore(&DECORATION);
    fields.ignore(&["max_tool_calls"]);
    fields.only("background", &[json!(false)])?;
    fields.only("truncation", &[json!("disabled")])?;
    let mut style = sampling::advised(shared, open);
    style.tells_thinking = true;
    sampling::read(fields, &mut style)?;
    sampling::read_most(fields, ["max_output_tokens"], 1, shared, &mut style)?;
    if let Some(mut reasoning) = fields.object("reasoning")? {
        if let Some(effort) = reasoning.text("effort")? {
            style.thinking = sampling::read_effort(&reasoning, "effort", &effort)?;
        }
        // Thinking is given as it is.
        reasoning.ignore(&["summary", "generate_summary"]);
        reasoning.end()?;
    }
    let include = fields.texts("include")?.unwrap_or_default();
    let known = |name: &String| name == LOGPROBS || ABSENT.contains(&&**name);
    if let Some(name) = include.iter().find(|name| !known(name)) {
        let message = format_args!("this server does not know `{}`", name.escape_debug());
        return Err(fields.wrong("include", message).code("unsupported_value"));
    }
    let best = fields.integer("top_logprobs", 0..=20)?;
    if include.iter().any(|name| name == LOGPROBS) {
        style.logprobs = Some(best.unwrap_or(0) as usize);
    } else if best.is_some_and(|best| best > 0) {
        let message = format_args!("needs `{LOGPROBS}` in `include`");
        return Err(fields.wrong("top_logprobs", message));
    }
    if let Some(mut options) = fields.object("stream_options")? {
        options.ignore(&["include_obfuscation"]);
        options.end()?;
    }
    Ok((style, fields.flag("stream")?.unwrap_or(false)))
}

/// The form that an answer must have, and the field that says so.
fn form(fields: &mut Fields) -> Result<(String, Option<Wanted>), ApiError> {
    let none = Ok((String::new(), None));
    let Some(mut text) = fields.object("text")? else { return none };
    text.ignore(&["verbosity"]);
    let format = text.object("format")?;
    text.end()?;
    let Some(mut format) = format else { return none };
    let wanted = match format.text("type")?.as_deref() {
        Some("text") => None,
        Some("json_object") => Some(Wanted::object()),
        Some("json_schema") => {
            format.ignore(&["name", "description", "strict"]);
            let schema = format.value("schema");
            let schema = schema.ok_or_else(|| format.wrong("schema", "is missing"))?;
            let field = format.name("schema");
            format.end()?;
            return Ok((field, Some(Wanted::Schema(schema))));
        }
        _ => return Err(format.wrong("type", "must be text, json_object or json_schema")),
    };
    format.end()?;
    Ok(("text.format".into(), wanted))
}

/// The conversation of a request, as chat templates take it.
fn conversation(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    let mut said = Vec::new();
    if let Some(text) = fields.text("instructions")? {
        said.push(json!({"role": "system", "content": text}));
    }
    let items = match fields.value("input") {
        None => return Err(fields.wrong("input", "is missing")),
        Some(Value::String(text)) => {
            said.push(json!({"role": "user", "content": text}));
            return Ok(said);
        }
        Some(Value::Array(items)) => items,
        Some(_) => return Err(fields.wrong("input", "must be a text or a list of items")),
    };
    if items.is_empty() || items.len() > MOST {
        return Err(fields.wrong("input", format_args!("must have 1 to {MOST} items")));
    }
    for (number, item) in items.into_iter().enumerate() {
        let path = format!("input[{number}]");
        let Value::Object(item) = item else {
            return Err(ApiError::field(path, "must be an object"));
        };
        add(&path, item, &mut said)?;
    }
    Ok(said)
}

/// Adds an item to a conversation.
fn add(path: &str, mut item: Map<String, Value>, said: &mut Vec<Value>) -> Result<(), ApiError> {
    let kind = item.get("type").and_then(Value::as_str).unwrap_or("message");
    match kind {
        "message" => said.push(messages::message(path, Value::Object(item))?),
        "function_call" => {
            let call = json!({"id": item.remove("call_id"), "type": "function", "function": {
                "name": item.remove("name"),
                "arguments": item.remove("arguments"),
            }});
            let call = messages::call(path, &call)?;
            // An assistant says and calls in one message.
            match said.last_mut().filter(|last| last["role"] == "assistant") {
                Some(last) => match last["tool_calls"].as_array_mut() {
                    Some(calls) => calls.push(call),
                    None => last["tool_calls"] = json!([call]),
                },
                None => {
                    said.push(json!({"role": "assistant", "content": "", "tool_calls": [call]}));
                }
            }
        }
        "function_call_output" => {
            let output = item.remove("output");
            let content = messages::content(&format!("{path}.output"), output)?;
            let content =
                content.ok_or_else(|| ApiError::field(format!("{path}.output"), "is missing"))?;
            let id = item.remove("call_id").filter(Value::is_string).unwrap_or_default();
            said.push(json!({"role": "tool", "content": content, "tool_call_id": id}));
        }
        // What a model thought before is not shown to it again.
        "reasoning" => {}
        _ => {
            let message = "must be message, function_call, function_call_output or reasoning";
            let error = ApiError::field(format!("{path}.type"), message);
            return Err(error.code("unsupported_value"));
        }
    }
    Ok(())
}
