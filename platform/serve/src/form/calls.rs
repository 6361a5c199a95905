//! The grammar of calls: of each tool's name and the schema of its arguments.
//!
//! Between its two control tokens it is a list as LFM2 writes it, `[name(key='value'), ...]`: arguments
//! in the order of their schema, values as JSON, and texts, truths and nothing also as Python spells them.
//! Where the system text asks for it, and for a tool that Python has no call for, a call is an object
//! `{"name": ..., "arguments": ...}`.

use std::fmt::Write;

use rill::tokenizer::Tokenizer;
use rill_template::CALL_MARKS;
use serde_json::{Map, Value, json};

use super::strict;

/// The control tokens around calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// What begins calls.
    pub begin: u32,
    /// What ends them.
    pub end: u32,
}

impl Marks {
    /// Those of a vocabulary that has them.
    pub fn of(tokenizer: &Tokenizer<'_>) -> Option<Self> {
        let [begin, end] = CALL_MARKS.map(|name| tokenizer.token_id(name.as_bytes()));
        Some(Self { begin: begin?, end: end? })
    }
}

/// A tool that can be called.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name: letters, digits and a few signs.
    pub name: String,
    /// The schema of its arguments.
    pub parameters: Value,
    /// The field of the request that has the schema.
    pub path: String,
}

/// Calls that an answer may have, or must.
#[derive(Debug, Clone, PartialEq)]
pub struct Calls {
    /// What can be called.
    pub tools: Vec<Tool>,
    /// Whether the answer is calls and nothing else.
    pub forced: bool,
    /// Whether there can be more than one.
    pub several: bool,
    /// Whether each is an object.
    pub as_objects: bool,
    /// The schema of an answer that is no call, where it must have one, and the field that has it.
    pub other: Option<(String, Value)>,
}

/// Most calls of one list: a model may come to no end.
const MOST: usize = 64;
/// The longest text of Python that is counted, in characters: a longer one is counted as JSON.
const COUNTED: u64 = 1000;

/// The grammar of calls, in llguidance's dialect of Lark.
pub fn grammar(calls: &Calls) -> String {
    let mut text = String::new();
    let [begin, end] = CALL_MARKS;
    let other = if calls.other.is_some() { " | other" } else { "" };
    rule(&mut text, "start", &format!("calls{other}"));
    if let Some((_, schema)) = &calls.other {
        rule(&mut text, "other", &format!("%json {}", strict(schema.clone(), false)));
    }
    let more =
        if calls.several { format!(" (\", \" call){{0,{}}}", MOST - 1) } else { String::new() };
    rule(&mut text, "calls", &format!("{begin} \"[\" call{more} \"]\" {end}"));
    let tools = 0..calls.tools.len();
    rule(&mut text, "call", &tools.map(|tool| format!("t{tool}")).collect::<Vec<_>>().join(" | "));
    for (number, tool) in calls.tools.iter().enumerate() {
        let name = format!("t{number}");
        match arguments(tool) {
            Some(arguments) if !calls.as_objects => as_python(&mut text, &name, tool, &arguments),
            _ => as_object(&mut text, &name, tool),
        }
    }
    text
}

fn rule(text: &mut String, name: &str, body: &str) {
    // Writing to a text does not fail.
    let _ = writeln!(text, "{name}: {body}");
}

/// A text in the grammar.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

fn as_object(text: &mut String, name: &str, tool: &Tool) {
    let head = format!("{{\"name\": {}, \"arguments\": ", literal(&tool.name));
    rule(text, name, &format!("{} {name}_a \"}}\"", literal(&head)));
    let mut schema = strict(tool.parameters.clone(), true);
    if let Value::Object(fields) = &mut schema {
        // Arguments are an object, whatever the schema leaves open.
        fields.entry("type").or_insert_with(|| "object".into());
        if is_listed(fields) {
            // What a schema leaves open and does not name is nothing that a tool expects.
            fields.entry("additionalProperties").or_insert_with(|| false.into());
        }
    }
    rule(text, &format!("{name}_a"), &format!("%json {schema}"));
}

/// An argument of a tool that Python has a call for.
struct Argument {
    name: String,
    schema: Value,
    is_required: bool,
}

