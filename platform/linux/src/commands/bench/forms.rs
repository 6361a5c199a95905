//! What it costs that an answer has a form: the sets of tokens that may come, against the token itself.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use rill_linux::engine::Engine;
use rill_serve::form::{Calls, Forms, Marks, Spent, Tool, Wanted};
use rill_serve::{Limits, Room};
use serde::Serialize;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::table;

/// An answer that has a form.
struct Example {
    name: &'static str,
    wanted: Wanted,
    text: String,
}

/// What one form costs.
#[derive(Debug, Serialize)]
pub struct Cost {
    form: &'static str,
    /// Of the answer, and those of them of which there is no choice.
    form_tokens: usize,
    forced_tokens: usize,
    /// Until the form can be used, once a request.
    compile_seconds: f64,
    /// For each token, and for the one that takes longest.
    mean_mask_seconds: f64,
    most_mask_seconds: f64,
    /// The mean as a share of the time of a token.
    share_of_token: f64,
}

/// Times of one answer.
struct Walk {
    compile: Duration,
    masks: Vec<Duration>,
    forced: usize,
}

/// Measures forms `times` times, for a model whose tokens take so many seconds.
pub fn measure(engine: &Engine<'_>, times: u32, token: f64) -> Result<Vec<Cost>, Failure> {
    let wrong = |error| Failure::Usage(format!("--forms: {error}"));
    examples(engine)
        .into_iter()
        .map(|example| cost(engine, example, times, token).map_err(wrong))
        .collect()
}

fn cost(engine: &Engine<'_>, example: Example, times: u32, token: f64) -> Result<Cost, String> {
    let walks: Vec<Walk> = (0..times).map(|_| walk(engine, &example)).collect::<Result<_, _>>()?;
    let masks = || walks.iter().flat_map(|walk| &walk.masks);
    let first = walks.first().ok_or("nothing was measured")?;
    let mean = masks().sum::<Duration>().as_secs_f64() / masks().count().max(1) as f64;
    let compile = walks.iter().map(|walk| walk.compile).sum::<Duration>() / times;
    Ok(Cost {
        form: example.name,
        form_tokens: first.masks.len(),
        forced_tokens: first.forced,
        compile_seconds: compile.as_secs_f64(),
        mean_mask_seconds: mean,
        most_mask_seconds: masks().max().copied().unwrap_or_default().as_secs_f64(),
        share_of_token: mean / token,
    })
}

/// Takes the answer token by token, each the longest that may come.
fn walk(engine: &Engine<'_>, example: &Example) -> Result<Walk, String> {
    let (tokenizer, chat) = (engine.session.tokenizer(), engine.session.chat());
    let vocab = engine.image.manifest.shape.vocab;
    let end = chat.close.or(chat.stops.first().copied()).ok_or("no token ends an answer")?;
    let room = Room::new(Limits::default().forms);
    let mut forms = Forms::new(tokenizer, vocab, end, Marks::of(tokenizer), room)?;
    let start = Instant::now();
    let made = forms.form(example.wanted.clone(), tokenizer);
    let mut form = made.map_err(|error| error.to_string())?.as_ref().clone();
    let mut walk = Walk { compile: start.elapsed(), masks: Vec::new(), forced: 0 };
    let known = u32::try_from(tokenizer.len()).unwrap_or(u32::MAX).min(vocab);
    let spent = |error: Spent| error.to_string();
    let mut rest = example.text.as_bytes();
    while !rest.is_empty() {
        let start = Instant::now();
        let allowed = form.allowed().map_err(spent)?.ok_or("any token may come")?;
        let time = start.elapsed();
        let may_come = |id: &u32| {
            let word = allowed.get(*id as usize / 32).copied().unwrap_or(0);
            word >> (id % 32) & 1 == 1
        };
        let is_next =
            |id: &u32| !tokenizer.piece(*id).is_empty() && rest.starts_with(tokenizer.piece(*id));
        let longest =
            (0..known).filter(may_come).filter(is_next).max_by_key(|id| tokenizer.piece(*id).len());
        let id = longest.ok_or_else(|| format!("{} does not take its example", example.name))?;
        let ones = allowed.iter().map(|word| word.count_ones()).sum::<u32>();
        walk.forced += usize::from(ones == 1);
        let start = Instant::now();
        form.accept(id, true, tokenizer).map_err(spent)?;
        walk.masks.push(time + start.elapsed());
        rest = &rest[tokenizer.piece(id).len()..];
    }
    Ok(walk)
}

