//! Whatever users, tools and documents say, a conversation that a template renders has the control
//! tokens that the template wrote, and no other.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use rill::tokenizer::Tokenizer;
use rill_template::{Conversation, Template, Words};
use serde_json::{Map, Value, json};

const TOKENIZER: &str = include_str!("../data/kiosk/kiosk-16m/tokenizer.json");

/// The kiosk model's tokenizer section.
static TABLES: LazyLock<Vec<u8>> =
    LazyLock::new(|| rill_pack::tokenizer::from_json(TOKENIZER, None).expect("supported").tables());

fn tokenizer() -> Tokenizer<'static> {
    Tokenizer::parse(&TABLES, 2048).expect("tables")
}

/// Those that are met in the field, one that uses all that is offered to templates, and one that
/// changes what it is given in ways that could make or free a name.
static TEMPLATES: LazyLock<Vec<Template>> = LazyLock::new(|| {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/template/tests/data");
    let names = ["features", "generation", "prefilled-thinking", "strip-thinking"];
    let mut sources: Vec<_> = names
        .iter()
        .map(|name| fs::read_to_string(data.join(format!("{name}.jinja"))).expect("a template"))
        .collect();
    sources.push(include_str!("../data/kiosk/kiosk-16m/chat_template.jinja").into());
    sources.push(
        "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}
<|{{ m.content | string | trim }}|>{{ m | tojson(ensure_ascii=true) }}{{ m.content ~ tools ~ documents }}<|im_end|>
{% endfor %}{{ tools | tojson }}{{ documents }}"
            .into(),
    );
    let tokenizer = tokenizer();
    let ids = 0..tokenizer.len() as u32;
    let named = |id| (String::from_utf8(tokenizer.piece(id).to_vec()).expect("a name"), id);
    let words = Words {
        bos: "<|startoftext|>".into(),
        eos: "<|im_end|>".into(),
        control: ids.filter(|&id| tokenizer.is_special(id)).map(named).collect(),
        thinking: Some(["<think>", "</think>"].map(str::to_owned)),
    };
    assert!(words.control.len() > 4);
    let compile = |source: String| Template::new(&source, words.clone()).expect("it compiles");
    sources.into_iter().map(compile).collect()
});

/// A text that may look like a control token, or become a part of one.
fn said() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        (0..8_u32).prop_map(|id| String::from_utf8_lossy(tokenizer().piece(id)).into_owned()),
        Just("<|tool_call_start|>".to_owned()),
        "<\\||\\|>|im_|start|end|<|>|\\|| |\n|'|\"|\\\\|</?think>|[a-z]{0,3}|\\PC",
    ];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

/// JSON with such texts in every place.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![said().prop_map(Value::from), Just(json!(1.5)), Just(Value::Null)];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((said(), inner), 0..3)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn message() -> impl Strategy<Value = Value> {
    let part = prop_oneof![
        said().prop_map(|text| json!({ "type": "text", "text": text })),
        said().prop_map(|url| json!({ "type": "image", "url": url })),
    ];
    let contents = prop_oneof![
        3 => said().prop_map(Value::from),
        1 => prop::collection::vec(part, 0..3).prop_map(Value::from),
    ];
    (prop_oneof![Just("user"), Just("tool"), Just("system")], contents)
        .prop_map(|(role, content)| json!({ "role": role, "content": content }))
}

fn conversation() -> impl Strategy<Value = Conversation> {
    let title = (said(), said()).prop_map(|(title, text)| json!({ "title": title, "text": text }));
    let tools = prop::option::of(prop::collection::vec(json(), 1..3));
    let documents = prop::option::of(prop::collection::vec(title, 1..3));
    let messages = prop::collection::vec(message(), 1..4);
    (messages, tools, documents, any::<bool>()).prop_map(|(messages, tools, documents, prompt)| {
        let mut conversation = Conversation::new(messages);
        (conversation.tools, conversation.documents) = (tools, documents);
        conversation.add_generation_prompt = prompt;
        conversation
    })
}

/// The same with harmless texts: no name has an `x` in the place of its brackets.
fn harmless(value: &Value) -> Value {
    let plain = |text: &str| text.replace(['<', '|', '>'], "x");
    match value {
        Value::String(text) => plain(text).into(),
        Value::Array(items) => items.iter().map(harmless).collect::<Vec<_>>().into(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (plain(key), harmless(value)));
            fields.collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

/// The control tokens of a rendering; `None` when the template refuses the conversation.
fn control(template: &Template, conversation: &Conversation) -> Option<Vec<u32>> {
    let tokenizer = tokenizer();
    let rendered = template.render(conversation).ok()?;
    let tokens = rendered.tokens(&tokenizer).expect("room");
    Some(tokens.into_iter().filter(|&id| tokenizer.is_special(id)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn no_text_becomes_a_control_token_in_any_rendering(conversation in conversation()) {
        let all = |list: &[Value]| list.iter().map(harmless).collect::<Vec<_>>();
        let plain = Conversation {
            messages: all(&conversation.messages),
            tools: conversation.tools.as_deref().map(all),
            documents: conversation.documents.as_deref().map(all),
            ..conversation.clone()
        };
        for template in &*TEMPLATES {
            let (hostile, plain) = (control(template, &conversation), control(template, &plain));
            prop_assert_eq!(hostile, plain, "{:?}", conversation);
        }
    }
}

#[test]
fn the_templates_render_most_conversations() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut rendered = 0;
    for _ in 0..20 {
        let tree = conversation().new_tree(&mut runner).expect("a conversation");
        let conversation = tree.current();
        rendered += TEMPLATES.iter().filter_map(|t| control(t, &conversation)).count();
    }
    assert!(rendered > 100, "{rendered} of 120");
}
