//! `tojson`: what Python's `json.dumps` writes.

use minijinja::value::{Kwargs, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use crate::guard::Guard;
use crate::paid::{PaidText, pay};
use crate::values;

/// How to write.
struct Style {
    indent: Option<String>,
    ensure_ascii: bool,
    between_items: String,
    after_key: String,
    sort_keys: bool,
}

/// The arguments of the filter, in their order.
const ARGUMENTS: [&str; 4] = ["ensure_ascii", "indent", "separators", "sort_keys"];

/// The filter `value | tojson(ensure_ascii, indent, separators, sort_keys)`, each as `json.dumps`
/// takes it; characters that are not ASCII stay as they are by default.
pub fn tojson(
    state: &State,
    value: Value,
    guard: &Guard,
    places: &[Value],
    names: &Kwargs,
) -> Result<String, Error> {
    let style = style(places, names)?;
    // A plain tree, paid for.
    let value = values::kept(state, value, false)?;
    let mut out = PaidText::default();
    Writer { guard, style }.value(state, &value, 0, &mut out)?;
    out.finish(state)
}

fn style(places: &[Value], names: &Kwargs) -> Result<Style, Error> {
    let wrong = |text: &'static str| Error::new(ErrorKind::InvalidOperation, text);
    if places.len() > ARGUMENTS.len() {
        return Err(wrong("tojson has at most four arguments"));
    }
    let mut given = [const { None }; ARGUMENTS.len()];
    for (index, name) in ARGUMENTS.into_iter().enumerate() {
        let value: Option<Value> =
            if names.has(name) { Some(names.get(name)?) } else { places.get(index).cloned() };
        given[index] = value.filter(|value| !value.is_none() && !value.is_undefined());
    }
    names.assert_all_used()?;
    let [ensure_ascii, indent, separators, sort_keys] = given;
    let indent = match indent {
        None => None,
        Some(value) => Some(match (value.as_str(), value.as_i64()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(spaces)) if spaces <= 64 => " ".repeat(spaces.max(0) as usize),
            _ => return Err(wrong("tojson: indent is a text or at most 64 spaces")),
        }),
    };
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let [between_items, after_key] = match separators {
        None => [if indent.is_some() { "," } else { ", " }, ": "].map(str::to_owned),
        Some(pair) => {
            let pair: Vec<Value> = pair.try_iter()?.take(2).collect();
            let text = |index: usize| pair.get(index).and_then(Value::as_str).map(str::to_owned);
            let (Some(items), Some(keys)) = (text(0), text(1)) else {
                return Err(wrong("tojson: separators are two texts"));
            };
            [items, keys]
        }
    };
    Ok(Style {
        indent,
        ensure_ascii: is_true(ensure_ascii),
        between_items,
        after_key,
        sort_keys: is_true(sort_keys),
    })
}

/// Writes values as JSON.
struct Writer<'w> {
    guard: &'w Guard,
    style: Style,
}

impl Writer<'_> {
    fn value(
        &self,
        state: &State,
        value: &Value,
        depth: usize,
        out: &mut PaidText,
    ) -> Result<(), Error> {
        if let Some(text) = value.as_str() {
            return self.text(state, text, out);
        }
        let Some(object) = value.as_object().filter(|object| object.repr() != ObjectRepr::Plain)
        else {
            return out.push_str(state, &scalar(value)?);
        };
        let map = object.repr() == ObjectRepr::Map;
        let mut count = 0;
        let mut begin = |out: &mut PaidText| {
            let before = match (count, map) {
                (0, true) => "{",
                (0, false) => "[",
                _ => &self.style.between_items,
            };
            count += 1;
            out.push_str(state, before)?;
            self.line(state, depth + 1, out)
        };
        if map {
            let mut pairs: Vec<(String, Value)> = Vec::new();
            for (key, value) in object.try_iter_pairs().into_iter().flatten() {
                let key = match key.as_str() {
                    Some(key) => key.to_owned(),
                    None => scalar(&key)?,
                };
                pay(state, key.len())?;
                pairs.push((key, value));
            }
            if self.style.sort_keys {
                pairs.sort_by_key(|(key, _)| self.guard.show(key));
            }
            for (key, value) in pairs {
                begin(out)?;
                self.text(state, &key, out)?;
                out.push_str(state, &self.style.after_key)?;
                self.value(state, &value, depth + 1, out)?;
            }
        } else {
            for item in object.try_iter().into_iter().flatten() {
                begin(out)?;
                self.value(state, &item, depth + 1, out)?;
            }
        }
        match (count, map) {
            (0, true) => out.push_str(state, "{}"),
            (0, false) => out.push_str(state, "[]"),
            _ => {
                self.line(state, depth, out)?;
                out.push(state, if map { '}' } else { ']' })
            }
        }
    }

    /// Begins a line, where values have lines of their own.
    fn line(&self, state: &State, depth: usize, out: &mut PaidText) -> Result<(), Error> {
        let Some(indent) = &self.style.indent else { return Ok(()) };
        out.push(state, '\n')?;
        (0..depth).try_for_each(|_| out.push_str(state, indent))
    }

    fn text(&self, state: &State, text: &str, out: &mut PaidText) -> Result<(), Error> {
        out.push(state, '"')?;
        for char in text.chars() {
            match char {
                '"' => out.push_str(state, "\\\"")?,
                '\\' => out.push_str(state, "\\\\")?,
                '\n' => out.push_str(state, "\\n")?,
                '\r' => out.push_str(state, "\\r")?,
                '\t' => out.push_str(state, "\\t")?,
                '\u{8}' => out.push_str(state, "\\b")?,
                '\u{c}' => out.push_str(state, "\\f")?,
                '\0'..='\x1f' => out.push_str(state, &format!("\\u{:04x}", u32::from(char)))?,
                char if char.is_ascii()
                    || !self.style.ensure_ascii
                    || self.guard.real(char).is_some() =>
                {
                    out.push(state, char)?;
                }
                char => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        out.push_str(state, &format!("\\u{unit:04x}"))?;
                    }
                }
            }
        }
        out.push(state, '"')
    }
}

/// A value that is neither text nor container.
fn scalar(value: &Value) -> Result<String, Error> {
    Ok(match value.kind() {
        ValueKind::None => "null".into(),
        ValueKind::Bool => if value.is_true() { "true" } else { "false" }.into(),
        ValueKind::Number if value.is_integer() => value.to_string(),
        ValueKind::Number => {
            match values::float(f64::try_from(value.clone()).unwrap_or(f64::NAN)) {
                text if text == "nan" => "NaN".into(),
                text if text.ends_with("inf") => text.replace("inf", "Infinity"),
                text => text,
            }
        }
        kind => {
            let text = format!("tojson cannot write a value of type {kind}");
            return Err(Error::new(ErrorKind::InvalidOperation, text));
        }
    })
}
