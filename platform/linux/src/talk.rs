//! A conversation, as the model is to hear it: in the core's ChatML where packing found the
//! checkpoint's template equal to it, else through the template.

use std::sync::Arc;
use std::time::SystemTime;

use rill::chat::Role;
use rill::image::Template as Verdict;
use rill::sequence::{Bookmark, SequenceError};
use rill::session::Session;
use rill_template::{Conversation, Template, TemplateError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::clock::local_seconds;
use crate::engine::Engine;

/// Why a conversation cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    /// The model cannot go on.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The model's chat template does not render the conversation.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who says it.
    #[serde(with = "RoleName")]
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// How a role is written.
#[derive(Deserialize)]
#[serde(remote = "Role", rename_all = "lowercase")]
enum RoleName {
    System,
    User,
    Assistant,
}

/// What was said in a conversation that a template renders, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// The messages, first to last.
    pub messages: Vec<Message>,
    /// What the template takes for the time.
    now: i64,
}

/// A question that was asked.
#[derive(Debug, Clone)]
struct Turn {
    question: String,
    /// Where the sequence stood before it.
    before: Bookmark,
    /// How many messages the template had before it.
    messages: usize,
}

/// A conversation with a model: the one that was selected when it began, wherever it is asked.
#[derive(Debug, Clone)]
pub struct Talk {
    /// Number of its sequence.
    number: usize,
    system: Option<String>,
    /// The template and what was said so far; `None` where the core writes the conversation.
    followed: Option<(Arc<Template>, Conversation)>,
    /// The questions that can be taken back.
    turns: Vec<Turn>,
    /// What the prompt of the last answer began for the model.
    begun: String,
    /// What the user may want to know.
    note: Option<&'static str>,
}

impl Talk {
    /// Begins a conversation with the model of `engine`, with an instruction before it, in the selected
    /// sequence.
    pub fn begin(engine: &mut Engine<'_>, system: Option<&str>) -> Result<Self, TalkError> {
        let verdict = engine.session.chat().template;
        let template = match verdict {
            Verdict::SameButThinking | Verdict::Differs => engine.compiled_template()?,
            Verdict::Same | Verdict::Missing => None,
        };
        let note = match (verdict, &template) {
            (Verdict::Differs, None) => {
                Some("this model was trained with another chat format; its answers may be poor")
            }
            (Verdict::Missing, _) => Some(
                "this model does not say what chat format it was trained with; it may not chat",
            ),
            _ => None,
        };
        let followed = template.map(|template| (template, Conversation::new(Vec::new())));
        let (number, system) = (engine.session.selected(), system.map(str::to_owned));
        let mut talk =
            Self { number, system, followed, turns: Vec::new(), begun: String::new(), note };
        talk.reset(engine)?;
        Ok(talk)
    }

