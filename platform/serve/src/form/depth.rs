//! How deep a form goes: compiling it calls itself that deep.
//!
//! What is counted is never less than what the compiler does: nesting, and every reference or rule as if
//! each led to the next.

use std::collections::BTreeSet;

use serde_json::{Deserializer, Value};

use super::calls::{Calls, Tool};

/// The deepest form that is compiled. [`STACK`] suffices for it.
pub const MOST: usize = 1000;
/// Bytes of stack that a level takes.
const LEVEL: usize = if cfg!(debug_assertions) { 20 << 10 } else { 4 << 10 };
/// Most bytes of stack that are used.
pub const USED: usize = MOST * LEVEL;
/// Bytes of stack for a thread that compiles forms. What is not used is no memory.
pub const STACK: usize = 64 << 20;

/// The depth of a schema: its nesting, and that of everything it refers to.
pub fn of_schema(schema: &Value) -> usize {
    let mut references = References::default();
    references.collect(schema);
    let whole = nesting(schema);
    // What is referred to by another name than its place can be anywhere.
    let target = |reference: &&str| {
        let place = reference.strip_prefix('#').filter(|_| !references.has_bases);
        let place = place.and_then(|place| schema.pointer(place));
        place.map_or(whole, nesting).saturating_add(1)
    };
    let referred: usize = match references.has_bases {
        // The same words lead elsewhere from elsewhere.
        true => references.all.iter().map(target).sum(),
        false => references.all.iter().collect::<BTreeSet<_>>().into_iter().map(target).sum(),
    };
    referred.saturating_add(whole)
}

/// Where the reference stands that gives a schema no end: every value of it has a smaller one of it within.
pub fn endless(schema: &Value) -> Option<String> {
    let mut references = References::default();
    references.collect(schema);
    if references.has_bases {
        return None;
    }
    let mut open: Vec<(&str, &Value)> = references
        .all
        .into_iter()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter_map(|reference| Some((reference, schema.pointer(reference.strip_prefix('#')?)?)))
        .collect();
    // A reference comes to an end once what it leads to does by others that do.
    loop {
        let before = open.len();
        for at in (0..before).rev() {
            if stuck(open[at].1, &open).is_none() {
                open.swap_remove(at);
            }
        }
        if open.len() == before {
            return stuck(schema, &open);
        }
    }
}

/// The path to the first reference of these that every value of a schema needs.
fn stuck(schema: &Value, open: &[(&str, &Value)]) -> Option<String> {
    let fields = schema.as_object()?;
    let within = |name: &str, part: &Value| Some(format!(".{name}{}", stuck(part, open)?));
    let list = |name: &str| fields.get(name).and_then(Value::as_array);
    let is = |kind: &str| match fields.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().all(|other| other == kind),
        other => other.is_some_and(|other| other == kind),
    };
    let reference = fields.get("$ref").and_then(Value::as_str);
    if reference.is_some_and(|reference| open.iter().any(|(other, _)| *other == reference)) {
        return Some(".$ref".into());
    }
    let numbered = |name: &str, at: usize, part: &Value| within(&format!("{name}[{at}]"), part);
    for (at, part) in list("allOf").into_iter().flatten().enumerate() {
        if let Some(path) = numbered("allOf", at, part) {
            return Some(path);
        }
    }
    for name in ["anyOf", "oneOf"] {
        let branches = list(name).map_or(&[][..], Vec::as_slice);
        let mut paths = branches.iter().enumerate().map(|(at, part)| numbered(name, at, part));
        let first = paths.next().flatten();
        if first.is_some() && paths.all(|path| path.is_some()) {
            return first;
        }
    }
    if is("object") {
        let properties = fields.get("properties");
        let mut names = list("required").into_iter().flatten().filter_map(Value::as_str);
        let property = |name: &str| within(&format!("properties.{name}"), properties?.get(name)?);
        return names.find_map(property);
    }
    if is("array") {
        let least = fields.get("minItems").and_then(Value::as_u64).unwrap_or(0);
        let least = usize::try_from(least).unwrap_or(usize::MAX);
        let items = ["prefixItems", "items"].into_iter().find_map(|name| Some((name, list(name)?)));
        let (name, first) = items.map_or(("", &[][..]), |(name, list)| (name, list.as_slice()));
        let mut first_ones = first.iter().take(least).enumerate();
        let in_first = first_ones.find_map(|(at, part)| numbered(name, at, part));
        let others = fields.get("items").filter(|_| least > first.len());
        return in_first.or_else(|| others.and_then(|part| within("items", part)));
    }
    None
}

