//! Chat templates that are not the core's ChatML, from a checkpoint to the answer.

use std::fs;
use std::path::{Path, PathBuf};

use rill::image::checksum;
use rill_tests::kiosk;
use rill_tests::program::{Run, rill, rill_with_input};

const PROMPT: &str = "Tell me a story about a fox and a kite.";
const SECOND: &str = "Where is the lift?";

/// The kiosk model with another template, packed.
struct Templated {
    folder: tempfile::TempDir,
    /// What packing said.
    said: String,
}

impl Templated {
    fn new(template: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("model");
        fs::create_dir(&source).unwrap();
        for file in fs::read_dir(kiosk::path("kiosk-16m")).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), source.join(file.file_name())).unwrap();
        }
        fs::write(source.join("chat_template.jinja"), template).unwrap();
        let image = folder.path().join("model.rill");
        let said = rill(&["pack", text(&source), "-o", text(&image)]).ok();
        Self { folder, said }
    }

    /// One of those that are met in the field.
    fn field(name: &str) -> Self {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/template/tests/data");
        Self::new(&fs::read_to_string(data.join(name)).unwrap())
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("model.rill")
    }

    fn run(&self, args: &[&str]) -> Run {
        let image = self.image();
        rill(&[&["run", "--greedy", "-m", text(&image), "--ram", "64MiB"], args].concat())
    }

    fn chat(&self, input: &str) -> Run {
        let image = self.image();
        let args = ["chat", "--greedy", "-n", "24", "-m", text(&image), "--ram", "64MiB"];
        rill_with_input(&args, input)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn generation_tags_do_nothing() {
    let model = Templated::field("generation.jinja");
    assert!(model.said.contains("is ChatML as Rill writes it"), "{}", model.said);
    let run = model.run(&["-n", "12", PROMPT]);
    assert!(!run.err.contains("note: this model"), "{run:?}");
    let plain = model.folder.path().join("plain.rill");
    fs::write(&plain, kiosk::default_image()).unwrap();
    let plain = rill(&["run", "--greedy", "-m", text(&plain), "-n", "12", PROMPT]).ok();
    assert_eq!(run.ok(), plain);
}

#[test]
fn a_prompt_that_begins_thinking_is_followed() {
    let model = Templated::field("prefilled-thinking.jinja");
    assert!(model.said.contains("the prompt of an answer opens <think>"), "{}", model.said);
    let run = model.run(&["-n", "16", "--thinking", "show", PROMPT]);
    assert!(!run.err.contains("note: this model"), "{run:?}");
    let raw = format!("<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n<think>\n");
    assert_eq!(run.ok(), model.run(&["-n", "16", "--raw", &raw]).ok());
    // The model was not taught to end it, so all is thinking.
    assert_eq!(model.run(&["-n", "16", "--thinking", "hide", PROMPT]).ok().trim(), "");
    assert_eq!(model.run(&["-n", "16", PROMPT]).ok().trim(), "", "no terminal, no thinking");
}

#[test]
fn thinking_ends_after_as_many_tokens_as_it_may_have() {
    let model = Templated::field("prefilled-thinking.jinja");
    let report = model.run(&["-n", "24", "--thinking", "5", "--json", PROMPT]).json();
    assert_eq!(report["thinking_tokens"], 5);
    let [thinking, answer] = ["thinking", "text"].map(|field| report[field].as_str().unwrap());
    assert!(!thinking.is_empty() && !answer.is_empty(), "{report}");
    let start = format!("<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n<think>\n");
    let raw = format!("{start}{thinking}\n</think>\n\n");
    let rest = model.run(&["-n", "19", "--raw", "--json", &raw]).json();
    assert_eq!(rest["text"].as_str().unwrap().trim_start(), answer);
    // None at all, and a run whose statistics tell it apart.
    let none = model.run(&["-n", "8", "--thinking", "0", "--json", PROMPT]).json();
    assert_eq!((&none["thinking_tokens"], &none["thinking"]), (&0.into(), &().into()));
    let run = model.run(&["-n", "24", "--thinking", "5", "--stats", PROMPT]);
    assert!(run.err.contains("5 of them thinking"), "{run:?}");
    model.run(&["--thinking", "loud", PROMPT]).fails(2, &["--thinking"]);
}

#[test]
fn a_template_that_changes_earlier_turns_is_followed_at_every_turn() {
    // Only the last message of the user is heard.
    let last = "{{- bos_token -}}{%- set last = messages | selectattr('role', 'equalto', 'user') | list | last -%}
{{- '<|im_start|>user\n' ~ last.content ~ '<|im_end|>\n<|im_start|>assistant\n' -}}";
    let model = Templated::new(last);
    assert!(model.said.contains("differs") && model.said.contains("followed"), "{}", model.said);
    let alone = model.run(&["-n", "24", SECOND]).ok();
    let talk = model.chat(&format!("{PROMPT}\n{SECOND}\n"));
    assert!(!talk.err.contains("note: this model"), "{talk:?}");
    let talk = talk.ok();
    assert!(talk.contains(alone.trim()), "{alone:?} in {talk:?}");
}

#[test]
fn thinking_of_earlier_turns_leaves() {
    let model = Templated::field("strip-thinking.jinja");
    assert!(model.said.contains("the thinking of earlier turns leaves"), "{}", model.said);
    assert!(!model.said.contains("as Rill writes it"), "{}", model.said);
    let file = model.folder.path().join("talk");
    let whole = model.chat(&format!("{PROMPT}\n{SECOND}\n")).ok();
    let before = model.chat(&format!("{PROMPT}\n/save {}\n", text(&file))).ok();
    let after = model.chat(&format!("/load {}\n{SECOND}\n", text(&file))).ok();
    let spoken = |out: &str| {
        let lines = out.lines().filter(|line| !line.contains(text(&file)));
        lines.collect::<Vec<_>>().join("\n").replace("> ", "")
    };
    assert_eq!([spoken(&before), spoken(&after)].join("\n"), spoken(&whole));
}

#[test]
fn a_kept_conversation_that_says_too_much_or_something_else_leaves_the_present_one() {
    let model = Templated::field("strip-thinking.jinja");
    let file = model.folder.path().join("talk");
    model.chat(&format!("{PROMPT}\n/save {}\n", text(&file))).ok();
    let spoken = |out: &str| out.replace("> ", "");
    let whole = model.chat(&format!("{PROMPT}\n{SECOND}\n")).ok();
    let sound = fs::read(&file).unwrap();
    let (head, content) = sound.split_at(32);
    let (len, content) = content.split_first_chunk::<8>().unwrap();
    let rest = &content[u64::from_le_bytes(*len) as usize..content.len() - 8];
    let one = r#"{"role":"user","content":""}"#;
    let many = |message: &str| {
        let messages = vec![message; 20_000].join(",");
        format!(r#"{{"messages":[{messages}],"now":1}}"#)
    };
    let few = |message: &str| format!(r#"{{"messages":[{message}],"now":1}}"#);
    for (said, why) in [
        (many(one), "larger one (-c)"),
        (
            few(&format!(r#"{{"role":"user","content":"{}"}}"#, "a".repeat(4 << 20))),
            "larger one (-c)",
        ),
        (few("1"), "damaged"),
        (few("{}"), "damaged"),
        (few(r#"{"role":"owner","content":""}"#), "damaged"),
        (few(r#"{"role":"user","content":[]}"#), "damaged"),
        (few(r#"{"role":"user","content":"","more":1}"#), "damaged"),
        ("null".into(), "damaged"),
        ("[1]".into(), "damaged"),
    ] {
        let len = (said.len() as u64).to_le_bytes();
        let body = [head, &len, said.as_bytes(), rest].concat();
        fs::write(&file, [&body[..], &checksum(&body).to_le_bytes()].concat()).unwrap();
        let run = model.chat(&format!("{PROMPT}\n/load {}\n{SECOND}\n", text(&file)));
        let said = &said[..said.len().min(99)];
        assert!(run.err.contains(why), "{said}: {run:?}");
        assert_eq!(spoken(&run.ok()), spoken(&whole), "{said}");
    }
}

#[test]
fn a_message_stays_text_and_a_template_that_refuses_is_heard() {
    let model = Templated::new(
        "{{- bos_token -}}{%- if messages | length > 1 -%}{{- raise_exception('one turn only') -}}{%- endif -%}
{{- '<|im_start|>x\n' ~ messages[0].content | trim ~ '<|im_end|>\n' -}}",
    );
    let count = |prompt: &str| {
        model.run(&["-n", "1", "--json", prompt]).json()["prompt_tokens"].as_u64().unwrap()
    };
    assert!(count("a<|im_end|>b") > count("ab") + 2);
    let talk = model.chat(&format!("{PROMPT}\n{SECOND}\n/reset\n{PROMPT}\n"));
    assert!(talk.err.contains("the chat template refuses: one turn only"), "{talk:?}");
    let answer = model.run(&["-n", "24", PROMPT]).ok();
    let talk = talk.ok();
    assert_eq!(talk.matches(answer.trim()).count(), 2, "{talk:?}");
}
