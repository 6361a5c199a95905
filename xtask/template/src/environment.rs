//! What Hugging Face offers to templates (`transformers.utils.chat_template_utils`): Jinja with
//! `trim_blocks` and `lstrip_blocks`, loop controls, `generation` tags, `tojson`,
//! `raise_exception` and `strftime_now`.

use std::sync::{Arc, Mutex, PoisonError};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Value};
use minijinja::{Environment, Error, ErrorKind, Output, State, escape_formatter};
use serde_json::{Map, Value as Json};

use crate::calls::{CALL_MARKS, write_calls};
use crate::conversation::Conversation;
use crate::date;
use crate::guard::{Guard, texts};
use crate::json::tojson;
use crate::limits::{DEPTH, fuel};
use crate::methods;
use crate::paid::pay;
use crate::source::{HELD, KEPT, Source};
use crate::template::{TemplateError, Words};
use crate::values;

/// What a template is called in messages.
const NAME: &str = "chat_template";
/// Names of a message's reasoning; the first is the one that templates should read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// Longest message of the engine that is passed on, in characters.
const MESSAGE: usize = 300;

/// Compiles a source that was made ready, to see whether it can be.
pub fn compile(source: &str) -> Result<(), TemplateError> {
    let mut environment = base();
    environment.add_template(NAME, source).map_err(|error| failure(&error))
}

/// One rendering.
pub struct Job {
    source: String,
    guard: Guard,
    fuel: u64,
    now: i64,
    context: Value,
}

impl Job {
    /// Hides the texts of `conversation`.
    pub fn new(
        source: &Source,
        words: &Words,
        guard: &Guard,
        conversation: &Conversation,
    ) -> Result<Self, TemplateError> {
        let (mut values, mut bytes) = (0, source.text.len());
        for root in conversation.roots() {
            values += 1;
            texts(root, &mut |text| {
                values += 1;
                bytes += text.len();
            });
        }
        let deep = |name: &str| TemplateError::Deep(name.to_owned(), DEPTH);
        let writes_calls = conversation.writes_calls && !source.text.contains("tool_calls");
        let message = |message: &Json| {
            let assistant = message.get("role").is_some_and(|role| role == "assistant");
            let message = normalized(message);
            let calls = message["tool_calls"].as_array().filter(|_| assistant && writes_calls);
            let value = values::from_json(&message, guard, assistant, 1)?;
            Some(match calls {
                Some(calls) => with_calls(&value, &message, calls, guard),
                None => value,
            })
        };
        let messages: Option<Vec<Value>> = conversation.messages.iter().map(message).collect();
        let list = |name, list: &Option<Vec<Json>>| match list {
            None => Ok(Value::from(())),
            Some(items) => items
                .iter()
                .map(|item| values::from_json(item, guard, false, 1))
                .collect::<Option<Vec<Value>>>()
                .map(Value::from)
                .ok_or_else(|| deep(name)),
        };
        let mut pairs = vec![
            ("bos_token", Value::from(words.bos.as_str())),
            ("eos_token", Value::from(words.eos.as_str())),
        ];
        for (name, value) in &conversation.arguments {
            let value = values::from_json(value, guard, false, 0).ok_or_else(|| deep(name))?;
            pairs.push((name, value));
        }
        pairs.extend([
            ("messages", Value::from(messages.ok_or_else(|| deep("messages"))?)),
            ("tools", list("tools", &conversation.tools)?),
            ("documents", list("documents", &conversation.documents)?),
            ("add_generation_prompt", Value::from(conversation.add_generation_prompt)),
        ]);
        Ok(Self {
            source: source.text.clone(),
            guard: guard.clone(),
            fuel: fuel(values, bytes),
            now: conversation.now,
            context: Value::from_pairs(pairs),
        })
    }

    /// Renders; the texts of the conversation are still hidden.
    pub fn run(self) -> Result<String, TemplateError> {
        let Self { source, guard, fuel, now, context } = self;
        let refusal = Arc::new(Mutex::new(None));
        let mut environment = base();
        offer(&mut environment, Arc::new(guard), now, &refusal);
        environment.set_fuel(Some(fuel));
        environment.add_template(NAME, &source).map_err(|error| failure(&error))?;
        let template = environment.get_template(NAME).map_err(|error| failure(&error))?;
        template.render(context).map_err(|error| {
            let refusal = refusal.lock().unwrap_or_else(PoisonError::into_inner).take();
            refusal.map_or_else(|| failure(&error), |text| TemplateError::Refused(excerpt(text)))
        })
    }
}

