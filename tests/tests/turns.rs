//! Questions that are taken back, answers that are drawn again, and conversations that part.

use std::fs;
use std::path::PathBuf;

use rill::image::{Sampling, Template};
use rill::sampler::Settings;
use rill_linux::answer::AnswerOptions;
use rill_linux::engine::{BudgetOptions, Engine, Memory, Options};
use rill_linux::talk::{Talk, TalkError};
use rill_tests::kiosk;
use rill_tests::program::{rill, rill_with_input};

const QUESTIONS: [&str; 3] =
    ["Where is the lift?", "Tell me a story about a fox and a kite.", "What is 3 plus 4?"];

/// Not ChatML: whoever asks is called a guest.
const GUEST: &str = "{{ bos_token }}{% for m in messages %}<|im_start|>\
{{ 'guest' if m.role == 'user' else m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Thinking begins in the prompt, and leaves the conversation with the next question.
const THINKS: &str = r"{{- bos_token -}}
{%- set ns = namespace(last=-1) -%}
{%- for turn in messages -%}{%- if turn.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for turn in messages -%}
{%- set text = turn.content -%}
{%- if turn.role == 'assistant' and loop.index0 < ns.last and '</think>' in text -%}{%- set text = text.split('</think>')[-1] | trim -%}{%- endif -%}
{{- '<|im_start|>' ~ turn.role ~ '\n' ~ text ~ '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n<think>\n' -}}{%- endif -%}";

/// A folder with the kiosk model under a template, or its own.
struct Kiosk {
    folder: tempfile::TempDir,
}

impl Kiosk {
    fn new(template: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = template.map_or_else(kiosk::default_image, kiosk::with_template);
        fs::write(folder.path().join("kiosk.rill"), image).unwrap();
        Self { folder }
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("kiosk.rill")
    }

    /// Two conversations side by side, in the same random state.
    fn load<'m>(&self, memory: &'m mut Memory, temperature: f32) -> Engine<'m> {
        let budget = BudgetOptions {
            ram: Some(40 << 20),
            context: Some(400),
            conversations: 2,
            ..BudgetOptions::default()
        };
        let options = Options { model: Some(self.image()), budget, ..Options::default() };
        let mut engine = Engine::load(&options, memory, &mut |_| {}).unwrap();
        for number in [1, 0] {
            engine.session.select(number);
            let sampling = Sampling { temperature, min_p: 0.02, ..Sampling::default() };
            engine.session.set_sampling(Settings::from(sampling), 3);
        }
        engine
    }
}

fn begin(engine: &mut Engine<'_>, number: usize) -> Talk {
    engine.session.select(number);
    Talk::begin(engine, Some("Be brief.")).unwrap()
}

fn answer(engine: &mut Engine<'_>, talk: &mut Talk) -> String {
    let mut text = String::new();
    let options = AnswerOptions { max_tokens: Some(20), thinking: Some(8), ..Default::default() };
    engine.answer(Some(talk), &options, |_, piece| text.push_str(piece)).unwrap();
    text
}

fn ask(engine: &mut Engine<'_>, talk: &mut Talk, question: &str) -> String {
    talk.ask(engine, question).unwrap();
    answer(engine, talk)
}

/// Both kinds of conversations: those that the core writes, and those that a template renders.
fn kiosks() -> [Kiosk; 3] {
    let kiosks = [None, Some(GUEST), Some(THINKS)].map(Kiosk::new);
    let verdicts = [Template::Same, Template::Differs, Template::SameButThinking];
    for (kiosk, verdict) in kiosks.iter().zip(verdicts) {
        let mut memory = Memory::new();
        let engine = kiosk.load(&mut memory, 0.0);
        assert_eq!(engine.session.chat().template, verdict);
    }
    kiosks
}

#[test]
fn after_undo_a_conversation_is_one_that_never_had_the_turn() {
    for kiosk in kiosks() {
        let mut memory = Memory::new();
        let mut engine = kiosk.load(&mut memory, 1.0);
        let mut one = begin(&mut engine, 0);
        let mut other = begin(&mut engine, 1);
        assert_eq!(one.undo(&mut engine), None);
        let first = ask(&mut engine, &mut one, QUESTIONS[0]);
        assert_eq!(ask(&mut engine, &mut other, QUESTIONS[0]), first);
        ask(&mut engine, &mut one, QUESTIONS[1]);
        ask(&mut engine, &mut one, QUESTIONS[1]);
        assert_eq!(one.undo(&mut engine).as_deref(), Some(QUESTIONS[1]));
        one.undo(&mut engine).unwrap();
        // In the same place of the sequence, with the same random numbers.
        let answers = [&mut one, &mut other].map(|talk| {
            let text = ask(&mut engine, talk, QUESTIONS[2]);
            (text, engine.session.tokens().to_vec())
        });
        assert_eq!(answers[0], answers[1]);
        one.undo(&mut engine).unwrap();
        one.undo(&mut engine).unwrap();
        assert_eq!(one.undo(&mut engine), None);
        assert_eq!(ask(&mut engine, &mut one, QUESTIONS[0]), first, "from the beginning");
    }
}