    /// What the user may want to know of how the model chats, in one line.
    pub fn note(&self) -> Option<&'static str> {
        self.note
    }

    /// Forgets what was said.
    pub fn reset(&mut self, engine: &mut Engine<'_>) -> Result<(), SequenceError> {
        self.turns.clear();
        let session = self.session(engine);
        session.reset();
        match (&mut self.followed, &self.system) {
            (Some((_, conversation)), system) => {
                let message = |text: &String| json!({"role": "system", "content": text});
                *conversation = new_conversation(system.iter().map(message).collect());
            }
            (None, Some(system)) => session.append_message(Role::System, system)?,
            (None, None) => {}
        }
        Ok(())
    }

    /// Begins anew with what was said elsewhere, and begins the answer to it. The instruction of this
    /// conversation is not said: it is another one. When it cannot be asked, nothing was said.
    pub fn ask_all(
        &mut self,
        engine: &mut Engine<'_>,
        messages: &[Message],
    ) -> Result<(), TalkError> {
        let asked = self.say_all(engine, messages);
        if asked.is_err() {
            self.session(engine).reset();
        }
        asked
    }

    fn say_all(&mut self, engine: &mut Engine<'_>, messages: &[Message]) -> Result<(), TalkError> {
        self.turns.clear();
        let Some((_, conversation)) = &mut self.followed else {
            let session = self.session(engine);
            session.reset();
            for Message { role, content } in messages {
                session.append_message(*role, content)?;
            }
            return Ok(session.begin_answer()?);
        };
        *conversation = new_conversation(messages.iter().map(Message::as_json).collect());
        self.render(engine)
    }

    /// Asks, and begins the answer. When it cannot be asked, nothing was said.
    pub fn ask(&mut self, engine: &mut Engine<'_>, message: &str) -> Result<(), TalkError> {
        let before = self.session(engine).bookmark();
        let messages = self.followed.as_ref().map_or(0, |(_, said)| said.messages.len());
        let turn = Turn { question: message.to_owned(), before, messages };
        let asked = self.say(engine, message);
        match asked {
            Ok(()) => self.turns.push(turn),
            Err(_) => self.go_back(engine, &turn, true),
        }
        asked
    }

    /// Takes back the last question and all that came after it: what is said next is said as if it had
    /// never been asked. Returns the question; `None` when there is none, or it came from a file.
    pub fn undo(&mut self, engine: &mut Engine<'_>) -> Option<String> {
        let turn = self.turns.pop()?;
        self.go_back(engine, &turn, true);
        Some(turn.question)
    }

    /// Asks the last question again, and begins another answer: the random choices go on from where they
    /// are. `false` when there is no question, or it came from a file.
    pub fn ask_again(&mut self, engine: &mut Engine<'_>) -> Result<bool, TalkError> {
        let Some(turn) = self.turns.pop() else { return Ok(false) };
        self.go_back(engine, &turn, false);
        self.say(engine, &turn.question)?;
        self.turns.push(turn);
        Ok(true)
    }

    /// Makes conversation `to` of the engine a copy of this one, and selects it; `None` when it is not
    /// there, or this one.
    pub fn fork(&self, engine: &mut Engine<'_>, to: usize) -> Option<Self> {
        let session = self.session(engine);
        (session.fork(to) && session.select(to)).then(|| Self { number: to, ..self.clone() })
    }

    /// Says the user's next message, and begins the answer.
    fn say(&mut self, engine: &mut Engine<'_>, message: &str) -> Result<(), TalkError> {
        let Some((_, conversation)) = &mut self.followed else {
            let session = self.session(engine);
            session.append_message(Role::User, message)?;
            return Ok(session.begin_answer()?);
        };
        conversation.messages.push(json!({"role": "user", "content": message}));
        self.render(engine)
    }

    /// Goes back to before a question. Where a template renders the conversation, the sequence may have
    /// been longer then, by thinking that has left it since: what is said next puts that right.
    fn go_back(&mut self, engine: &mut Engine<'_>, to: &Turn, random: bool) {
        self.session(engine).go_back(&to.before, random);
        if let Some((_, conversation)) = &mut self.followed {
            conversation.messages.truncate(to.messages);
        }
    }

    /// Makes what was said the sequence, as the template writes it.
    fn render(&mut self, engine: &mut Engine<'_>) -> Result<(), TalkError> {
        let session = self.session(engine);
        let Some((template, conversation)) = &self.followed else { return Ok(()) };
        let rendered = template.render(conversation)?;
        let tokens = rendered.tokens(session.tokenizer()).map_err(SequenceError::Text)?;
        follow(session, &tokens)?;
        let text = rendered.text();
        let begins = |open: &str| text.trim_end().ends_with(open);
        self.begun = match &session.chat().thinking {
            Some(thinking) if begins(&thinking.open) => format!("{}\n", thinking.open),
            _ => String::new(),
        };
        Ok(())
    }

    /// Whether the prompt of the answer began its thinking.
    pub fn begins_thinking(&self, engine: &Engine<'_>) -> bool {
        match &self.followed {
            Some(_) => !self.begun.is_empty(),
            None => {
                engine.session.chat().thinking.as_ref().is_some_and(|thinking| thinking.prompted)
            }
        }
    }

    /// Takes note of all that the model said.
    pub fn answered(&mut self, text: &str) {
        if let Some((_, conversation)) = &mut self.followed {
            let content = format!("{}{text}", self.begun);
            conversation.messages.push(json!({"role": "assistant", "content": content}));
        }
    }

    /// The session, with this conversation selected.
    fn session<'e, 'm>(&self, engine: &'e mut Engine<'m>) -> &'e mut Session<'m> {
        engine.session.select(self.number);
        &mut engine.session
    }

    /// Whether a template renders it: what was said must be kept with the session.
    pub fn is_rendered(&self) -> bool {
        self.followed.is_some()
    }

    /// What was said, to be kept with the session, as [`Said`] is read; `null` where the session knows it
    /// all.
    pub fn said(&self) -> Value {
        self.followed.as_ref().map_or(
            Value::Null,
            |(_, conversation)| json!({"messages": conversation.messages, "now": conversation.now}),
        )
    }

    /// Takes over what [`Self::said`] gave, for a session that was restored.
    pub fn restore(&mut self, said: Option<Said>) {
        self.turns.clear();
        if let (Some((_, conversation)), Some(said)) = (&mut self.followed, said) {
            conversation.messages = said.messages.iter().map(Message::as_json).collect();
            conversation.now = said.now;
        }
    }
}

impl Message {
    /// As chat templates take it.
    pub fn as_json(&self) -> Value {
        json!({"role": self.role.name(), "content": self.content})
    }
}

/// A conversation that begins now with these messages, and is to be answered.
pub fn new_conversation(messages: Vec<Value>) -> Conversation {
    let mut conversation = Conversation::new(messages);
    conversation.add_generation_prompt = true;
    conversation.now = local_seconds(SystemTime::now());
    conversation
}

/// Makes `tokens` the sequence of the session. What it has of them already is not computed again.
pub fn follow(session: &mut Session<'_>, tokens: &[u32]) -> Result<(), SequenceError> {
    if tokens.len() > session.context() {
        let (context, needed) = (session.context() as u32, Some(tokens.len()));
        return Err(SequenceError::ContextFull { context, needed });
    }
    let same = session.tokens().iter().zip(tokens).take_while(|(a, b)| a == b).count();
    session.cut(same);
    session.append(&tokens[same..])
}
