//! Compares a checkpoint's chat template with the core's ChatML.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, context};
use rill::image::{Chat, MAX_STOPS, Template};

use crate::tokenizer::Vocabulary;

/// What the core is told about chatting, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatReport {
    /// For the manifest.
    pub chat: Chat,
    /// One or a few lines for whoever packs.
    pub explanation: String,
}

/// Why there is no chat for the manifest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChatError {
    /// More tokens end an answer than an image can say.
    #[error("{0} tokens end an answer, an image holds {MAX_STOPS}; shorten eos_token_id")]
    Stops(usize),
    /// A token that ends an answer does not exist.
    #[error("token {0} of eos_token_id is not in the vocabulary; use the checkpoint's own files")]
    UnknownStop(u32),
}

const OPEN: &str = "<|im_start|>";
const CLOSE: &str = "<|im_end|>";
const ROLES: [&str; 3] = ["system", "user", "assistant"];

/// Finds out how to chat with a model: its tokens for ChatML, what ends an answer, and whether the
/// checkpoint's own `template` (Jinja) renders sample conversations as the core does.
///
/// `eos` are the ends of an answer that the checkpoint names (`generation_config.json`), besides
/// its tokenizer's.
pub fn chat(
    vocabulary: &Vocabulary,
    template: Option<&str>,
    eos: &[u32],
) -> Result<ChatReport, ChatError> {
    let [open, close] = [OPEN, CLOSE].map(|name| vocabulary.control(name));
    let [system, user, assistant] = ROLES.map(|role| role.parse().unwrap_or_default());
    let bos_text = vocabulary.bos().and_then(|id| vocabulary.added_text(id)).unwrap_or_default();
    let comparison = compare(template, bos_text, eos_text(vocabulary), vocabulary.adds_bos());
    let (template, explanation) = match (open.and(close), template) {
        (None, Some(_)) => (
            Template::Differs,
            format!(
                "the tokenizer has no control tokens {OPEN} and {CLOSE}, so the model does not chat in ChatML"
            ),
        ),
        _ => comparison.verdict,
    };
    let begins = vocabulary.adds_bos() || comparison.renders_bos;
    let chat = Chat {
        begin: vocabulary.bos().filter(|_| begins),
        open,
        close,
        stops: stops(vocabulary, close, eos)?,
        system,
        user,
        assistant,
        template,
    };
    Ok(ChatReport { chat, explanation })
}

fn eos_text(vocabulary: &Vocabulary) -> &str {
    vocabulary.eos().and_then(|id| vocabulary.added_text(id)).unwrap_or_default()
}

fn stops(
    vocabulary: &Vocabulary,
    close: Option<u32>,
    eos: &[u32],
) -> Result<heapless::Vec<u32, MAX_STOPS>, ChatError> {
    let mut all: Vec<u32> = eos.iter().copied().chain(vocabulary.eos()).chain(close).collect();
    all.sort_unstable();
    all.dedup();
    if let Some(&id) = all.iter().find(|&&id| id as usize >= vocabulary.len()) {
        return Err(ChatError::UnknownStop(id));
    }
    heapless::Vec::from_slice(&all).map_err(|_| ChatError::Stops(all.len()))
}

#[derive(Debug, Clone, Copy)]
struct Message {
    role: &'static str,
    content: &'static str,
}

const fn message(role: usize, content: &'static str) -> Message {
    Message { role: ROLES[role], content }
}

const SYSTEM: Message = message(0, "You are a helpful guide. Answer in one sentence.");
const QUESTION: Message = message(1, "Where is the library?\nI am on floor 2.");
const ANSWER: Message = message(2, "It is on floor 5, next to the lift.");
const AGAIN: Message = message(1, "And the café?");