#[test]
fn an_answer_that_is_drawn_again_takes_the_place_of_the_last() {
    for kiosk in kiosks() {
        for (temperature, draws_anew) in [(0.0, false), (1.5, true)] {
            let mut memory = Memory::new();
            let mut engine = kiosk.load(&mut memory, temperature);
            let mut one = begin(&mut engine, 0);
            let mut other = begin(&mut engine, 1);
            assert!(!one.ask_again(&mut engine).unwrap());
            ask(&mut engine, &mut one, QUESTIONS[0]);
            ask(&mut engine, &mut other, QUESTIONS[0]);
            let first = ask(&mut engine, &mut one, QUESTIONS[1]);
            let others: Vec<String> = (0..4)
                .map(|_| {
                    assert!(one.ask_again(&mut engine).unwrap());
                    answer(&mut engine, &mut one)
                })
                .collect();
            assert_eq!(others.iter().any(|text| *text != first), draws_anew, "{first} {others:?}");
            // It is one turn still, and taking it back takes back its random numbers too.
            one.undo(&mut engine).unwrap();
            let answers = [&mut one, &mut other].map(|talk| ask(&mut engine, talk, QUESTIONS[2]));
            assert_eq!(answers[0], answers[1]);
        }
    }
}

#[test]
fn a_fork_goes_on_alike_and_leaves_the_other_alone() {
    for kiosk in kiosks() {
        let mut memory = Memory::new();
        let mut engine = kiosk.load(&mut memory, 1.0);
        let mut talk = begin(&mut engine, 0);
        ask(&mut engine, &mut talk, QUESTIONS[0]);
        assert!(talk.fork(&mut engine, 0).is_none());
        assert!(talk.fork(&mut engine, 2).is_none());
        let mut fork = talk.fork(&mut engine, 1).unwrap();
        let story = ask(&mut engine, &mut fork, QUESTIONS[1]);
        ask(&mut engine, &mut fork, QUESTIONS[2]);
        assert_eq!(ask(&mut engine, &mut talk, QUESTIONS[1]), story);
        fork.undo(&mut engine).unwrap();
        let answers = [&mut talk, &mut fork].map(|talk| ask(&mut engine, talk, QUESTIONS[2]));
        assert_eq!(answers[0], answers[1]);
    }
}

#[test]
fn a_question_that_is_too_long_was_never_asked() {
    for kiosk in kiosks() {
        let mut memory = Memory::new();
        let mut engine = kiosk.load(&mut memory, 1.0);
        let mut one = begin(&mut engine, 0);
        let mut other = begin(&mut engine, 1);
        for talk in [&mut one, &mut other] {
            ask(&mut engine, talk, QUESTIONS[0]);
        }
        // Of all lengths, so that each of its parts is once the first that does not fit.
        for words in 300..400 {
            let long = "fox ".repeat(words);
            if one.ask(&mut engine, &long).is_ok() {
                one.undo(&mut engine).unwrap();
            }
        }
        let error = one.ask(&mut engine, &"fox ".repeat(2000)).unwrap_err();
        assert!(matches!(error, TalkError::Sequence(_)));
        let answers = [&mut one, &mut other].map(|talk| ask(&mut engine, talk, QUESTIONS[1]));
        assert_eq!(answers[0], answers[1]);
    }
}

#[test]
fn the_commands_of_a_chat_take_back_draw_again_and_switch() {
    let chat = |more: &[&str], input: &str| {
        let args = [&["chat", "-t", "1", "--ram", "60MiB", "-c", "400", "-n", "12"], more].concat();
        let run = rill_with_input(&args, input);
        assert_eq!(run.status, Some(0), "{run:?}");
        run.out
    };
    let [lift, story] = [QUESTIONS[0], QUESTIONS[1]];
    let plain = chat(&[], &format!("{lift}\n{story}\n"));
    let (first, second) = plain.trim_end().split_once('\n').unwrap();

    let out = chat(&["--greedy"], &format!("/undo\n{lift}\n/regenerate\n/regenerate\n"));
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].contains("nothing was asked"), "{out}");
    assert_eq!([lines[1]; 2], lines[2..]);

    let out = chat(&[], &format!("{lift}\nWho are you?\n/undo\n{story}\n"));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((lines[0], lines[2]), (first, "taken back: Who are you?"));
    assert!(out.trim_end().ends_with(second), "{out}");

    let input =
        format!("{lift}\n/fork\nWho are you?\n/switch 1\n{story}\n/switch 3\n/new\n/fork\n");
    let out = chat(&["--conversations", "3"], &input);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((lines[0], lines[1], lines[3]), (first, "conversation 2", "conversation 1"));
    assert!(out.contains(second), "{out}");
    assert!(out.contains("/switch needs one of 1 (this one), 2"), "{out}");
    assert!(out.contains("\nconversation 3\n"), "{out}");
    assert!(out.contains("there is RAM for 1, 2, 3 (this one)"), "{out}");
    // One that is closed makes room for another, with nothing of what was said in it.
    let input = format!("{story}\n/close\n/fork\n/close\n/new\n{lift}\n/new\n/switch 1\n/close\n");
    let out = chat(&["--greedy", "--conversations", "2"], &input);
    let first = chat(&["--greedy"], lift);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[1], "there is no other one: /reset begins it anew");
    let fork = ["conversation 2", "closed; conversation 1", "conversation 2", first.trim_end()];
    assert_eq!(lines[2..6], fork);
    assert!(lines[6].contains("/close this one"), "{out}");
    assert_eq!(lines[7..], ["conversation 1", "closed; conversation 2"]);
    let help = chat(&[], "/help\n");
    for command in ["/undo", "/regenerate", "/fork", "/new", "/close", "/switch N"] {
        assert!(help.contains(command), "{help}");
    }
    rill(&["chat", "--conversations", "0"]).fails(2, &["--conversations"]);
}