/// The depth of a grammar: of each rule 1 and its nesting, and of the schemas in it.
pub fn of_grammar(text: &str) -> usize {
    let (mut depth, mut nesting, mut deepest) = (0_usize, 0_usize, 0_usize);
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let after = &rest[char.len_utf8()..];
        rest = match char {
            '"' => closed(after, '"'),
            '/' if after.starts_with('/') => line(after),
            '/' => closed(after, '/'),
            '#' => line(after),
            // The name of a token has anything in it.
            '<' => name(after),
            '%' => match after.strip_prefix("json") {
                Some(json) => {
                    let mut values = Deserializer::from_str(json).into_iter::<Value>();
                    // No grammar where there is no value.
                    let Some(Ok(schema)) = values.next() else { return depth };
                    depth = depth.saturating_add(of_schema(&schema));
                    &json[values.byte_offset()..]
                }
                None => after,
            },
            '(' | '[' | '{' => {
                nesting += 1;
                deepest = deepest.max(nesting);
                after
            }
            ')' | ']' | '}' => {
                nesting = nesting.saturating_sub(1);
                after
            }
            ':' => {
                depth = depth.saturating_add(1 + deepest);
                deepest = nesting;
                after
            }
            _ => after,
        };
    }
    depth.saturating_add(deepest)
}

/// The depth of the calls of a tool: each argument's rules lead to the next one's.
pub fn of_tool(tool: &Tool) -> usize {
    let arguments = tool.parameters.get("properties").and_then(Value::as_object);
    let rules = arguments.map_or(0, |arguments| arguments.len().saturating_mul(RULES));
    rules.saturating_add(of_schema(&tool.parameters))
}

/// The depth of calls, of which the deepest tool counts.
pub fn of_calls(calls: &Calls) -> usize {
    let other = calls.other.as_ref().map_or(0, |(_, schema)| of_schema(schema));
    calls.tools.iter().map(of_tool).max().unwrap_or(0).max(other)
}

/// Levels that an argument adds to the grammar of calls.
const RULES: usize = 2;

/// How deep lists and objects are in each other.
fn nesting(value: &Value) -> usize {
    let inner = match value {
        Value::Array(list) => list.iter().map(nesting).max(),
        Value::Object(fields) => fields.values().map(nesting).max(),
        _ => return 0,
    };
    1 + inner.unwrap_or(0)
}

/// What a schema refers to.
#[derive(Default)]
struct References<'v> {
    all: Vec<&'v str>,
    /// Whether a part of it has a name that references start from.
    has_bases: bool,
}

impl<'v> References<'v> {
    fn collect(&mut self, value: &'v Value) {
        match value {
            Value::Array(list) => list.iter().for_each(|value| self.collect(value)),
            Value::Object(fields) => {
                self.all.extend(fields.get("$ref").and_then(Value::as_str));
                self.has_bases |= ["$id", "id"]
                    .iter()
                    .any(|name| fields.get(*name).is_some_and(Value::is_string));
                fields.values().for_each(|value| self.collect(value));
            }
            _ => {}
        }
    }
}

/// What follows the end of a text or a regular expression.
fn closed(text: &str, end: char) -> &str {
    let mut is_escaped = false;
    let is_end = |char| {
        let found = char == end && !is_escaped;
        is_escaped = char == '\\' && !is_escaped;
        found
    };
    text.find(is_end).map_or("", |at| &text[at + end.len_utf8()..])
}

/// What follows the name of a token, where it is one.
fn name(text: &str) -> &str {
    let end = text.find(|char: char| char == '<' || char == '>' || char.is_whitespace());
    match end {
        Some(at) if at > 0 && text[at..].starts_with('>') => &text[at + 1..],
        _ => text,
    }
}

