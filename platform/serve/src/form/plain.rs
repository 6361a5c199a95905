//! What a schema says that changes nothing here, left out: the compiler would refuse it.

use serde_json::Value;

use super::Wanted;

/// Formats of texts that are followed.
const FORMATS: [&str; 11] = [
    "date",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "time",
    "unknown",
    "uri",
    "uuid",
];

/// A form without what changes nothing in it.
pub fn of(mut wanted: Wanted) -> Wanted {
    match &mut wanted {
        Wanted::Schema(schema) => plain(schema, false),
        Wanted::Grammar(_) => {}
        Wanted::Calls(calls) => {
            calls.tools.iter_mut().for_each(|tool| plain(&mut tool.parameters, true));
            calls.other.iter_mut().for_each(|(_, schema)| plain(schema, false));
        }
    }
    wanted
}

/// Makes a schema plain; `is_tools` says that it is of a tool. There a format that is not known is a
/// remark, as JSON Schema has it: tools are described for many models at once. Who asks for an answer of a
/// form wants it followed.
fn plain(schema: &mut Value, is_tools: bool) {
    let fields = match schema {
        Value::Object(fields) => fields,
        Value::Array(list) => return list.iter_mut().for_each(|part| plain(part, is_tools)),
        _ => return,
    };
    fields.retain(|name, value| match (&**name, value) {
        ("uniqueItems", Value::Bool(wanted)) => *wanted,
        ("format", Value::String(format)) => !is_tools || FORMATS.contains(&&**format),
        _ => true,
    });
    for (name, value) in fields {
        match (&**name, value) {
            // Values, not schemas.
            ("const" | "enum" | "default" | "examples", _) => {}
            (
                "properties" | "patternProperties" | "$defs" | "definitions",
                Value::Object(named),
            ) => {
                named.values_mut().for_each(|part| plain(part, is_tools));
            }
            (_, value) => plain(value, is_tools),
        }
    }
}

#[cfg(test)]
mod tests {
    use llguidance::ParserFactory;
    use llguidance::api::TopLevelGrammar;
    use llguidance::toktrie::ApproximateTokEnv;
    use serde_json::json;

    use super::super::{Calls, Tool};
    use super::*;

    #[test]
    fn what_changes_nothing_is_left_out() {
        let said = json!({
            "type": "object",
            "properties": {
                "format": {"type": "string", "format": "password"},
                "uniqueItems": false,
                "mail": {"anyOf": [{"type": "string", "format": "email"}, {"format": "byte"}]},
                "list": {"type": "array", "items": {"uniqueItems": true}, "uniqueItems": false},
                "same": {"const": {"format": "password", "uniqueItems": false}},
            },
        });
        let mut answer = said.clone();
        answer["properties"]["list"] = json!({"type": "array", "items": {"uniqueItems": true}});
        let mut arguments = answer.clone();
        arguments["properties"]["format"] = json!({"type": "string"});
        arguments["properties"]["mail"]["anyOf"][1] = json!({});
        let Wanted::Schema(schema) = of(Wanted::Schema(said.clone())) else { panic!("a schema") };
        assert_eq!(schema, answer);
        let tool = Tool { name: "f".into(), parameters: said.clone(), path: String::new() };
        let calls = Calls {
            tools: vec![tool],
            forced: true,
            several: true,
            as_objects: false,
            other: Some((String::new(), said)),
        };
        let Wanted::Calls(calls) = of(Wanted::Calls(calls)) else { panic!("calls") };
        assert_eq!((&calls.tools[0].parameters, &calls.other.unwrap().1), (&arguments, &answer));
    }

    #[test]
    fn the_formats_that_are_known_are_those_that_can_be_followed() {
        let factory = ParserFactory::new_simple(&ApproximateTokEnv::single_byte_env());
        let mut factory = factory.expect("it can be made");
        factory.quiet();
        let is_taken = |format| {
            let schema = json!({"type": "string", "format": format});
            factory.create_parser(TopLevelGrammar::from_json_schema(schema)).is_ok()
        };
        for format in FORMATS {
            assert!(is_taken(format), "{format}");
        }
        for format in ["password", "binary", "byte", "regex", "idn-email", "uri-reference"] {
            assert!(!is_taken(format), "{format}");
        }
    }
}