/// Conversations to compare, and whether the assistant is to answer next.
const SAMPLES: [(&[Message], bool); 6] = [
    (&[QUESTION], true),
    (&[SYSTEM, QUESTION], true),
    (&[QUESTION, ANSWER, AGAIN], true),
    (&[SYSTEM, QUESTION, ANSWER, AGAIN], true),
    (&[SYSTEM, QUESTION, ANSWER, AGAIN, ANSWER, QUESTION], true),
    (&[SYSTEM, QUESTION, ANSWER], false),
];

/// What comparing a template gave.
struct Comparison {
    /// For the manifest and for the reader.
    verdict: (Template, String),
    /// Whether the template itself writes the begin token.
    renders_bos: bool,
}

fn compare(template: Option<&str>, bos: &str, eos: &str, adds_bos: bool) -> Comparison {
    let Some(template) = template else {
        let text = "the checkpoint has no chat template; ChatML is assumed";
        return Comparison { verdict: (Template::Missing, text.into()), renders_bos: false };
    };
    let renderer = match Renderer::new(template) {
        Ok(renderer) => renderer,
        Err(error) => {
            let text = format!("the checkpoint's chat template cannot be compiled: {error:#}");
            return Comparison { verdict: (Template::Differs, text), renders_bos: false };
        }
    };
    let rendered = SAMPLES.map(|(messages, answer)| renderer.render(messages, answer, bos, eos));
    let begins = |text: &Result<String, Error>| text.as_ref().is_ok_and(|t| t.starts_with(bos));
    let renders_bos = !bos.is_empty() && rendered.iter().all(begins);
    let expected_bos = if adds_bos || renders_bos { bos } else { "" };
    let differences = SAMPLES.iter().zip(&rendered).filter_map(|((messages, answer), found)| {
        let expected = chatml(messages, *answer, expected_bos);
        match found {
            Ok(found) if *found == expected => None,
            Ok(found) => Some(difference(&expected, found)),
            Err(error) => Some(format!("the checkpoint's chat template fails: {error:#}")),
        }
    });
    let verdict = match differences.into_iter().next() {
        None => {
            (Template::Same, "the checkpoint's chat template is ChatML as Rill writes it".into())
        }
        Some(difference) => (Template::Differs, difference),
    };
    Comparison { verdict, renders_bos }
}

/// The text of which the core writes the tokens.
fn chatml(messages: &[Message], answer: bool, bos: &str) -> String {
    let [_, _, assistant] = ROLES;
    let mut text = String::from(bos);
    for Message { role, content } in messages {
        text += &format!("{OPEN}{role}\n{content}{CLOSE}\n");
    }
    if answer {
        text += &format!("{OPEN}{assistant}\n");
    }
    text
}

/// Shows the first place where two texts differ.
fn difference(expected: &str, found: &str) -> String {
    let same: usize = expected
        .chars()
        .zip(found.chars())
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum();
    let excerpt = |text: &str| text[same..].chars().take(40).collect::<String>();
    let before: Vec<char> = expected[..same].chars().rev().take(20).collect();
    let before: String = before.into_iter().rev().collect();
    format!(
        "the checkpoint's chat template differs from ChatML as Rill writes it: after {before:?} \
         the template has {:?}, Rill {:?}",
        excerpt(found),
        excerpt(expected)
    )
}

