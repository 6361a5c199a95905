//! OpenAI's Responses: whole and as events, and what a request may bring.

use std::net::SocketAddr;

use rill_serve::{Config, Listen};
use rill_tests::kiosk;
use rill_tests::rig::Setting;
use rill_tests::server::{Running, start_image};
use serde_json::{Value, json};

const RESPONSES: &str = "/v1/responses";

fn served() -> Running {
    let config = Config::new(Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))));
    let setting = Setting { conversations: 2, context: 1024, prefixes: 16, ..Setting::default() };
    start_image(config, setting, kiosk::with_tools())
}

/// The events of a stream: each says its name twice, and has the next number.
#[track_caller]
fn events(server: &Running, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    body["stream"] = true.into();
    let reply = server.post(RESPONSES, &body);
    assert_eq!(reply.status, 200, "{reply:?}");
    let one = |(number, text): (usize, &str)| {
        let (name, data) = text.split_once('\n').expect("an event has two lines");
        let event: Value = serde_json::from_str(data.strip_prefix("data: ").expect("it has data"))
            .expect("it is JSON");
        assert_eq!(name.strip_prefix("event: "), event["type"].as_str());
        assert_eq!(event["sequence_number"], number);
        event
    };
    reply.body.split_terminator("\n\n").enumerate().map(one).collect()
}

/// A response without what differs between two of them.
fn without_names(response: &Value) -> Value {
    let mut response = response.clone();
    for name in ["id", "created_at"] {
        response[name] = Value::Null;
    }
    response["usage"]["input_tokens_details"] = Value::Null;
    for item in response["output"].as_array_mut().expect("it has an output") {
        item["id"] = Value::Null;
        if item["type"] == "function_call" {
            item["call_id"] = Value::Null;
        }
    }
    response
}

#[test]
fn a_response_says_what_a_chat_does() {
    let server = served();
    let body = json!({"model": "kiosk", "instructions": "You are a kiosk.", "input": "Where is the lift?",
                      "temperature": 0, "max_output_tokens": 20, "store": true});
    let whole = server.post(RESPONSES, &body).ok();
    let messages = json!([{"role": "system", "content": "You are a kiosk."},
                          {"role": "user", "content": "Where is the lift?"}]);
    let chat = json!({"messages": messages, "temperature": 0, "max_tokens": 20});
    let chat = server.post("/v1/chat/completions", &chat).ok();
    let text = &chat["choices"][0]["message"]["content"];
    let item = &whole["output"][0];
    assert_eq!((&item["type"], &item["content"][0]["text"]), (&json!("message"), text));
    let [usage, other] = [&whole["usage"], &chat["usage"]];
    assert_eq!(usage["input_tokens"], other["prompt_tokens"]);
    assert_eq!(usage["output_tokens"], other["completion_tokens"]);
    assert_eq!(usage["total_tokens"], other["total_tokens"]);
    let is_cut = chat["choices"][0]["finish_reason"] == "length";
    assert_eq!(whole["status"], if is_cut { "incomplete" } else { "completed" });
    assert_eq!(whole["incomplete_details"]["reason"].is_string(), is_cut);
    assert_eq!(whole["instructions"], "You are a kiosk.");

    let events = events(&server, &body);
    let kinds: Vec<_> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    let deltas = |kind: &&str| *kind != "response.output_text.delta";
    let end = if is_cut { "response.incomplete" } else { "response.completed" };
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        end,
    ];
    assert_eq!(kinds.iter().copied().filter(|kind| deltas(kind)).collect::<Vec<_>>(), expected);
    let pieces = events.iter().filter_map(|event| event["delta"].as_str());
    assert_eq!(&json!(pieces.collect::<String>()), text);
    let last = &events.last().expect("it has events")["response"];
    assert_eq!(without_names(last), without_names(&whole));
    assert!(last["usage"]["input_tokens_details"]["cached_tokens"].as_u64() > Some(0), "{last}");
}