fn as_python(text: &mut String, name: &str, tool: &Tool, arguments: &[Argument]) {
    let head = literal(&format!("{}(", tool.name));
    rule(text, name, &format!("{head} {name}_h0 \")\""));
    for (at, argument) in arguments.iter().enumerate() {
        // The rest of the arguments where this one is the first that is given, or none is yet.
        let rest: String = arguments[at + 1..]
            .iter()
            .zip(at + 1..)
            .map(|(argument, at)| match argument.is_required {
                true => format!(" \", \" {name}_k{at}"),
                false => format!(" (\", \" {name}_k{at})?"),
            })
            .collect();
        let skip = match argument.is_required {
            true => String::new(),
            false => format!(" | {name}_h{}", at + 1),
        };
        rule(text, &format!("{name}_h{at}"), &format!("{name}_k{at}{rest}{skip}"));
        let key = literal(&format!("{}=", argument.name));
        rule(text, &format!("{name}_k{at}"), &format!("{key} {name}_v{at}"));
        let mut spellings = python(&argument.schema);
        spellings.insert(0, format!("{name}_j{at}"));
        rule(text, &format!("{name}_v{at}"), &spellings.join(" | "));
        let schema = strict(argument.schema.clone(), true);
        rule(text, &format!("{name}_j{at}"), &format!("%json {schema}"));
    }
    rule(text, &format!("{name}_h{}", arguments.len()), "\"\"");
}

/// What the arguments of a tool may refer to.
const SHARED: [&str; 3] = ["$defs", "definitions", "$schema"];

/// Bytes of all schemas that a grammar has of a tool: each argument that refers to definitions has them
/// all.
pub fn bytes(tool: &Tool) -> usize {
    let len = |schema: &Value| schema.to_string().len();
    let shared = SHARED.iter().filter_map(|name| tool.parameters.get(name)).map(len).sum::<usize>();
    let properties = tool.parameters.get("properties").and_then(Value::as_object);
    let times = properties.map_or(0, |all| all.values().filter(|own| refers(own)).count());
    len(&tool.parameters).saturating_add(shared.saturating_mul(times))
}

/// Whether there is any reference in a schema.
fn refers(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => fields.contains_key("$ref") || fields.values().any(refers),
        Value::Array(items) => items.iter().any(refers),
        _ => false,
    }
}

/// The arguments of a tool, where Python has a call for it.
fn arguments(tool: &Tool) -> Option<Vec<Argument>> {
    let schema = tool.parameters.as_object()?;
    let none = Map::new();
    let properties = match schema.get("properties") {
        None => &none,
        Some(properties) => properties.as_object()?,
    };
    let plain = |name: &str| {
        !name.is_empty() && name.chars().all(|char| char.is_ascii_alphanumeric() || char == '_')
    };
    let is_open = schema.get("additionalProperties").is_some_and(|more| *more != json!(false));
    let fits = plain(&tool.name.replace(['.', '-', ':', '/'], "_"))
        && is_listed(schema)
        && !(is_open && properties.is_empty())
        && properties.keys().all(|name| plain(name))
        && properties.values().all(refers_to_definitions);
    if !fits {
        return None;
    }
    let required = schema.get("required").and_then(Value::as_array);
    let argument = |(name, own): (&String, &Value)| {
        let shared = if refers(own) { &SHARED[..] } else { &[] };
        let mut own = own.clone();
        if let Value::Object(fields) = &mut own {
            for name in shared {
                if let Some(value) = schema.get(*name) {
                    fields.insert((*name).into(), value.clone());
                }
            }
        }
        let is_required = required.is_some_and(|names| names.iter().any(|other| other == name));
        Argument { name: name.clone(), schema: own, is_required }
    };
    Some(properties.iter().map(argument).collect())
}

