//! Answers of a given form: whatever the model would rather say, they have it.

use std::net::SocketAddr;

use rill_serve::{Config, Listen};
use rill_tests::rig::Setting;
use rill_tests::server::{Running, start};
use serde_json::{Value, json};

fn served() -> Running {
    let config = Config::new(Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))));
    start(config, Setting { conversations: 2, context: 2048, ..Setting::default() })
}

/// A question with a seed and more fields.
fn question(seed: u64, more: Value) -> Value {
    let messages = json!([{"role": "user", "content": "Where is the lift?"}]);
    let mut body = json!({"messages": messages, "seed": seed, "temperature": 1.0,
                          "max_tokens": 300});
    for (name, value) in more.as_object().expect("fields are an object") {
        body[name] = value.clone();
    }
    body
}

fn schema(schema: Value) -> Value {
    json!({"response_format": {"type": "json_schema",
                               "json_schema": {"name": "answer", "strict": true, "schema": schema}}})
}

/// Asks and calls `check` with the answer, unless it was cut and says so.
#[track_caller]
fn each(server: &Running, more: &Value, check: impl Fn(&Value) -> bool) {
    let mut whole = 0;
    for seed in 0..6 {
        let body = server.post("/v1/chat/completions", &question(seed, more.clone())).ok();
        let choice = &body["choices"][0];
        if choice["finish_reason"] == "length" {
            continue;
        }
        let text = choice["message"]["content"].as_str().expect("it is a text");
        let value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(check(&value), "{more}: {text}");
        whole += 1;
    }
    assert!(whole > 0, "{more}: every answer was cut");
}

#[test]
fn schemas_are_followed() {
    let server = served();
    let floor = schema(json!({"enum": ["ground", "first", "second"]}));
    each(&server, &floor, |value| ["ground", "first", "second"].contains(&value.as_str().unwrap()));

    let place = schema(json!({
        "type": "object",
        "properties": {
            "floor": {"type": "integer", "minimum": 0, "maximum": 9},
            "open": {"type": "boolean"},
            "way": {"type": "string", "maxLength": 20},
        },
        "required": ["floor", "open", "way"],
        "additionalProperties": false,
    }));
    each(&server, &place, |value| {
        value.as_object().is_some_and(|fields| fields.len() == 3)
            && value["floor"].as_i64().is_some_and(|floor| (0..=9).contains(&floor))
            && value["open"].is_boolean()
            && value["way"].as_str().is_some_and(|way| way.chars().count() <= 20)
    });

    let list = schema(json!({"type": "array", "items": {"type": "boolean"},
                             "minItems": 2, "maxItems": 4}));
    each(&server, &list, |value| {
        let list = value.as_array().expect("it is a list");
        (2..=4).contains(&list.len()) && list.iter().all(Value::is_boolean)
    });

    // So hot that either way is as likely: the model itself would go down for ever.
    let mut tree = schema(json!({
        "$defs": {"node": {"type": "object", "properties": {
            "leaf": {"type": "boolean"},
            "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
        }, "required": ["leaf", "next"], "additionalProperties": false}},
        "$ref": "#/$defs/node",
    }));
    tree["temperature"] = 50.into();
    fn is_tree(value: &Value) -> bool {
        value["leaf"].is_boolean() && (value["next"].is_null() || is_tree(&value["next"]))
    }
    each(&server, &tree, is_tree);
}

#[test]
fn a_stream_and_other_dialects_have_the_same_form() {
    let server = served();
    let boolean = json!({"type": "object", "properties": {"open": {"type": "boolean"}},
                         "required": ["open"], "additionalProperties": false});
    let is_it = |text: &str| {
        let value: Value = serde_json::from_str(text).expect("it is JSON");
        value.as_object().is_some_and(|fields| fields.len() == 1) && value["open"].is_boolean()
    };
    let mut body = question(1, schema(boolean.clone()));
    let whole = server.post("/v1/chat/completions", &body).ok();
    let said = whole["choices"][0]["message"]["content"].as_str().expect("it is a text");
    assert!(is_it(said), "{said}");
    body["stream"] = true.into();
    let chunks = server.stream("/v1/chat/completions", &body);
    let pieces = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str());
    assert_eq!(pieces.collect::<String>(), said);

    let messages = json!([{"role": "user", "content": "Is it open?"}]);
    let body = json!({"messages": messages, "format": boolean, "stream": false});
    let said = server.post("/api/chat", &body).ok()["message"]["content"].clone();
    assert!(is_it(said.as_str().expect("it is a text")), "{said}");
    let body = json!({"prompt": "Is it open? ", "json_schema": boolean});
    let said = server.post("/completion", &body).ok()["content"].clone();
    assert!(is_it(said.as_str().expect("it is a text")), "{said}");
    let grammar = "start: \"yes\" | \"no\"";
    let body = json!({"prompt": "Is it open? ", "grammar": grammar});
    let said = server.post("/completion", &body).ok()["content"].clone();
    assert!(said == "yes" || said == "no", "{said}");
    // As llama.cpp's clients write it, here and there.
    let grammar = "# a floor\nroot ::= floor (\", \" floor){1,2}\nfloor ::= [1-3] | \"ground\"";
    let body = json!({"prompt": "Which floors? ", "grammar": grammar, "temperature": 1});
    let said = server.post("/completion", &body).ok()["content"].clone();
    let chat = server.post("/v1/chat/completions", &question(2, json!({"grammar": grammar}))).ok();
    for said in [&said, &chat["choices"][0]["message"]["content"]] {
        let floors: Vec<_> = said.as_str().expect("it is a text").split(", ").collect();
        assert!((2..=3).contains(&floors.len()), "{said}");
        assert!(floors.iter().all(|floor| ["1", "2", "3", "ground"].contains(floor)), "{said}");
    }

    // Several answers each have it, and do not depend on each other.
    let mut body = question(3, schema(json!({"enum": ["left", "right", "ahead"]})));
    body["n"] = 4.into();
    let several = server.post("/v1/chat/completions", &body).ok();
    for choice in several["choices"].as_array().expect("choices are a list") {
        let said = choice["message"]["content"].as_str().expect("it is a text");
        assert!(["\"left\"", "\"right\"", "\"ahead\""].contains(&said), "{said}");
    }
}

