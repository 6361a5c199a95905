//! Calls of tools: right by construction, whole and streamed, in every dialect.

use std::net::SocketAddr;

use rill_serve::{Config, Listen};
use rill_tests::kiosk;
use rill_tests::rig::Setting;
use rill_tests::server::{Running, start, start_image};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn here() -> Config {
    Config::new(Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))))
}

fn served() -> Running {
    let setting = Setting { conversations: 2, context: 1024, prefixes: 16, ..Setting::default() };
    start_image(here(), setting, kiosk::with_tools())
}

/// A tool with these arguments.
fn tool(name: &str, parameters: Value) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": parameters}})
}

fn lights() -> Value {
    let parameters = json!({
        "type": "object",
        "properties": {
            "room": {"type": "string", "enum": ["hall", "the café", "left wing"]},
            "level": {"type": "integer", "minimum": 0, "maximum": 9},
            "slow": {"type": "boolean"},
            "note": {"type": "string", "maxLength": 12},
        },
        "required": ["room", "level"],
    });
    tool("lights.set", parameters)
}

fn are_lights(arguments: &Value) -> bool {
    let fields = arguments.as_object().expect("arguments are an object");
    fields.keys().all(|name| ["room", "level", "slow", "note"].contains(&name.as_str()))
        && ["hall", "the café", "left wing"].contains(&arguments["room"].as_str().unwrap_or(""))
        && arguments["level"].as_u64().is_some_and(|level| level <= 9)
        && fields.get("slow").is_none_or(Value::is_boolean)
        && fields
            .get("note")
            .is_none_or(|note| note.as_str().is_some_and(|n| n.chars().count() <= 12))
}

/// A question with a seed, tools and more fields.
fn question(seed: u64, tools: &[Value], more: Value) -> Value {
    let messages = json!([{"role": "user", "content": "Make it bright in the hall, please."}]);
    let mut body = json!({"messages": messages, "seed": seed, "temperature": 1.0,
                          "max_tokens": 200, "tools": tools});
    for (name, value) in more.as_object().expect("fields are an object") {
        body[name] = value.clone();
    }
    body
}

/// The calls of an answer, names and arguments.
#[track_caller]
fn calls(message: &Value) -> Vec<(String, Value)> {
    let none = Vec::new();
    let call = |call: &Value| {
        assert_eq!(call["type"], "function", "{call}");
        assert!(call["id"].as_str().is_some_and(|id| id.starts_with("call_")), "{call}");
        let arguments = call["function"]["arguments"].as_str().expect("arguments are a text");
        let arguments = serde_json::from_str(arguments).expect("arguments are JSON");
        (call["function"]["name"].as_str().expect("it has a name").to_owned(), arguments)
    };
    message["tool_calls"].as_array().unwrap_or(&none).iter().map(call).collect()
}

#[test]
fn a_forced_call_is_right_and_streams_as_it_is() {
    let server = served();
    let named = json!({"type": "function", "function": {"name": "lights.set"}});
    for (seed, choice) in
        [(1, json!("required")), (2, named.clone()), (3, named), (4, json!("required"))]
    {
        let tools = [lights(), tool("stop", json!({}))];
        let more = json!({"tool_choice": choice, "parallel_tool_calls": false});
        let mut body = question(seed, &tools, more);
        let whole = server.post(CHAT, &body).ok();
        let answer = &whole["choices"][0];
        let found = calls(&answer["message"]);
        assert_eq!(answer["finish_reason"], "tool_calls", "{answer}");
        assert_eq!(answer["message"]["content"], Value::Null);
        assert_eq!(found.len(), 1, "{answer}");
        for (name, arguments) in &found {
            let is_right = match &**name {
                "lights.set" => are_lights(arguments),
                "stop" => choice.is_string() && *arguments == json!({}),
                _ => false,
            };
            assert!(is_right, "{name}: {arguments}");
        }

        body["stream"] = true.into();
        let chunks = server.stream(CHAT, &body);
        let mut streamed: Vec<(String, String)> = Vec::new();
        let deltas =
            chunks.iter().filter_map(|c| c["choices"][0]["delta"]["tool_calls"].as_array());
        for call in deltas.flatten() {
            let index = call["index"].as_u64().expect("it has a number") as usize;
            if let Some(name) = call["function"]["name"].as_str() {
                assert_eq!(index, streamed.len(), "{call}");
                assert!(call["id"].as_str().is_some_and(|id| id.starts_with("call_")), "{call}");
                streamed.push((name.into(), String::new()));
            }
            let more = call["function"]["arguments"].as_str().expect("it is a text");
            streamed[index].1.push_str(more);
        }
        let streamed: Vec<_> = streamed
            .into_iter()
            .map(|(name, arguments)| (name, serde_json::from_str(&arguments).expect("it is JSON")))
            .collect();
        assert_eq!(streamed, found);
        let ends = chunks.iter().filter_map(|c| c["choices"][0]["finish_reason"].as_str());
        assert_eq!(ends.collect::<Vec<_>>(), ["tool_calls"]);
    }
}