/// Of every kind of form one, as far as the model has it.
fn examples(engine: &Engine<'_>) -> Vec<Example> {
    let answer = json!({
        "title": "The lift in the east wing stands still again",
        "place": {"building": "east wing", "floor": 3, "accessible": false},
        "urgency": "high",
        "steps": ["Call the caretaker (555-0133).", "Put up the \"out of order\" sign.", "Tell the \u{fc}ber desk: ask for the stairs."],
        "cost": 1249.5,
        "contact": null,
    });
    let mut all = vec![
        Example { name: "json_schema", wanted: Wanted::Schema(schema()), text: answer.to_string() },
        Example { name: "json_object", wanted: Wanted::object(), text: answer.to_string() },
        Example {
            name: "lark",
            wanted: Wanted::Grammar(LARK.into()),
            text: "total = (rent + 12 * fees_2024) / 3.5;\nprint \"the total is: \" total;\n"
                .into(),
        },
        Example {
            name: "gbnf",
            wanted: Wanted::Grammar(GBNF.into()),
            text: "- Call the caretaker before nine.\n- Put up a sign; ask for the stairs.\n"
                .into(),
        },
    ];
    if Marks::of(engine.session.tokenizer()).is_some() {
        let tool = |name: &str, properties: Value, required: Value| Tool {
            name: name.into(),
            parameters: json!({"type": "object", "properties": properties, "required": required}),
            path: String::new(),
        };
        let text = json!({"type": "string"});
        let tools = vec![
            tool("find_room", json!({"name": text, "floor": {"type": "integer"}}), json!(["name"])),
            tool(
                "call_lift",
                json!({"to": {"type": "integer"}, "wait": {"type": "boolean"}}),
                json!(["to"]),
            ),
            tool(
                "send_message",
                json!({"to": {"enum": ["desk", "caretaker"]}, "text": text, "tags": {"type": "array", "items": text}}),
                json!(["to", "text"]),
            ),
        ];
        let calls = Calls { tools, forced: true, several: true, as_objects: false, other: None };
        all.push(Example {
            name: "tools",
            wanted: Wanted::Calls(calls),
            text:
                "<|tool_call_start|>[find_room(name='the reading room', floor=2), send_message(to=\
                   \"caretaker\", text='The lift in the east wing stands still.', tags=[\"lift\", \
                   \"urgent\"])]<|tool_call_end|>"
                    .into(),
        });
    }
    all
}

fn schema() -> Value {
    let place = json!({
        "type": "object",
        "properties": {
            "building": {"type": "string", "maxLength": 40},
            "floor": {"type": "integer", "minimum": -2, "maximum": 40},
            "accessible": {"type": "boolean"},
        },
        "required": ["building", "floor", "accessible"],
        "additionalProperties": false,
    });
    let required = ["title", "place", "urgency", "steps", "cost", "contact"];
    json!({
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "place": place,
            "urgency": {"enum": ["low", "medium", "high"]},
            "steps": {"type": "array", "items": {"type": "string"}, "maxItems": 8},
            "cost": {"type": "number"},
            "contact": {"anyOf": [{"type": "null"}, {"type": "string"}]},
        },
        "required": required,
        "additionalProperties": false,
    })
}

const LARK: &str = r#"
start: (statement "\n")+
statement: NAME " = " sum ";" | "print " (TEXT " ")? sum ";"
sum: product ((" + " | " - ") product)*
product: atom ((" * " | " / ") atom)*
atom: NUMBER | NAME | "(" sum ")"
NAME: /[a-z][a-z0-9_]*/
NUMBER: /[0-9]+(\.[0-9]+)?/
TEXT: /"[^"\n]*"/
"#;

const GBNF: &str = r#"
root ::= item{1,9}
item ::= "- " [^\n]+ "\n"
"#;

/// Prints a table, as large as the values are.
pub fn print(costs: &[Cost], out: &mut impl Write) -> io::Result<()> {
    const HEAD: [&str; 7] =
        ["form", "compiled", "tokens", "forced", "mask", "longest mask", "of a token's time"];
    let micros = |seconds: f64| format!("{:.1} \u{b5}s", seconds * 1e6);
    let row = |cost: &Cost| {
        vec![
            cost.form.to_owned(),
            format!("{:.2} ms", cost.compile_seconds * 1e3),
            cost.form_tokens.to_string(),
            cost.forced_tokens.to_string(),
            micros(cost.mean_mask_seconds),
            micros(cost.most_mask_seconds),
            format!("{:.2} %", 100.0 * cost.share_of_token),
        ]
    };
    table::print(&HEAD, &costs.iter().map(row).collect::<Vec<_>>(), out)
}
