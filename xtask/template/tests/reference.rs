//! What transformers renders, byte for byte. `data/make_reference.py` made the reference.

use std::fs;
use std::path::Path;

use rill_template::{Conversation, Template, Words};
use serde_json::{Value, from_str};

const NAMES: [&str; 9] = [
    "<|startoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|tool_call_start|>",
    "<|tool_call_end|>",
    "<|tool_response_start|>",
    "<|tool_response_end|>",
    "<think>",
    "</think>",
];

fn words() -> Words {
    let control = NAMES.iter().zip(1..).map(|(name, id)| ((*name).to_owned(), id)).collect();
    let thinking = Some(["<think>", "</think>"].map(str::to_owned));
    Words { bos: NAMES[0].into(), eos: NAMES[2].into(), control, thinking }
}

/// A conversation of the reference: keyword arguments of `apply_chat_template`.
fn conversation(json: &Value, now: i64) -> Conversation {
    let mut arguments = json.as_object().expect("a map").clone();
    let list = |value: Option<Value>| value.map(|value| value.as_array().expect("a list").clone());
    let messages = list(arguments.shift_remove("messages")).expect("messages");
    let tools = list(arguments.shift_remove("tools"));
    let documents = list(arguments.shift_remove("documents"));
    let prompt = arguments.shift_remove("add_generation_prompt").is_some_and(|value| value == true);
    let mut conversation = Conversation::new(messages);
    conversation.tools = tools;
    conversation.documents = documents;
    conversation.add_generation_prompt = prompt;
    conversation.arguments = arguments;
    conversation.now = now;
    conversation
}

#[test]
fn every_conversation_equals_the_reference() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let read = |name: &str| fs::read_to_string(data.join(name)).expect("in the repository");
    let reference: Value = from_str(&read("reference.json")).expect("JSON");
    let now = reference["now"].as_i64().expect("a time");
    let cases = reference["cases"].as_array().expect("a list");
    assert!(cases.len() > 40);
    let mut wrong = Vec::new();
    for case in cases {
        let source = read(case["template"].as_str().expect("a name"));
        let template = Template::new(&source, words()).expect("it compiles");
        let rendered = template.render(&conversation(&case["conversation"], now));
        let found = match rendered {
            Ok(rendered) => rendered.text(),
            Err(error) => error.to_string(),
        };
        let expected = match case["error"].as_str() {
            Some(error) => format!("the chat template refuses: {error}"),
            None => case["text"].as_str().expect("a text").to_owned(),
        };
        if found != expected {
            let lines = found.lines().zip(expected.lines());
            let line = lines.clone().find(|(found, expected)| found != expected);
            wrong.push(format!("{}, {}: {line:#?}\n{found}", case["template"], case["name"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
