//! What a form leaves no choice of is computed in one batch, and changes no word: answers of random
//! schemas, grammars and tools are the same with drafts and without, with their log-probabilities and
//! counts.

use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rill_serve::{Config, Listen};
use rill_tests::kiosk;
use rill_tests::rig::Setting;
use rill_tests::server::{Running, start_image};
use serde_json::{Map, Value, json};

const CHAT: &str = "/v1/chat/completions";

fn served(draft: bool) -> Running {
    served_for(3, draft)
}

fn served_for(conversations: u32, draft: bool) -> Running {
    let config = Config::new(Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))));
    let setting = Setting { conversations, context: 1024, draft, ..Setting::default() };
    start_image(config, setting, kiosk::with_tools())
}

/// Schemas that leave now much choice, now none.
fn schema() -> impl Strategy<Value = Value> {
    let word = "[a-z é\"]{1,12}";
    let leaf = prop_oneof![
        word.prop_map(|word| json!({"const": word})),
        prop::collection::btree_set(word, 1..4).prop_map(|words| json!({"enum": words})),
        (0..40).prop_map(|most| json!({"type": "integer", "minimum": most, "maximum": most + 5})),
        Just(json!({"type": "boolean"})),
        Just(json!({"type": "null"})),
        (0..8).prop_map(|most| json!({"type": "string", "maxLength": most})),
    ];
    leaf.prop_recursive(3, 12, 4, move |inner| {
        let object = prop::collection::btree_map("[a-zA-Z_]{1,16}", inner.clone(), 1..4);
        prop_oneof![
            (object, any::<bool>()).prop_map(|(fields, all)| {
                let required: Vec<_> = fields.keys().filter(|_| all).cloned().collect();
                json!({"type": "object", "properties": fields, "required": required,
                       "additionalProperties": false})
            }),
            (inner.clone(), 0..3).prop_map(|(items, least)| {
                json!({"type": "array", "items": items, "minItems": least, "maxItems": least + 1})
            }),
            prop::collection::vec(inner, 1..3).prop_map(|any| json!({"anyOf": any})),
        ]
    })
}

/// Grammars in which choices and forced texts take turns.
fn grammar() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-zA-Z ,.é]{1,20}".prop_map(|text| Value::from(text).to_string()),
        Just("(\"yes\" | \"no\")".to_owned()),
        Just("/[a-z]{1,6}/".to_owned()),
        Just("/[0-9]+/ \".\"".to_owned()),
        Just("(\"so, \"){0,2}".to_owned()),
    ];
    prop::collection::vec(piece, 1..8).prop_map(|pieces| format!("start: {}", pieces.join(" ")))
}

/// What a request says about its form.
fn form() -> impl Strategy<Value = Value> {
    let arguments = prop::collection::btree_map("[a-z_]{1,10}", schema(), 0..4);
    let tool = (arguments, any::<bool>()).prop_map(|(properties, several)| {
        let required: Vec<_> = properties.keys().cloned().collect();
        let parameters = json!({"type": "object", "properties": properties, "required": required});
        let function = json!({"name": "lights.set_everywhere", "parameters": parameters});
        json!({"tools": [{"type": "function", "function": function}], "tool_choice": "required",
               "parallel_tool_calls": several})
    });
    prop_oneof![
        schema().prop_map(|schema| {
            json!({"response_format": {"type": "json_schema",
                   "json_schema": {"name": "answer", "strict": true, "schema": schema}}})
        }),
        grammar().prop_map(|grammar| json!({"grammar": grammar})),
        tool,
    ]
}

/// A question with more fields.
fn question(more: &Value, seed: u64, temperature: f64, most: u64) -> Value {
    let mut body = json!({
        "messages": [{"role": "user", "content": "Where is the lift?"}],
        "seed": seed, "temperature": temperature, "max_tokens": most,
        "logprobs": true, "top_logprobs": 3,
    });
    let fields: Map<String, Value> = more.as_object().expect("fields are an object").clone();
    body.as_object_mut().expect("it is an object").extend(fields);
    body
}