#[test]
fn items_are_a_conversation() {
    let server = served();
    let call =
        json!({"type": "function_call", "call_id": "call_1", "name": "stop", "arguments": "{}"});
    let tools = json!([{"type": "function", "name": "stop", "strict": true,
                        "parameters": {"type": "object", "properties": {}}}]);
    let body = json!({
        "input": [
            {"role": "developer", "content": "You are a kiosk."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Stop it."}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
             "content": [{"type": "output_text", "text": "I do.", "annotations": []}]},
            call,
            {"type": "function_call_output", "call_id": "call_1", "output": "done"},
        ],
        "tools": tools, "temperature": 0, "max_output_tokens": 8,
    });
    let whole = server.post(RESPONSES, &body).ok();
    let calls = json!([{"id": "call_1", "type": "function", "function": {"name": "stop", "arguments": "{}"}}]);
    let messages = json!([
        {"role": "system", "content": "You are a kiosk."},
        {"role": "user", "content": "Stop it."},
        {"role": "assistant", "content": "I do.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    ]);
    let tools = json!([{"type": "function", "function": {"name": "stop",
                        "parameters": {"type": "object", "properties": {}}}}]);
    let chat = json!({"messages": messages, "tools": tools, "temperature": 0, "max_tokens": 8});
    let chat = server.post("/v1/chat/completions", &chat).ok();
    assert_eq!(whole["usage"]["input_tokens"], chat["usage"]["prompt_tokens"]);
    let text = &chat["choices"][0]["message"]["content"];
    assert_eq!(&whole["output"][0]["content"][0]["text"], text);
}

#[test]
fn calls_and_forms_are_those_of_chats() {
    let server = served();
    let tool = json!({"type": "function", "name": "go", "parameters": {
        "type": "object", "properties": {"floor": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["floor"], "additionalProperties": false}});
    let body = json!({"input": "Take me up.", "tools": [tool], "parallel_tool_calls": false,
                      "tool_choice": {"type": "function", "name": "go"}, "temperature": 1, "seed": 5});
    let whole = server.post(RESPONSES, &body).ok();
    let call = &whole["output"][0];
    assert_eq!((&call["type"], &call["name"]), (&json!("function_call"), &json!("go")), "{whole}");
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!(arguments["floor"].as_u64().is_some_and(|floor| floor <= 9), "{call}");
    assert_eq!(
        (whole["output"].as_array().map(Vec::len), &whole["status"]),
        (Some(1), &json!("completed"))
    );
    let events = events(&server, &body);
    let of = |kind: &str| {
        events.iter().filter(|event| event["type"] == kind).cloned().collect::<Vec<_>>()
    };
    let deltas = of("response.function_call_arguments.delta");
    let pieces: String = deltas.iter().filter_map(|event| event["delta"].as_str()).collect();
    let done = of("response.function_call_arguments.done");
    assert_eq!(done.len(), 1);
    assert_eq!(
        (&json!(pieces), &call["arguments"]),
        (&done[0]["arguments"], &done[0]["arguments"])
    );

    let schema = json!({"type": "object", "properties": {"open": {"type": "boolean"}},
                        "required": ["open"], "additionalProperties": false});
    let format =
        json!({"format": {"type": "json_schema", "name": "a", "strict": true, "schema": schema}});
    let whole = server.post(RESPONSES, &json!({"input": "Is it open?", "text": format})).ok();
    let text = whole["output"][0]["content"][0]["text"].as_str().expect("it says something");
    assert!(
        serde_json::from_str::<Value>(text).expect("it is JSON")["open"].is_boolean(),
        "{text}"
    );
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let server = served();
    let cases = [
        (json!({}), "input"),
        (json!({"input": 3}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": ["x"]}), "input[0]"),
        (json!({"input": [{"type": "item_reference", "id": "x"}]}), "input[0].type"),
        (json!({"input": [{"role": "king", "content": "x"}]}), "input[0].role"),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
            "input[0].content[0].type",
        ),
        (
            json!({"input": [{"type": "function_call", "name": "f", "arguments": "["}]}),
            "input[0].arguments",
        ),
        (json!({"input": [{"type": "function_call_output", "call_id": "1"}]}), "input[0].output"),
        (json!({"input": "x", "previous_response_id": "resp_1"}), "previous_response_id"),
        (json!({"input": "x", "background": true}), "background"),
        (json!({"input": "x", "reasoning": {"effort": "mad"}}), "reasoning.effort"),
        (json!({"input": "x", "text": {"format": {"type": "json_schema"}}}), "text.format.schema"),
        (
            json!({"input": "x", "text": {"format": {"type": "json_schema", "schema": {"properties": {"a": {"type": "b"}}}}}}),
            "text.format.schema.properties.a",
        ),
        (json!({"input": "x", "tools": [{"type": "function"}]}), "tools[0].name"),
        (
            json!({"input": "x", "tools": [{"type": "function", "name": "f", "parameters": {"properties": {"a": {"type": "b"}}}}]}),
            "tools[0].parameters.properties.a",
        ),
        (json!({"input": "x", "conversation": "c"}), "conversation"),
        (json!({"input": "x", "truncation": "auto"}), "truncation"),
        (json!({"input": "x", "top_logprobs": 3}), "top_logprobs"),
        (json!({"input": "x", "include": ["everything"]}), "include"),
    ];
    for (body, param) in cases {
        let reply = server.post(RESPONSES, &body);
        assert_eq!((reply.status, &*reply.param()), (400, param), "{body}: {reply:?}");
    }
}