/// A template with what Hugging Face offers to templates.
struct Renderer(Environment<'static>);

const NAME: &str = "chat_template";

impl Renderer {
    fn new(template: &str) -> Result<Self, Error> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
        environment.set_syntax(syntax);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |text: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, text))
        });
        // A template that writes the date cannot be the core's: any fixed date shows that.
        environment.add_function("strftime_now", |format: String| format);
        environment.add_template_owned(NAME, template.to_owned())?;
        Ok(Self(environment))
    }

    fn render(
        &self,
        messages: &[Message],
        answer: bool,
        bos: &str,
        eos: &str,
    ) -> Result<String, Error> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|Message { role, content }| context! { role => *role, content => *content })
            .collect();
        self.0.get_template(NAME)?.render(context! {
            messages => messages,
            add_generation_prompt => answer,
            bos_token => bos,
            eos_token => eos,
            tools => (),
            documents => (),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::{GgufTokenizer, from_gguf};

    /// A tokenizer of bytes and control tokens.
    fn vocabulary(control: &[&str], add_bos: bool) -> Vocabulary {
        let mut gguf = GgufTokenizer {
            model: "gpt2".into(),
            pre: Some("lfm2".into()),
            tokens: control.iter().map(|&name| name.into()).collect(),
            bos: Some(0),
            eos: Some(1),
            add_bos: Some(add_bos),
            ..GgufTokenizer::default()
        };
        gguf.token_types = vec![3; control.len()];
        gguf.tokens.extend((0..=255).map(|byte| crate::tokenizer::char_of(byte).to_string()));
        gguf.token_types.resize(gguf.tokens.len(), 1);
        from_gguf(gguf).unwrap()
    }

    const CONTROL: [&str; 3] = ["<s>", CLOSE, OPEN];
    /// Tags on lines of their own, a system message kept apart: as published templates do.
    const LONG: &str = "{{- bos_token -}}
{%- set ns = namespace(system='') -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set ns.system = messages[0]['content'] -%}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{%- if tools -%}{{ raise_exception('no tools here') }}{{ tools | tojson }}{%- endif -%}
{%- if ns.system.strip() -%}
    {{- '<|im_start|>system\\n' + ns.system + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- set content = message['content'] -%}
    {%- if message['role'] == 'assistant' and '</think>' in content -%}
        {%- set content = content.split('</think>')[-1] | trim -%}
    {%- endif -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
";

    #[test]
    fn chatml_is_recognised() {
        let report = chat(&vocabulary(&CONTROL, true), Some(LONG), &[1]).unwrap();
        assert_eq!(report.chat.template, Template::Same, "{}", report.explanation);
        assert_eq!(
            (report.chat.begin, report.chat.open, report.chat.close),
            (Some(0), Some(2), Some(1))
        );
        assert_eq!((report.chat.user.as_str(), &report.chat.stops[..]), ("user", &[1][..]));
    }

    #[test]
    fn the_begin_token_is_the_template_s_or_the_tokenizer_s() {
        let without = LONG.replace("{{- bos_token -}}", "");
        let begin = |add_bos, template: &str| {
            let chat = chat(&vocabulary(&CONTROL, add_bos), Some(template), &[]).unwrap().chat;
            (chat.begin, chat.template)
        };
        assert_eq!(begin(false, LONG), (Some(0), Template::Same));
        assert_eq!(begin(false, &without), (None, Template::Same));
        assert_eq!(begin(true, &without), (Some(0), Template::Differs));
    }

    #[test]
    fn other_templates_are_told_apart_and_explained() {
        let said = |control: &[&str], template: Option<&str>| {
            let report = chat(&vocabulary(control, true), template, &[]).unwrap();
            (report.chat.template, report.explanation)
        };
        let cases = [
            (
                LONG.replace("message['role'] + '\\n'", "message['role'] + ': '"),
                "after \"<s><|im_start|>user\" the template has \": Where",
            ),
            (LONG.replace("{%- if tools", "{%- if messages"), "no tools here"),
            ("{% for".into(), "cannot be compiled"),
            (String::new(), "the template has \"\""),
        ];
        for (template, part) in cases {
            let (verdict, text) = said(&CONTROL, Some(&template));
            assert_eq!(verdict, Template::Differs);
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(said(&CONTROL, None).0, Template::Missing);
        let (verdict, text) = said(&["<s>", "</s>"], Some(LONG));
        assert_eq!(verdict, Template::Differs);
        assert!(text.contains("no control tokens"), "{text}");
    }

    #[test]
    fn stops_must_exist_and_be_few() {
        let vocabulary = vocabulary(&CONTROL, true);
        assert_eq!(chat(&vocabulary, None, &[999]), Err(ChatError::UnknownStop(999)));
        let many: Vec<u32> = (0..9).collect();
        assert_eq!(chat(&vocabulary, None, &many), Err(ChatError::Stops(9)));
    }
}
