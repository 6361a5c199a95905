//! Conversations as clients send them, made what a chat template takes.

use serde_json::{Map, Value, json};

use crate::error::ApiError;

/// Most messages of a conversation.
const MOST: usize = 4096;

/// The messages of a conversation: roles and texts, and the tools that were called.
pub fn read(messages: Vec<Value>) -> Result<Vec<Value>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::field("messages", "has no message"));
    }
    if messages.len() > MOST {
        return Err(ApiError::field("messages", format!("has more than {MOST} messages")));
    }
    let one = |(number, said)| message(&format!("messages[{number}]"), said);
    messages.into_iter().enumerate().map(one).collect()
}

/// The message that stands at `path`.
pub fn message(path: &str, message: Value) -> Result<Value, ApiError> {
    let Value::Object(mut fields) = message else {
        return Err(ApiError::field(path, "must be an object"));
    };
    fields.retain(|_, value| !value.is_null());
    let role = match fields.remove("role") {
        Some(Value::String(role)) => role,
        _ => return Err(ApiError::field(format!("{path}.role"), "must be a text")),
    };
    let role = match &*role {
        "developer" => "system",
        "system" | "user" | "assistant" | "tool" => &role,
        _ => {
            let message = "must be system, developer, user, assistant or tool";
            return Err(ApiError::field(format!("{path}.role"), message));
        }
    };
    let content = content(&format!("{path}.content"), fields.remove("content"))?;
    let mut said = Map::new();
    said.insert("role".into(), role.into());
    if role == "assistant" && fields.contains_key("tool_calls") {
        let calls = calls(&format!("{path}.tool_calls"), fields.remove("tool_calls"))?;
        if !calls.is_empty() {
            said.insert("content".into(), content.unwrap_or_default().into());
            said.insert("tool_calls".into(), calls.into());
            return Ok(said.into());
        }
    }
    let Some(content) = content else {
        return Err(ApiError::field(format!("{path}.content"), "is missing"));
    };
    said.insert("content".into(), content.into());
    if role == "tool" {
        let name = fields.remove("name").or_else(|| fields.remove("tool_name"));
        if let Some(name) = name.filter(Value::is_string) {
            said.insert("name".into(), name);
        }
        if let Some(id) = fields.remove("tool_call_id").filter(Value::is_string) {
            said.insert("tool_call_id".into(), id);
        }
    }
    Ok(said.into())
}

/// The text of a content: a text, or parts that are texts.
pub fn content(path: &str, content: Option<Value>) -> Result<Option<String>, ApiError> {
    let parts = match content {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text)),
        Some(Value::Array(parts)) => parts,
        Some(_) => return Err(ApiError::field(path, "must be a text or a list of parts")),
    };
    let mut text = String::new();
    for (number, part) in parts.iter().enumerate() {
        match (part["type"].as_str(), part["text"].as_str()) {
            (Some("text" | "input_text" | "output_text"), Some(piece)) => text.push_str(piece),
            (Some("text" | "input_text" | "output_text"), None) => {
                let name = format!("{path}[{number}].text");
                return Err(ApiError::field(name, "must be a text"));
            }
            _ => {
                let name = format!("{path}[{number}].type");
                let message = "this model reads text only: parts must be of the type `text`";
                return Err(ApiError::field(name, message).code("unsupported_value"));
            }
        }
    }
    Ok(Some(text))
}

/// The calls of an assistant, their arguments as values.
fn calls(path: &str, calls: Option<Value>) -> Result<Vec<Value>, ApiError> {
    let Some(Value::Array(calls)) = calls else {
        return Err(ApiError::field(path, "must be a list"));
    };
    let one = |(number, one): (usize, &Value)| call(&format!("{path}[{number}].function"), one);
    calls.iter().enumerate().map(one).collect()
}

/// A call whose function stands at `path`.
pub fn call(path: &str, call: &Value) -> Result<Value, ApiError> {
    let function = &call["function"];
    let Some(name) = function["name"].as_str() else {
        return Err(ApiError::field(format!("{path}.name"), "must be a text"));
    };
    let arguments = match &function["arguments"] {
        Value::String(text) if text.trim().is_empty() => json!({}),
        Value::String(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        Value::Null => json!({}),
        arguments => arguments.clone(),
    };
    if !arguments.is_object() {
        let message = "must be an object, or the JSON text of one";
        return Err(ApiError::field(format!("{path}.arguments"), message));
    }
    let function = json!({"name": name, "arguments": arguments});
    Ok(json!({"id": call["id"], "type": "function", "function": function}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(message: Value) -> Result<Value, ApiError> {
        read(vec![message]).map(|mut messages| messages.remove(0))
    }

    #[test]
    fn parts_are_one_text_and_decoration_goes() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let said = json!({"role": "user", "content": parts, "name": "Ann", "refusal": null});
        assert_eq!(one(said).unwrap(), json!({"role": "user", "content": "ab"}));
        let said = json!({"role": "developer", "content": "x"});
        assert_eq!(one(said).unwrap(), json!({"role": "system", "content": "x"}));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let image = json!([{"type": "image_url", "image_url": {"url": "http://x"}}]);
        let cases = [
            (json!(3), "messages[0]"),
            (json!({"content": "x"}), "messages[0].role"),
            (json!({"role": "king", "content": "x"}), "messages[0].role"),
            (json!({"role": "user"}), "messages[0].content"),
            (json!({"role": "user", "content": 3}), "messages[0].content"),
            (json!({"role": "user", "content": image}), "messages[0].content[0].type"),
            (
                json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "["}}]}),
                "messages[0].tool_calls[0].function.arguments",
            ),
        ];
        for (said, param) in cases {
            assert_eq!(one(said).unwrap_err().param.as_deref(), Some(param));
        }
        assert_eq!(read(Vec::new()).unwrap_err().param.as_deref(), Some("messages"));
    }

    #[test]
    fn calls_keep_their_arguments_as_values() {
        let call = json!({"id": "1", "type": "function",
                          "function": {"name": "f", "arguments": "{\"a\": [1, \"x\"]}"}});
        let said =
            one(json!({"role": "assistant", "content": null, "tool_calls": [call]})).unwrap();
        assert_eq!(said["tool_calls"][0]["function"]["arguments"]["a"], json!([1, "x"]));
        assert_eq!(said["content"], "");
    }
}
