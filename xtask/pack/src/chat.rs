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