/// Whether a schema of an object says no more than names, their schemas, and which are required.
fn is_listed(schema: &Map<String, Value>) -> bool {
    const KNOWN: [&str; 13] = [
        "type",
        "properties",
        "required",
        "additionalProperties",
        "$defs",
        "definitions",
        "$schema",
        "$id",
        "$comment",
        "title",
        "description",
        "strict",
        "x-guidance",
    ];
    let named = |name: &Value| match name.as_str() {
        Some(name) => schema.get("properties").is_some_and(|all| all.get(name).is_some()),
        None => false,
    };
    let required = schema.get("required").map(Value::as_array);
    schema.keys().all(|name| KNOWN.contains(&name.as_str()))
        && schema.get("type").is_none_or(|kind| *kind == json!("object"))
        && required.is_none_or(|names| names.is_some_and(|names| names.iter().all(named)))
}

/// Whether every reference in a schema is one to a definition at its root.
pub(super) fn refers_to_definitions(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => fields.iter().all(|(name, value)| match (&**name, value) {
            ("$ref", Value::String(to)) => {
                to.starts_with("#/$defs/") || to.starts_with("#/definitions/")
            }
            ("$defs" | "definitions" | "$id" | "$anchor" | "$dynamicRef", _) => false,
            (_, value) => refers_to_definitions(value),
        }),
        Value::Array(items) => items.iter().all(refers_to_definitions),
        _ => true,
    }
}

/// What Python alone spells so, of the values of a schema that says little.
fn python(schema: &Value) -> Vec<String> {
    const KNOWN: [&str; 11] = [
        "type",
        "enum",
        "anyOf",
        "minLength",
        "maxLength",
        "title",
        "description",
        "default",
        "examples",
        "$defs",
        "definitions",
    ];
    let Some(fields) = schema.as_object() else { return Vec::new() };
    let is_known = fields.keys().all(|name| KNOWN.contains(&name.as_str()));
    if !is_known {
        return Vec::new();
    }
    if let Some(Value::Array(branches)) = fields.get("anyOf") {
        let others = ["type", "enum", "minLength", "maxLength"];
        let is_alone = !others.iter().any(|name| fields.contains_key(*name));
        let all = branches.iter().filter(|_| is_alone).flat_map(python);
        return all.collect();
    }
    let kinds: Option<Vec<&str>> = match fields.get("type") {
        None => None,
        Some(Value::String(kind)) => Some(vec![kind]),
        Some(Value::Array(kinds)) => Some(kinds.iter().filter_map(Value::as_str).collect()),
        Some(_) => return Vec::new(),
    };
    let may_be = |kind: &str| kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind));
    let limit = |name: &str| fields.get(name).map(|limit| limit.as_u64().filter(|l| *l <= COUNTED));
    if let Some(values) = fields.get("enum") {
        if fields.contains_key("minLength") || fields.contains_key("maxLength") {
            return Vec::new();
        }
        let quoted = |text: &str| {
            let is_plain = !text.contains(['\'', '\\']) && !text.contains(char::is_control);
            is_plain.then(|| literal(&format!("'{text}'")))
        };
        let one = |value: &Value| match value {
            Value::String(text) if may_be("string") => quoted(text),
            Value::Bool(true) if may_be("boolean") => Some("\"True\"".into()),
            Value::Bool(false) if may_be("boolean") => Some("\"False\"".into()),
            Value::Null if may_be("null") => Some("\"None\"".into()),
            _ => None,
        };
        return values.as_array().into_iter().flatten().filter_map(one).collect();
    }
    let mut spellings = Vec::new();
    let Some(kinds) = &kinds else { return spellings };
    if kinds.contains(&"boolean") {
        spellings.extend(["\"True\"".to_owned(), "\"False\"".to_owned()]);
    }
    if kinds.contains(&"null") {
        spellings.push("\"None\"".into());
    }
    let count = match (limit("minLength"), limit("maxLength")) {
        (None, None) => Some("*".to_owned()),
        (Some(Some(least)), None) => Some(format!("{{{least},}}")),
        (None, Some(Some(most))) => Some(format!("{{0,{most}}}")),
        (Some(Some(least)), Some(Some(most))) if least <= most => {
            Some(format!("{{{least},{most}}}"))
        }
        _ => None,
    };
    if let Some(count) = count.filter(|_| kinds.contains(&"string")) {
        let char = r#"([^'\\\x00-\x1f\x7f]|\\['\\nrt])"#;
        spellings.push(format!("/'{char}{count}'/"));
    }
    spellings
}