/// A text whose length is counted takes room for each of its characters: it is whole as long as there is
/// any, and else ends as an answer does that has as many tokens as it may.
#[test]
fn long_texts_are_whole_or_cut_and_never_an_error() {
    let server = served();
    let text = |least, most| json!({"type": "string", "minLength": least, "maxLength": most});
    let object = |text| {
        json!({"type": "object", "properties": {"story": text}, "required": ["story"],
                               "additionalProperties": false})
    };
    for (seed, ask) in
        [schema(text(1200, 1300)), schema(object(text(1200, 1300)))].iter().enumerate()
    {
        let mut ask = ask.clone();
        ask["max_tokens"] = 1900.into();
        let body = server.post("/v1/chat/completions", &question(seed as u64, ask)).ok();
        let choice = &body["choices"][0];
        let said = choice["message"]["content"].as_str().expect("it is a text");
        assert_eq!(choice["finish_reason"], "stop", "{said}");
        let said: Value = serde_json::from_str(said).expect("it is JSON");
        let said = said["story"].as_str().or(said.as_str()).expect("it is a text");
        assert!((1200..=1300).contains(&said.chars().count()), "{said}");
    }
    let mut ask = schema(text(9000, 9000));
    ask["max_tokens"] = 1900.into();
    let body = server.post("/v1/chat/completions", &question(0, ask)).ok();
    assert_eq!(body["choices"][0]["finish_reason"], "length", "{body}");
    let body = json!({"prompt": "A story: ", "format": text(9000, 9000), "stream": false,
                      "options": {"num_predict": 1900}});
    assert_eq!(server.post("/api/generate", &body).ok()["done_reason"], "length");
    // What nothing can follow is at its end, too.
    let body = json!({"prompt": "x", "grammar": "start: \"a\" b\nb: b \"c\""});
    let body = server.post("/completion", &body).ok();
    assert_eq!((&body["content"], &body["stop_type"]), (&json!("a"), &json!("limit")), "{body}");
}