/// What follows a comment.
fn line(text: &str) -> &str {
    text.find('\n').map_or("", |at| &text[at..])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_is_as_deep_as_what_it_refers_to() {
        assert_eq!(of_schema(&json!(true)), 0);
        assert_eq!(of_schema(&json!({"type": "array", "items": {"type": "null"}})), 2);
        // Once each, however often.
        let twice = json!({"$defs": {"a": {"items": {}}},
                           "prefixItems": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]});
        assert_eq!(of_schema(&twice), 4 + 3);
        // By another name, it can be all.
        assert_eq!(of_schema(&json!({"$ref": "a", "items": {}})), 2 + 3);
        let based = json!({"$id": "b", "prefixItems": [{"$ref": "#/a"}, {"$ref": "#/a"}]});
        assert_eq!(of_schema(&based), 3 + 2 * 4);
    }

    #[test]
    fn a_schema_without_an_end_is_found() {
        let list = |least: usize| {
            json!({"type": "object", "required": ["a"],
                   "properties": {"a": {"type": "array", "items": {"$ref": "#"}, "minItems": least}}})
        };
        let tree = |kinds: Value| {
            json!({"$defs": {"node": {"type": "object", "required": ["next"],
                                      "properties": {"next": {"anyOf": kinds}}}},
                   "$ref": "#/$defs/node"})
        };
        let node = json!({"$ref": "#/$defs/node"});
        for (schema, path) in [
            (json!({"$ref": "#"}), Some(".$ref")),
            (json!({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}), Some(".$ref")),
            (json!({"$defs": {"a": {"$ref": "#/$defs/a"}}}), None),
            (json!({"anyOf": [{"$ref": "#"}]}), Some(".anyOf[0].$ref")),
            (json!({"anyOf": [{"$ref": "#"}, {"type": "null"}]}), None),
            (json!({"allOf": [{"type": "null"}, {"$ref": "#"}]}), Some(".allOf[1].$ref")),
            (
                json!({"type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"]}),
                Some(".properties.n.$ref"),
            ),
            (json!({"type": "object", "properties": {"n": {"$ref": "#"}}}), None),
            (json!({"properties": {"n": {"$ref": "#"}}, "required": ["n"]}), None),
            (list(0), None),
            (list(1), Some(".properties.a.items.$ref")),
            (json!({"type": ["array"], "prefixItems": [true, {"$ref": "#"}], "minItems": 1}), None),
            (
                json!({"type": ["array"], "prefixItems": [true, {"$ref": "#"}], "minItems": 2}),
                Some(".prefixItems[1].$ref"),
            ),
            (tree(json!([node, node])), Some(".$ref")),
            (tree(json!([node, {"type": "null"}])), None),
            (json!({"$ref": "elsewhere"}), None),
            (json!({"$id": "x", "$ref": "#"}), None),
        ] {
            assert_eq!(endless(&schema).as_deref(), path, "{schema}");
        }
        // However long the way to the end is.
        let mut long = json!({"$defs": {"d300": {"type": "null"}}, "$ref": "#/$defs/d0"});
        for link in 0..300 {
            long["$defs"][format!("d{link}")] = json!({"$ref": format!("#/$defs/d{}", link + 1)});
        }
        assert_eq!(endless(&long), None);
        long["$defs"]["d300"] = json!({"$ref": "#/$defs/d7"});
        assert_eq!(endless(&long).as_deref(), Some(".$ref"));
    }

    #[test]
    fn a_grammar_is_as_deep_as_its_rules_and_what_is_in_them() {
        assert_eq!(of_grammar("start: a b\na: \"x\"\nb: ((a) (a)) \"y\""), 3 + 2);
        // Brackets and colons in texts, expressions, comments and names of tokens say nothing.
        for same in [
            r#"start: "((:\"((:" "#,
            "start: /((:\\/((:/",
            "start: x // ((:\n",
            "start: x # ((:",
            "start: <|\"((:|>",
        ] {
            assert_eq!(of_grammar(same), 1, "{same}");
        }
        // Those after them do.
        assert_eq!(
            of_grammar("start: <|\"|> ( \"(\\\"(\" [ /[(/ ] ) // (\n x: %lark { a: { } }"),
            8
        );
        assert_eq!(of_grammar("start: %json {\"items\": {}} ( x )"), 1 + 2 + 1);
    }
}
