//! Values of a template: from a conversation, kept in variables, and as text.

use std::fmt::Write;

use minijinja::value::{ObjectRepr, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use serde_json::Value as Json;

use crate::guard::Guard;
use crate::limits::DEPTH;
use crate::paid::pay;

/// A value of a conversation with its texts hidden; `None` when it is too deep.
pub fn from_json(json: &Json, guard: &Guard, assistant: bool, depth: usize) -> Option<Value> {
    if depth > DEPTH {
        return None;
    }
    let next = |json: &Json| from_json(json, guard, assistant, depth + 1);
    Some(match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(guard.hide(text, assistant)),
        Json::Array(items) => Value::from(items.iter().map(next).collect::<Option<Vec<_>>>()?),
        Json::Object(map) => {
            let pair = |(key, value): (&String, &Json)| Some((guard.hide_key(key), next(value)?));
            Value::from_pairs(map.iter().map(pair).collect::<Option<Vec<_>>>()?)
        }
    })
}

/// What a value is kept as: a plain tree of lists and maps, not deeper than [`DEPTH`], whose every
/// part is paid for. A namespace may be kept in a variable, but in nothing else.
pub fn kept(state: &State, value: Value, in_variable: bool) -> Result<Value, Error> {
    if in_variable && is_namespace(&value) { Ok(value) } else { plain(state, &value, 0) }
}

fn is_namespace(value: &Value) -> bool {
    // The engine's own type, which it does not show in another way.
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

fn plain(state: &State, value: &Value, depth: usize) -> Result<Value, Error> {
    let wrong = |text: &'static str| Error::new(ErrorKind::InvalidOperation, text);
    let Some(object) = value.as_object() else {
        state.consume_fuel(1)?;
        pay(state, value.as_str().map_or(0, str::len) / 4)?;
        return Ok(value.clone());
    };
    if depth > DEPTH {
        return Err(wrong("lists and maps lie too deep in each other"));
    }
    if is_namespace(value) {
        return Err(wrong("a namespace cannot be part of another value"));
    }
    state.consume_fuel(1)?;
    match object.repr() {
        ObjectRepr::Plain => Ok(value.clone()),
        ObjectRepr::Map => {
            let mut pairs = Vec::new();
            for (key, value) in object.try_iter_pairs().into_iter().flatten() {
                pairs.push((plain(state, &key, depth + 1)?, plain(state, &value, depth + 1)?));
            }
            Ok(Value::from_pairs(pairs))
        }
        _ => {
            let mut items = Vec::new();
            for item in value.try_iter()?.checked() {
                items.push(plain(state, &item?, depth + 1)?);
            }
            Ok(if value.is_tuple() { Value::from(Tuple::new(items)) } else { Value::from(items) })
        }
    }
}

/// Python's `str(value)`; the fuel pays for it.
pub fn text(state: &State, value: &Value, guard: &Guard) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let value = if is_namespace(value) { value.clone() } else { plain(state, value, 0)? };
    let mut out = String::new();
    if !value.is_undefined() {
        repr(&value, guard, &mut out);
    }
    pay(state, out.len())?;
    Ok(out)
}

/// Python's `repr(value)` of a plain value.
fn repr(value: &Value, guard: &Guard, out: &mut String) {
    if let Some(text) = value.as_str() {
        return repr_text(text, guard, out);
    }
    match (value.kind(), value.as_object()) {
        (ValueKind::Undefined, _) => {}
        (ValueKind::Number, _) if !value.is_integer() => {
            out.push_str(&float(f64::try_from(value.clone()).unwrap_or(f64::NAN)));
        }
        (_, Some(_)) if is_namespace(value) => out.push_str("<Namespace>"),
        (_, Some(object)) if object.repr() == ObjectRepr::Map => {
            out.push('{');
            for (index, (key, value)) in object.try_iter_pairs().into_iter().flatten().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                repr(&key, guard, out);
                out.push_str(": ");
                repr(&value, guard, out);
            }
            out.push('}');
        }
        (_, Some(object)) if object.repr() != ObjectRepr::Plain => {
            let tuple = value.is_tuple();
            out.push(if tuple { '(' } else { '[' });
            let mut count = 0;
            for item in object.try_iter().into_iter().flatten() {
                out.push_str(if count > 0 { ", " } else { "" });
                repr(&item, guard, out);
                count += 1;
            }
            out.push_str(match tuple {
                true if count == 1 => ",)",
                true => ")",
                false => "]",
            });
        }
        // Writing to a text does not fail.
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

fn repr_text(text: &str, guard: &Guard, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for char in text.chars() {
        match char {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            char if char == quote => out.extend(['\\', char]),
            char if guard.real(char).is_some() => out.push(char),
            '\0'..=' ' | '\x7f'..='\u{a0}' | '\u{ad}' if char != ' ' => {
                let _ = write!(out, "\\x{:02x}", u32::from(char));
            }
            char => out.push(char),
        }
    }
    out.push(quote);
}

/// Python's `repr` of a float: the shortest digits that read back, an exponent from 1e16 on and
/// below 1e-4.
pub fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{value:?}")
}