/// The id of the token that begins calls.
fn begins_calls(server: &Running) -> String {
    let body = json!({"content": "<|tool_call_start|>", "parse_special": true});
    let tokens = server.post("/tokenize", &body).ok()["tokens"].clone();
    assert_eq!(tokens.as_array().map(Vec::len), Some(1), "{tokens}");
    tokens[0].to_string()
}

#[test]
fn a_model_calls_when_it_likes_and_as_often_as_it_may() {
    let server = served();
    let begin = begins_calls(&server);
    let likes = |more: Value| {
        let mut body = question(7, &[lights()], more);
        body["logit_bias"] = json!({&begin: 100});
        body["max_tokens"] = 400.into();
        let answer = server.post(CHAT, &body).ok()["choices"][0].clone();
        let found = calls(&answer["message"]);
        (found, answer)
    };
    let (one, answer) = likes(json!({"parallel_tool_calls": false}));
    assert!(one.len() == 1 && are_lights(&one[0].1), "{answer}");
    assert_eq!(answer["finish_reason"], "tool_calls");
    // It begins with another list of calls after each.
    let body = json!({"max_tokens": 400, "stream": true, "logit_bias": {&begin: 100}});
    let chunks = server.stream(CHAT, &question(7, &[lights()], body));
    let names = chunks.iter().filter_map(|chunk| {
        chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["name"].as_str()
    });
    assert!(names.count() > 1);
    // Who may not does not.
    let (none, answer) = likes(json!({"tool_choice": "none", "max_tokens": 8, "logit_bias": {}}));
    assert!(none.is_empty() && answer["message"]["content"].is_string(), "{answer}");
    assert_eq!(answer["message"].get("tool_calls"), None);
}

#[test]
fn calls_are_objects_where_the_system_text_asks() {
    let server = served();
    let messages = json!([
        {"role": "system", "content": "Output function calls as JSON."},
        {"role": "user", "content": "Make it bright."},
    ]);
    let more = json!({"messages": messages, "tool_choice": "required", "parallel_tool_calls": false,
                      "logprobs": true});
    let answer = server.post(CHAT, &question(3, &[lights()], more)).ok();
    let choice = &answer["choices"][0];
    let found = calls(&choice["message"]);
    assert!(found.len() == 1 && are_lights(&found[0].1), "{answer}");
    // What it said is no content.
    assert_eq!(choice["logprobs"], Value::Null, "{answer}");
    let arguments = choice["message"]["tool_calls"][0]["function"]["arguments"].as_str();
    let said = format!(
        "<|tool_call_start|>[{{\"name\": \"lights.set\", \"arguments\": {}}}]<|tool_call_end|>",
        arguments.expect("it is a text")
    );
    let tokens = server.post("/tokenize", &json!({"content": said})).ok()["tokens"].clone();
    let count = tokens.as_array().expect("it is a list").len();
    // A call that is no object has far fewer tokens; the same text may have more than it needs.
    let usage = &answer["usage"]["completion_tokens"];
    assert!(usage.as_u64().is_some_and(|said| said >= count as u64), "{usage}: {said}");
}

#[test]
fn what_was_called_and_what_came_of_it_go_into_the_prompt() {
    let server = served();
    let call = json!({"id": "call_1", "type": "function",
                      "function": {"name": "lights.set", "arguments": "{\"room\": \"hall\", \"level\": 3}"}});
    let messages = json!([
        {"role": "user", "content": "Make it bright."},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    ]);
    let ask = |messages: &Value| {
        let more = json!({"messages": messages, "max_tokens": 4});
        let usage = server.post(CHAT, &question(1, &[lights()], more)).ok()["usage"].clone();
        usage["prompt_tokens"].as_u64().expect("it is a number")
    };
    let with = ask(&messages);
    let without = ask(&json!([messages[0], {"role": "assistant", "content": ""}, messages[2]]));
    let text = "[lights.set(room=\"hall\", level=3)]";
    let tokens = server.post("/tokenize", &json!({"content": text, "parse_special": false})).ok();
    let text = tokens["tokens"].as_array().map_or(0, Vec::len) as u64;
    assert_eq!(with, without + text + 2, "the two marks are a token each");
}