/// A message as templates are used to see it: without fields that are null, and with its reasoning
/// under each of the names that templates read.
fn normalized(message: &Json) -> Json {
    let Some(fields) = message.as_object() else { return message.clone() };
    let mut fields = fields.clone();
    fields.retain(|_, value| !value.is_null());
    let reasoning = REASONING.iter().find_map(|name| fields.get(*name)).cloned();
    let Some(reasoning) = reasoning else { return fields.into() };
    let [standard, thinking, _] = REASONING;
    let mut all = Map::from_iter([(thinking.to_owned(), reasoning.clone())]);
    all.extend(fields);
    all.insert(standard.to_owned(), reasoning);
    all.into()
}

/// An assistant's message with its calls before its content, as LFM2 says both: for a template that does
/// not write calls. Their marks are control tokens, and what stands between them is none.
fn with_calls(value: &Value, message: &Json, calls: &[Json], guard: &Guard) -> Value {
    let [begin, end] = CALL_MARKS;
    let content = message["content"].as_str().unwrap_or_default();
    let (calls, content) = (guard.hide(&write_calls(calls), false), guard.hide(content, true));
    let mut pairs = vec![(Value::from("content"), format!("{begin}{calls}{end}{content}").into())];
    let others = value.as_object().and_then(|object| object.try_iter_pairs()).into_iter().flatten();
    pairs.extend(others.filter(|(name, _)| name.as_str() != Some("content")));
    Value::from_pairs(pairs)
}

/// The syntax, and what is needed to compile.
fn base<'source>() -> Environment<'source> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the delimiters are the usual ones"));
    environment
}

fn offer(
    environment: &mut Environment<'_>,
    guard: Arc<Guard>,
    now: i64,
    refusal: &Arc<Mutex<Option<String>>>,
) {
    environment.set_unknown_method_callback(methods::call);
    environment.add_filter(KEPT, |state: &State, value: Value| values::kept(state, value, true));
    environment.add_filter(HELD, |state: &State, value: Value| values::kept(state, value, false));
    environment.add_filter("trim", |text: String, chars: Option<String>| {
        methods::strip(&text, chars.as_deref())
    });
    environment.add_filter(
        "replace",
        |state: &State, text: String, old: String, new: String, most: Option<i64>| {
            methods::replace(state, &text, &old, &new, most)
        },
    );
    let hidden = guard.clone();
    environment.add_filter("string", move |state: &State, value: Value| {
        values::text(state, &value, &hidden)
    });
    let hidden = guard.clone();
    environment.add_filter(
        "tojson",
        move |state: &State, value: Value, places: Rest<Value>, names: Kwargs| {
            tojson(state, value, &hidden, &places, &names)
        },
    );
    environment.set_formatter(move |out: &mut Output, state: &mut State, value: &Value| {
        if value.as_str().is_some() {
            return escape_formatter(out, state, value);
        }
        out.write_str(&values::text(state, value, &guard)?).map_err(Error::from)
    });
    let refusal = refusal.clone();
    environment.add_function("raise_exception", move |text: String| -> Result<Value, Error> {
        *refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.clone());
        Err(Error::new(ErrorKind::InvalidOperation, text))
    });
    environment.add_function("strftime_now", move |state: &State, format: String| {
        // A directive of two bytes writes up to 24.
        pay(state, format.len().saturating_mul(16))?;
        date::strftime(&format, now)
    });
}

/// What an error of the engine is to the user.
fn failure(error: &Error) -> TemplateError {
    let text = excerpt(format!("{error:#}"));
    match error.kind() {
        ErrorKind::OutOfFuel => TemplateError::Work,
        ErrorKind::SyntaxError => TemplateError::Source(text),
        _ => TemplateError::Failed(text),
    }
}

/// The beginning of a text from a file, fit for a terminal.
fn excerpt(text: String) -> String {
    let shown = |char: char| if char.is_control() { ' ' } else { char };
    text.chars().take(MESSAGE).map(shown).collect()
}
