//! Calls of tools as LFM2 writes them: a list as in Python, `[name(key="value", other=3)]`.
//!
//! The templates of its first models take the calls of an assistant from its content only, where clients
//! of OpenAI's API keep them in `tool_calls`.

use serde_json::{Map, Value};

/// What begins and what ends calls.
pub const CALL_MARKS: [&str; 2] = ["<|tool_call_start|>", "<|tool_call_end|>"];

/// What texts ask for calls as JSON with, in the words that LFM2's makers teach it; in small letters.
const AS_JSON: [&str; 3] = ["calls as json", "calls in json", "call as json"];

/// Whether a message is a system text that asks for calls as JSON, and not as Python writes them.
pub fn asks_for_json_calls(message: &Value) -> bool {
    let text = message["content"].as_str().unwrap_or_default().to_lowercase();
    message["role"] == "system" && AS_JSON.iter().any(|words| text.contains(words))
}

/// Writes calls in the form of OpenAI's messages, whose arguments are objects.
pub fn write_calls(calls: &[Value]) -> String {
    let calls = calls.iter().map(|call| {
        let function = &call["function"];
        let name = function["name"].as_str().unwrap_or_default();
        let none = Map::new();
        write(name, function["arguments"].as_object().unwrap_or(&none))
    });
    format!("[{}]", calls.collect::<Vec<_>>().join(", "))
}

fn write(name: &str, arguments: &Map<String, Value>) -> String {
    let is_plain = |name: &str| {
        let is_letter = |char: char| char.is_ascii_alphanumeric() || "_.-".contains(char);
        !name.is_empty() && name.len() <= 64 && name.chars().all(is_letter)
    };
    if !is_plain(name) || !arguments.keys().all(|key| is_plain(key)) {
        let (name, arguments) = (Value::from(name), Value::Object(arguments.clone()));
        return format!("{{\"name\": {name}, \"arguments\": {arguments}}}");
    }
    let one = |(key, value): (&String, &Value)| format!("{key}={}", python(value));
    format!("{name}({})", arguments.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// A value in Python's spelling, its texts in JSON's.
fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(_) | Value::String(_) => value.to_string(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(python).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let one = |(key, value): (&String, &Value)| {
                format!("{}: {}", Value::from(key.as_str()), python(value))
            };
            format!("{{{}}}", map.iter().map(one).collect::<Vec<_>>().join(", "))
        }
    }
}
