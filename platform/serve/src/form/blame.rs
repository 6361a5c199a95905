//! Which part of a schema it is that there can be no answer of.

use serde_json::Value;

use super::calls::Calls;
use super::{FormError, Forms, calls};
use llguidance::api::TopLevelGrammar;

/// Most schemas that are tried.
const TRIES: usize = 256;

/// The innermost part of a schema that cannot be, of a schema that cannot be for this reason.
pub fn find(forms: &Forms, schema: &Value, message: String) -> FormError {
    let mut found = FormError { path: String::new(), message };
    let definitions: Vec<_> = ["$defs", "definitions", "$schema"]
        .into_iter()
        .filter_map(|name| Some((name, schema.get(name)?.clone())))
        .collect();
    let (mut at, mut tries) = (schema, 0);
    'deeper: loop {
        // Of a part with references to others than definitions, alone, nothing can be said.
        for (path, part) in parts(at).filter(|(_, part)| calls::refers_to_definitions(part)) {
            tries += 1;
            if tries > TRIES {
                return found;
            }
            let mut whole = part.clone();
            if let Value::Object(fields) = &mut whole {
                fields.extend(
                    definitions.iter().map(|(name, value)| ((*name).into(), value.clone())),
                );
            }
            if let Err(message) = forms.schema(whole) {
                found.path += &path;
                found.message = message;
                at = part;
                continue 'deeper;
            }
        }
        return found;
    }
}

/// As [`find`], of calls: the first tool that cannot be called.
pub fn find_tool(forms: &Forms, calls: &Calls, message: String) -> FormError {
    if let Some((path, schema)) = &calls.other
        && let Err(message) = forms.schema(schema.clone())
    {
        let mut found = find(forms, schema, message);
        found.path.insert_str(0, path);
        return found;
    }
    for tool in &calls.tools {
        let alone = Calls { tools: vec![tool.clone()], other: None, ..calls.clone() };
        let grammar = TopLevelGrammar::from_lark(calls::grammar(&alone));
        if let Err(message) = forms.matcher(grammar) {
            let mut found = find(forms, &tool.parameters, message);
            found.path.insert_str(0, &tool.path);
            return found;
        }
    }
    FormError { path: "tools".into(), message }
}

/// The schemas that a schema is made of, and where they stand in it.
fn parts(schema: &Value) -> impl Iterator<Item = (String, &Value)> {
    let fields = schema.as_object().into_iter().flatten();
    fields.flat_map(|(name, value)| {
        let all: Vec<(String, &Value)> = match (&**name, value) {
            (
                "properties" | "patternProperties" | "$defs" | "definitions",
                Value::Object(named),
            ) => named.iter().map(|(inner, part)| (format!(".{name}.{inner}"), part)).collect(),
            ("anyOf" | "oneOf" | "allOf" | "prefixItems" | "items", Value::Array(list)) => {
                let part = |(at, part)| (format!(".{name}[{at}]"), part);
                list.iter().enumerate().map(part).collect()
            }
            ("items" | "additionalProperties" | "additionalItems", Value::Object(_)) => {
                vec![(format!(".{name}"), value)]
            }
            _ => Vec::new(),
        };
        all
    })
}