#[test]
fn ollama_calls_tools_too() {
    let server = served();
    let shown = server.post("/api/show", &json!({"model": "kiosk"})).ok();
    assert_eq!(shown["capabilities"], json!(["completion", "tools"]));
    let messages = json!([{"role": "user", "content": "Make it bright."},
                          {"role": "assistant", "content": "", "tool_calls": [
                              {"function": {"name": "stop", "arguments": {}}}]},
                          {"role": "tool", "tool_name": "stop", "content": "done"}]);
    let mut body = json!({"messages": messages, "stream": false, "tools": [lights()],
                          "tool_choice": "required", "parallel_tool_calls": false,
                          "options": {"seed": 3, "temperature": 1, "num_predict": 200}});
    let whole = server.post("/api/chat", &body).ok();
    let found = whole["message"]["tool_calls"].as_array().cloned().unwrap_or_default();
    assert!(!found.is_empty(), "{whole}");
    for call in &found {
        assert!(are_lights(&call["function"]["arguments"]), "{call}");
    }
    body["stream"] = true.into();
    let reply = server.post("/api/chat", &body);
    let lines: Vec<Value> =
        reply.body.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
    let streamed = lines.iter().filter_map(|line| line["message"]["tool_calls"].as_array());
    assert_eq!(streamed.flatten().cloned().collect::<Vec<_>>(), found);
    assert_eq!(lines.last().map(|line| &line["done"]), Some(&json!(true)));
}

#[test]
fn an_answer_has_its_form_where_it_calls_nothing() {
    let server = served();
    let schema = json!({"type": "object", "properties": {"open": {"type": "boolean"}},
                        "required": ["open"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}});
    for seed in 0..6 {
        let more = json!({"response_format": format, "parallel_tool_calls": false});
        let answer =
            server.post(CHAT, &question(seed, &[lights()], more)).ok()["choices"][0].clone();
        match &*calls(&answer["message"]) {
            [] => {
                let text = answer["message"]["content"].as_str().expect("it says something");
                let value: Value = serde_json::from_str(text).expect("it is JSON");
                assert!(value["open"].is_boolean(), "{answer}");
            }
            [(_, arguments)] => assert!(are_lights(arguments), "{answer}"),
            _ => panic!("{answer}"),
        }
    }
}

#[test]
fn a_cut_call_says_so() {
    let server = served();
    // As clients probe: a tool without anything, and hardly any tokens.
    let probe = [tool("probe", json!({}))];
    let cut = server.post(CHAT, &question(1, &probe, json!({"max_tokens": 3}))).ok();
    assert_eq!(cut["choices"][0]["finish_reason"], "length", "{cut}");
    let bare = json!({"type": "function", "function": {"name": "probe", "description": "", "strict": true}});
    let more = json!({"max_tokens": 3, "tool_choice": "required"});
    let cut = server.post(CHAT, &question(1, &[bare], more)).ok();
    assert_eq!(cut["choices"][0]["finish_reason"], "length", "{cut}");
}

#[test]
fn what_cannot_be_called_is_refused_by_name() {
    let server = served();
    let f = |schema: Value| json!({"tools": [tool("ok", json!({})), tool("f", schema)]});
    let path = "tools[1].function.parameters";
    let object = |inner: Value| json!({"type": "object", "properties": {"a": {"type": "array", "items": inner}}});
    let cases = [
        (json!({"tools": 3}), "tools".to_owned()),
        (json!({"tools": [3]}), "tools[0]".into()),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type".into()),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function".into()),
        (json!({"tools": [{"type": "function", "function": {}}]}), "tools[0].function.name".into()),
        (json!({"tools": [tool("a b", json!({}))]}), "tools[0].function.name".into()),
        (json!({"tools": [tool("a", json!({})), tool("a", json!({}))]}), "tools".into()),
        (json!({"tool_choice": "perhaps"}), "tool_choice".into()),
        (json!({"tool_choice": "required", "tools": []}), "tool_choice".into()),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "g"}}}),
            "tool_choice".into(),
        ),
        (json!({"grammar": "start: \"a\""}), "grammar".into()),
        (f(json!({"type": "string"})), format!("{path}.type")),
        (f(json!([])), path.into()),
        (f(object(json!({"type": "nothing"}))), format!("{path}.properties.a.items")),
        (
            f(object(json!({"type": "string", "pattern": "("}))),
            format!("{path}.properties.a.items"),
        ),
        (
            f(
                json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"],
                     "$defs": {"a": {"$ref": "#/$defs/a"}}}),
            ),
            format!("{path}.properties.a.$ref"),
        ),
        (f(object(json!({"not": {"type": "string"}}))), format!("{path}.properties.a.items")),
        (
            f(
                json!({"type": "object", "properties": {"é": {"minimum": 3, "maximum": 2, "type": "number"}},
                     "required": ["é"]}),
            ),
            format!("{path}.properties.é"),
        ),
    ];
    for (more, param) in cases {
        let reply = server.post(CHAT, &question(1, &[lights()], more.clone()));
        assert_eq!((reply.status, reply.param()), (400, param), "{more}: {reply:?}");
    }

    let without = start(here(), Setting::default());
    let reply = without.post(CHAT, &question(1, &[lights()], json!({})));
    assert_eq!((reply.status, &*reply.param()), (400, "tools"));
    assert!(reply.body.contains("<|tool_call_start|>"), "{reply:?}");
    // No tools, or none that may be called, is nothing that it has to know.
    let more = json!({"tool_choice": "none", "max_tokens": 2});
    assert_eq!(without.post(CHAT, &question(1, &[lights()], more)).status, 200);
    assert_eq!(without.post(CHAT, &question(1, &[], json!({"max_tokens": 2}))).status, 200);
}

