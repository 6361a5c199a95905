//! Which part of a schema it is that there can be no answer of.

use serde_json::{Value, json};

use super::calls::Calls;
use super::{FormError, Forms, calls};
use llguidance::api::TopLevelGrammar;

/// Most levels that a wrong part is looked for in.
const DEEPEST: usize = 32;

/// The innermost part of a schema that cannot be, of a schema that cannot be for this reason.
pub fn find(forms: &Forms, schema: &Value, message: String) -> FormError {
    let mut found = FormError { path: String::new(), message };
    let definitions: Vec<_> = ["$defs", "definitions", "$schema"]
        .into_iter()
        .filter_map(|name| Some((name, schema.get(name)?.clone())))
        .collect();
    let wrong = |mut whole: Value| {
        if let Value::Object(fields) = &mut whole {
            fields.extend(definitions.iter().map(|(name, value)| ((*name).into(), value.clone())));
        }
        forms.schema(whole).err()
    };
    let mut at = schema;
    for _ in 0..DEEPEST {
        // Of a part with references to others than definitions, alone, nothing can be said.
        let mut all: Vec<_> =
            parts(at).filter(|(_, part)| calls::refers_to_definitions(part)).collect();
        // The first half that has a wrong one; the second, if the first has none.
        while all.len() > 1 {
            let second = all.split_off(all.len() / 2);
            let first: Vec<_> = all.iter().map(|(_, part)| (*part).clone()).collect();
            let together = json!({"type": "array", "minItems": first.len(), "prefixItems": first});
            if wrong(together).is_none() {
                all = second;
            }
        }
        let found_part =
            all.pop().and_then(|(path, part)| Some((path, part, wrong(part.clone())?)));
        let Some((path, part, message)) = found_part else { break };
        found.path += &path;
        found.message = message;
        at = part;
    }
    found
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
