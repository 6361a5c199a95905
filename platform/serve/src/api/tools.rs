//! Tools that an answer may call, as clients describe them.

use rill_template::{CALL_MARKS, asks_for_json_calls};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::fields::Fields;
use crate::form::{Calls, Tool, Wanted};
use crate::job::Style;
use crate::server::Open;

use rill::sampler::{Bias, MOST_BIASES};

/// Most tools of a request.
const MOST: usize = 512;
/// Longest name of a tool, in bytes.
const NAME: usize = 128;

/// How a dialect writes a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// As a function within an object: `{"type": "function", "function": {"name": ...}}`.
    Nested,
    /// Without the inner object: `{"type": "function", "name": ...}`.
    Flat,
}

/// The tools of a request, and what is to be done with them.
#[derive(Debug, Clone, Default)]
pub struct Tools {
    /// For the chat template.
    shown: Vec<Value>,
    tools: Vec<Tool>,
    choice: Choice,
    several: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Choice {
    /// None is to be called.
    #[default]
    None,
    /// The model chooses.
    Auto,
    /// One has to be called.
    Forced,
}

/// Reads `tools`, `tool_choice` and `parallel_tool_calls`.
pub fn read(fields: &mut Fields, shape: Shape) -> Result<Tools, ApiError> {
    let list = fields.list("tools")?.unwrap_or_default();
    let choice = fields.value("tool_choice");
    let several = fields.flag("parallel_tool_calls")?.unwrap_or(true);
    if list.len() > MOST {
        return Err(fields.wrong("tools", format_args!("has more than {MOST} tools")));
    }
    let mut all = Tools { several, ..Tools::default() };
    for (number, tool) in list.into_iter().enumerate() {
        let tool = read_tool(&fields.name(&format!("tools[{number}]")), tool, shape)?;
        let (description, tool) = tool;
        if all.tools.iter().any(|other| other.name == tool.name) {
            let message = format_args!("has two tools of the name `{}`", tool.name);
            return Err(fields.wrong("tools", message));
        }
        let mut function = json!({"name": tool.name});
        if let Some(description) = description {
            function["description"] = description.into();
        }
        function["parameters"] = tool.parameters.clone();
        all.shown.push(json!({"type": "function", "function": function}));
        all.tools.push(tool);
    }
    let wrong = |message: &str| ApiError::field("tool_choice", message);
    let named = match &choice {
        None => None,
        Some(Value::String(word)) if ["none", "auto", "required"].contains(&&**word) => None,
        Some(Value::Object(choice)) if choice.get("type") == Some(&json!("function")) => {
            let function = match shape {
                Shape::Nested => choice.get("function").and_then(|function| function.get("name")),
                Shape::Flat => choice.get("name"),
            };
            Some(function.and_then(Value::as_str).ok_or_else(|| wrong("has no name"))?)
        }
        Some(_) => return Err(wrong("must be none, auto, required, or a function by its name")),
    };
    all.choice = match (&choice, named) {
        (Some(Value::String(word)), _) if word == "none" => Choice::None,
        (Some(Value::String(word)), _) if word == "required" => Choice::Forced,
        (_, Some(_)) => Choice::Forced,
        _ if all.tools.is_empty() => Choice::None,
        _ => Choice::Auto,
    };
    if all.tools.is_empty() && all.choice == Choice::Forced {
        return Err(wrong("there are no `tools`"));
    }
    if let Some(name) = named {
        all.tools.retain(|tool| tool.name == name);
        if all.tools.is_empty() {
            return Err(wrong("names none of the `tools`"));
        }
    }
    Ok(all)
}

/// A tool and its description.
fn read_tool(path: &str, tool: Value, shape: Shape) -> Result<(Option<String>, Tool), ApiError> {
    let Value::Object(map) = tool else {
        return Err(ApiError::field(path, "must be an object"));
    };
    let mut fields = Fields::of(map, format!("{path}."));
    if fields.text("type")?.is_some_and(|kind| kind != "function") {
        let error = fields.wrong("type", "this server knows tools of the type `function` only");
        return Err(error.code("unsupported_value"));
    }
    if shape == Shape::Nested {
        let missing = fields.wrong("function", "is missing");
        fields = fields.object("function")?.ok_or(missing)?;
    }
    let name = fields.text("name")?.ok_or_else(|| fields.wrong("name", "is missing"))?;
    let is_sign = |char: char| char.is_ascii_alphanumeric() || "_-.:/".contains(char);
    if name.is_empty() || name.len() > NAME || !name.chars().all(is_sign) {
        let message = format_args!("must have 1 to {NAME} letters, digits and _-.:/");
        return Err(fields.wrong("name", message));
    }
    let description = fields.text("description")?.filter(|text| !text.is_empty());
    let path = fields.name("parameters");
    let parameters = match fields.value("parameters") {
        None => json!({"type": "object", "properties": {}}),
        Some(Value::Object(schema)) if schema.is_empty() => {
            json!({"type": "object", "properties": {}})
        }
        Some(schema @ Value::Object(_)) => schema,
        Some(_) => return Err(ApiError::field(path, "must be a JSON schema")),
    };
    if parameters.get("type").is_some_and(|kind| *kind != json!("object")) {
        let message = "must be `object`: arguments have names";
        return Err(ApiError::field(format!("{path}.type"), message));
    }
    Ok((description, Tool { name, parameters, path }))
}

impl Tools {
    /// What the chat template is given.
    pub fn shown(&self) -> Option<Vec<Value>> {
        (!self.shown.is_empty()).then(|| self.shown.clone())
    }

    /// Makes an answer to `messages` call them; `other` is the form that it must have where it calls none,
    /// which `field` asks for. Returns the form that it must have now.
    pub fn prepare(
        self,
        open: &Open,
        messages: &[Value],
        field: &str,
        other: Option<Wanted>,
        style: &mut Style,
    ) -> Result<Option<Wanted>, ApiError> {
        if self.tools.is_empty() {
            return Ok(other);
        }
        let marks = match open.facts.marks {
            Some(marks) if open.facts.shows_tools() => marks,
            _ if self.choice == Choice::None => return Ok(other),
            Some(_) => {
                let message = "this model's chat template shows it no tools";
                return Err(ApiError::field("tools", message).code("unsupported_value"));
            }
            None => {
                let [begin, end] = CALL_MARKS;
                let message = format!(
                    "this model calls no tools: its vocabulary has no control tokens {begin} and {end}"
                );
                return Err(ApiError::field("tools", message).code("unsupported_value"));
            }
        };
        if self.choice == Choice::None {
            style.biases.retain(|bias| bias.id != marks.begin);
            if style.biases.len() >= MOST_BIASES {
                let message = format!(
                    "has {MOST_BIASES} tokens, and `tool_choice` takes the place of one: leave one out"
                );
                return Err(ApiError::field("logit_bias", message));
            }
            style.biases.push(Bias { id: marks.begin, bias: -100.0 });
            return Ok(other);
        }
        let forced = self.choice == Choice::Forced;
        let other = match other {
            _ if forced => None,
            None => None,
            Some(Wanted::Schema(schema)) => Some((field.to_owned(), schema)),
            Some(_) => return Err(ApiError::field(field, "cannot be there beside `tools`")),
        };
        style.calls = Some(marks);
        let as_objects = messages.iter().any(asks_for_json_calls);
        let Self { tools, several, .. } = self;
        Ok(Some(Wanted::Calls(Calls { tools, forced, several, as_objects, other })))
    }
}