#[test]
fn forms_that_cannot_be_are_refused_by_name() {
    let server = served();
    let path = "response_format.json_schema.schema";
    let deep = (0..60).fold(
        json!({"type": "null"}),
        |inner, _| json!({"type": "array", "items": inner, "minItems": 1000}),
    );
    let cases = [
        (json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (
            json!({"response_format": {"type": "json_object"}, "grammar": "start: \"x\""}),
            "response_format",
        ),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
        (schema(json!({"type": "nothing"})), path),
        (schema(json!({"$ref": "#/$defs/missing"})), path),
        (schema(json!({"type": "string", "pattern": "("})), path),
        (schema(json!({"type": "integer", "minimum": 3, "maximum": 2})), path),
        (json!({"grammar": "start: nothing"}), "grammar"),
        (json!({"grammar": "start: start"}), "grammar"),
        (json!({"grammar": "root ::= root"}), "grammar"),
        (schema(json!({"$ref": "#"})), "response_format.json_schema.schema.$ref"),
        (
            schema(json!({"anyOf": [{"$ref": "#"}]})),
            "response_format.json_schema.schema.anyOf[0].$ref",
        ),
        (
            schema(json!({"type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"],
                          "additionalProperties": false})),
            "response_format.json_schema.schema.properties.n.$ref",
        ),
        (schema(json!({"enum": [" ".repeat(200_000)]})), path),
        (json!({"grammar": format!("start: \"x\" //{}", " ".repeat(200_000))}), "grammar"),
    ];
    for (more, param) in cases {
        let reply = server.post("/v1/chat/completions", &question(0, more.clone()));
        assert_eq!((reply.status, &*reply.param()), (400, param), "{more}: {reply:?}");
    }
    let alternatives: Vec<_> = (0..3000).map(|n| format!("\"{n} \"")).collect();
    let alternatives = format!("start: {}", alternatives.join("|"));
    for (grammar, said) in [
        ("root ::= root", "nothing fits it"),
        (&alternatives, "at most 2000 are taken"),
        ("start: a\na: \"x\" b", "line 2: unknown name: \"b\""),
        ("start: \"x\"\na: (\n", "line 2: "),
        ("root ::=\n  a b", "line 2: there is no rule `a`"),
        ("root ::= a\na ::= (b\n | c)", "line 2: there is no rule `b`"),
        ("root ::= \"x\" |\nother\nother ::= <|nothing|>", "line 3: "),
    ] {
        let reply = server.post("/v1/chat/completions", &question(0, json!({"grammar": grammar})));
        assert_eq!((reply.status, &*reply.param()), (400, "grammar"), "{grammar}: {reply:?}");
        let message = reply.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.contains(said), "{grammar}: {message}");
    }
    // Of many parts the one that is wrong is found, and why.
    let mut many: serde_json::Map<String, Value> =
        (0..600).map(|n| (format!("p{n}"), json!({"type": "null"}))).collect();
    many.insert(
        "p590".into(),
        json!({"type": "array", "items": {"type": "string", "pattern": "(a"}}),
    );
    let reply = server.post(
        "/v1/chat/completions",
        &question(0, schema(json!({"type": "object", "properties": many}))),
    );
    assert_eq!(
        (reply.status, reply.param()),
        (400, format!("{path}.properties.p590.items")),
        "{reply:?}"
    );
    assert!(reply.body.contains("unclosed group"), "{reply:?}");
    // Too much for anybody: refused, or cut by a limit, and the server goes on.
    let reply = server.post("/v1/chat/completions", &question(0, schema(deep)));
    assert!([200, 400].contains(&reply.status), "{reply:?}");
    assert_eq!(server.get("/health").status, 200);
}

/// A schema of so many definitions, each of which refers to the next.
fn chain(links: usize) -> Value {
    let definition = |link| (format!("d{link}"), json!({"$ref": format!("#/$defs/d{}", link + 1)}));
    let mut definitions: serde_json::Map<String, Value> = (0..links).map(definition).collect();
    definitions.insert(format!("d{links}"), json!({"type": "null"}));
    json!({"$defs": definitions, "$ref": "#/$defs/d0"})
}

/// A grammar of so many rules, each of which leads to the next.
fn rules(links: usize, name: &str) -> String {
    let rule = |link| format!("{name}{link}: {name}{}\n", link + 1);
    let rules: String = (0..links).map(rule).collect();
    format!("start: {name}0\n{rules}{name}{links}: \"x\"\n")
}

/// No request goes deeper than the stack: what could is refused, and what is taken is answered.
#[test]
fn forms_that_go_too_deep_are_refused_and_say_the_limit() {
    let server = served();
    let brackets = |many: usize| format!("start: {}\"x\"{}", "(".repeat(many), ")".repeat(many));
    let inner = |many| format!("start: %json {}", chain(many));
    let mut merged = chain(300);
    for link in 0..300 {
        let part = &mut merged["$defs"][format!("d{link}")];
        *part = json!({"allOf": [part.clone(), {"type": ["null", "object"]}]});
    }
    let path = "response_format.json_schema.schema";
    let cases = [
        (schema(chain(480)), schema(chain(700)), path),
        (schema(chain(1)), schema(merged), path),
        (json!({"grammar": rules(900, "a")}), json!({"grammar": rules(2000, "a")}), "grammar"),
        (json!({"grammar": rules(900, "A")}), json!({"grammar": rules(2000, "A")}), "grammar"),
        (json!({"grammar": brackets(900)}), json!({"grammar": brackets(15_000)}), "grammar"),
        (json!({"grammar": inner(480)}), json!({"grammar": inner(700)}), "grammar"),
    ];
    for (taken, refused, param) in cases {
        let ask = |more: &Value| {
            let mut body = question(0, more.clone());
            body["max_tokens"] = 4.into();
            server.post("/v1/chat/completions", &body)
        };
        let reply = ask(&refused);
        assert_eq!((reply.status, &*reply.param()), (400, param), "{reply:?}");
        let message = reply.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.contains("at most 1000"), "{message}");
        let reply = ask(&taken);
        // Its own limits may refuse it; the stack does not end.
        assert!([200, 400].contains(&reply.status), "{reply:?}");
    }
    assert_eq!(server.get("/health").status, 200);
}