/// All that an answer says, but for its name and time.
fn said(server: &Running, body: &Value) -> Value {
    let mut answer = server.post(CHAT, body).json();
    if let Value::Object(fields) = &mut answer {
        fields.retain(|name, _| !["id", "created"].contains(&&**name));
    }
    // Calls have names of their own.
    if let Some(Value::Array(calls)) = answer.pointer_mut("/choices/0/message/tool_calls") {
        calls.iter_mut().for_each(|call| call["id"] = Value::Null);
    }
    // How much was known before depends on who asked before.
    if let Some(details) = answer.pointer_mut("/usage/prompt_tokens_details") {
        *details = Value::Null;
    }
    answer
}

/// A figure of a server.
fn counted(server: &Running, name: &str) -> u64 {
    // The engine tells what it counted after a step, and answers this after that.
    server.get("/operator/state").ok();
    let page = server.get("/metrics").body;
    let found = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {name} in {page}")).parse().expect("it is a number")
}

#[test]
fn answers_of_a_form_are_the_same_with_drafts_and_without() {
    let [without, with] = [false, true].map(served);
    let one = || {
        let temperature = prop::sample::select(&[0.0, 0.7, 1.5][..]);
        (form(), any::<u32>(), temperature, 1..80_u64)
    };
    let config = ProptestConfig { cases: 24, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&(one(), one()), |cases| {
            let bodies = [cases.0, cases.1]
                .map(|(form, seed, heat, most)| question(&form, u64::from(seed), heat, most));
            let plain = bodies.each_ref().map(|body| said(&without, body));
            prop_assert_eq!(&said(&with, &bodies[0]), &plain[0]);
            // Beside each other too.
            std::thread::scope(|scope| {
                let side = bodies.each_ref().map(|body| scope.spawn(|| said(&with, body)));
                let side = side.map(|thread| thread.join().expect("no panic"));
                prop_assert_eq!(&side, &plain);
                Ok(())
            })
        })
        .expect("they are the same");
    assert_eq!(counted(&without, "rill_drafted_total"), 0);
    assert_eq!(counted(&without, "rill_drafts_forced_total"), 0);
    let [forced, accepted] =
        ["forced", "accepted"].map(|what| counted(&with, &format!("rill_drafts_{what}_total")));
    assert!(forced > 200 && accepted >= forced, "{accepted} of {forced} forced ones were right");
}

#[test]
fn a_form_without_choice_takes_a_batch_for_many_tokens() {
    let server = served(true);
    let sentence = "The lift is at the end of the hall on the left, behind the stairs.";
    let body = question(&json!({"grammar": format!("start: \"{sentence}\"")}), 1, 1.0, 200);
    let answer = said(&server, &body);
    assert_eq!(answer["choices"][0]["message"]["content"], sentence);
    let tokens = answer["usage"]["completion_tokens"].as_u64().expect("it is a number");
    let text = server.post("/tokenize", &json!({"content": sentence})).ok();
    // As the tokenizer writes it, and what ends it.
    assert_eq!(text["tokens"].as_array().map(Vec::len), Some(tokens as usize - 1), "{answer}");
    // All but the first of each batch, the last word, which a longer one could begin with, and the end.
    let [forced, accepted] =
        ["forced", "accepted"].map(|what| counted(&server, &format!("rill_drafts_{what}_total")));
    assert!(
        forced >= tokens - 4 && accepted == forced,
        "{accepted} of {forced} in {tokens} tokens"
    );
}

#[test]
fn more_guesses_came_true_than_one_step_can_tell() {
    // With so many conversations there is room for the logits of more rows than a client hears of at once.
    let server = &served_for(40, true);
    let sentence = "The lift is at the end of the hall on the left, behind the stairs. ".repeat(8);
    let body = question(&json!({"grammar": format!("start: {:?}", sentence.trim())}), 1, 1.0, 300);
    std::thread::scope(|scope| {
        let mut beside = question(&json!({"ignore_eos": true}), 1, 1.0, 300);
        beside["messages"][0]["content"] = json!("Tell me something else.");
        let beside = scope.spawn(move || said(server, &beside));
        let answer = said(server, &body);
        assert_eq!(answer["choices"][0]["message"]["content"], sentence.trim());
        beside.join().expect("no panic");
    });
}