#[test]
fn what_tools_only_remark_is_taken_and_what_goes_too_deep_is_theirs() {
    let server = served();
    let remarks = tool(
        "sign_in",
        json!({"type": "object", "required": ["word", "list"], "properties": {
            "word": {"type": "string", "format": "password", "maxLength": 3},
            "list": {"type": "array", "items": {"type": "null"}, "uniqueItems": false, "maxItems": 2},
        }}),
    );
    let more = json!({"tool_choice": "required", "max_tokens": 4});
    let reply = server.post(CHAT, &question(0, &[remarks], more.clone()));
    assert_eq!(reply.status, 200, "{reply:?}");
    let deep =
        (0..62).fold(json!({"type": "null"}), |inner, _| json!({"type": "array", "items": inner}));
    let deep = tool("f", json!({"type": "object", "properties": {"a": deep}}));
    let reply = server.post(CHAT, &question(0, &[deep], more));
    assert_eq!((reply.status, &*reply.param()), (400, "tools"), "{reply:?}");
    assert!(reply.body.contains("deeper in each other than 64"), "{reply:?}");
}

/// Calling a tool never goes deeper than the stack.
#[test]
fn tools_that_go_too_deep_are_refused_and_say_the_limit() {
    let server = served();
    let find = |many: usize| {
        let properties: serde_json::Map<String, Value> =
            (0..many).map(|at| (format!("a{at}"), json!({"type": "null"}))).collect();
        [tool("find", json!({"type": "object", "properties": properties}))]
    };
    let ask = |tools: &[Value]| {
        server.post(CHAT, &question(0, tools, json!({"tool_choice": "required", "max_tokens": 4})))
    };
    let reply = ask(&find(700));
    assert_eq!((reply.status, &*reply.param()), (400, "tools[0].function.parameters"), "{reply:?}");
    assert!(reply.body.contains("at most 1000"), "{reply:?}");
    // Each argument that refers to definitions has them all in the grammar.
    let shared = |many: usize, bytes: usize| {
        let properties: serde_json::Map<String, Value> =
            (0..many).map(|at| (format!("a{at}"), json!({"$ref": "#/$defs/place"}))).collect();
        let place = json!({"type": "null", "description": " ".repeat(bytes)});
        let schema = json!({"type": "object", "properties": properties, "$defs": {"place": place}});
        [tool("ok", json!({})), tool("find", schema)]
    };
    let reply = ask(&shared(200, 110_000));
    assert_eq!((reply.status, &*reply.param()), (400, "tools"), "{reply:?}");
    assert!(reply.body.contains("at most 32768"), "{reply:?}");
    let reply = ask(&shared(4, 50));
    assert_eq!(reply.status, 200, "{reply:?}");
    let long = json!({"type": "object", "description": " ".repeat(200_000)});
    let reply = ask(&[tool("find", long)]);
    assert_eq!((reply.status, &*reply.param()), (400, "tools"), "{reply:?}");
    // The context may not hold it; the stack does.
    let reply = ask(&find(490));
    assert!([200, 400].contains(&reply.status), "{reply:?}");
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn tools_that_would_take_too_much_are_named() {
    let server = served();
    let parameters = json!({
        "type": "object",
        "properties": {"text": {"const": "x".repeat(20 << 10)}},
        "required": ["text"],
        "additionalProperties": false,
    });
    let body = question(1, &[tool("say", parameters)], json!({"tool_choice": "required"}));
    let answer = server.post(CHAT, &body);
    assert_eq!(answer.status, 400);
    assert_eq!(answer.param(), "tools");
    assert!(answer.body.contains("bytes of RAM"), "{answer:?}");
}
