//! Writes prompts: from text and conversations to tokens, beside the engine's thread.

use std::sync::Arc;

use rill::answer::Answer;
use rill::chat::{self, Role};
use rill::engine::PIECE_BYTES;
use rill::image::{Chat, ChatTemplate, Template as Verdict};
use rill::tokenizer::{EncodeError, SCRATCH_WORDS_PER_BYTE, Tokenizer};
use rill_template::{Conversation, Template, TemplateError, Words};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use crate::form::{Form, FormError, Forms, Marks, NoForm, Wanted};
use crate::job::Prompt;
use crate::room::Room;

/// Why there is no prompt.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The model has no chat format.
    #[error("this model has no chat format; ask for a completion of plain text")]
    NoChat,
    /// A role that the model's format does not have.
    #[error("the role `{0}` is not one of this model's: system, user or assistant")]
    Role(String),
    /// The template does not render it.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The text cannot be encoded.
    #[error(transparent)]
    Text(#[from] EncodeError),
}

/// Writes prompts for one model.
pub struct Clerk<'a> {
    tokenizer: Tokenizer<'a>,
    chat: Chat,
    section: Option<ChatTemplate<'a>>,
    /// Compiled when it is needed first.
    template: Option<Template>,
    /// Made when it is needed first.
    forms: Option<Forms>,
    room: Room,
}

/// Something for the clerk to do.
pub type Request = Box<dyn FnOnce(&mut Clerk<'_>) + Send>;

impl<'a> Clerk<'a> {
    /// For a model that has this, with so much room for forms.
    pub fn new(
        tokenizer: Tokenizer<'a>,
        chat: Chat,
        section: Option<ChatTemplate<'a>>,
        room: Room,
    ) -> Self {
        Self { tokenizer, chat, section, template: None, forms: None, room }
    }

    /// Works until nobody can ask any more.
    pub fn work(mut self, mut inbox: UnboundedReceiver<Request>) {
        while let Some(request) = inbox.blocking_recv() {
            request(&mut self);
        }
    }

    /// The tokens of a text that is not a conversation, with the begin token that the model wants.
    pub fn text(&self, text: &str) -> Result<Prompt, PromptError> {
        let begin = self.chat.begin.filter(|&begin| !self.tokenizer.begins_with(text, begin));
        let mut tokens: Vec<u32> = begin.into_iter().collect();
        tokens.extend(self.tokens(text, true)?);
        Ok(Prompt { tokens, thinks: false })
    }

    /// The tokens of a text; with `control`, names of control tokens become those tokens.
    pub fn tokens(&self, text: &str, control: bool) -> Result<Vec<u32>, EncodeError> {
        let mut scratch = scratch(text);
        let mut tokens = vec![0; text.len()];
        let count = self.tokenizer.encode(text, control, &mut scratch, &mut tokens)?;
        tokens.truncate(count);
        Ok(tokens)
    }

    /// The bytes of a token.
    pub fn piece(&self, id: u32) -> &'a [u8] {
        self.tokenizer.piece(id)
    }

    /// What an answer of a form begins with; an error says why there can be no such answer.
    pub fn form(&mut self, wanted: Wanted, vocab: u32) -> Result<Arc<Form>, NoForm> {
        let forms = match &mut self.forms {
            Some(forms) => forms,
            none => {
                let end = self.chat.close.or(self.chat.stops.first().copied());
                let whole = |message| FormError { path: String::new(), message };
                let end =
                    end.ok_or_else(|| whole("no token of this model ends an answer".into()))?;
                let marks = Marks::of(&self.tokenizer);
                let room = self.room.clone();
                none.insert(Forms::new(&self.tokenizer, vocab, end, marks, room).map_err(whole)?)
            }
        };
        forms.form(wanted, &self.tokenizer)
    }

    /// The tokens of a conversation, up to where the assistant answers.
    pub fn conversation(&mut self, conversation: &Conversation) -> Result<Prompt, PromptError> {
        let plain = conversation.tools.is_none() && conversation.arguments.is_empty();
        let messages: Option<Vec<_>> = conversation.messages.iter().map(message).collect();
        match (self.chat.template, messages) {
            (Verdict::Same, Some(messages)) if plain => self.chatml(&messages),
            (_, messages) if self.section.is_none() => {
                let wrong = || PromptError::Role(odd_role(&conversation.messages));
                self.chatml(&messages.ok_or_else(wrong)?)
            }
            _ => self.rendered(conversation),
        }
    }

    /// A prompt with which the answer itself begins: thinking that it begins is ended at once.
    pub fn without_thinking(&self, mut prompt: Prompt) -> Result<Prompt, EncodeError> {
        if std::mem::take(&mut prompt.thinks) {
            let mut answer = Answer::default();
            answer.expect_thinking(self.chat.thinking.clone(), Some(0));
            answer.begin(true);
            prompt.tokens.extend(self.tokens(&answer.end_thinking(|_, _| {}), true)?);
        }
        Ok(prompt)
    }

    /// As the core writes it.
    fn chatml(&self, messages: &[(Role, &str)]) -> Result<Prompt, PromptError> {
        let mut writer =
            chat::Conversation::new(self.chat.clone()).map_err(|_| PromptError::NoChat)?;
        let longest = messages.iter().map(|(_, text)| text.len()).max().unwrap_or(0);
        let mut scratch = vec![0; (longest + ROLE_BYTES).min(PIECE_BYTES) * SCRATCH_WORDS_PER_BYTE];
        let mut tokens = Vec::new();
        let wrong = |error| match error {
            chat::ChatError::NoTokens => PromptError::NoChat,
            chat::ChatError::Encode(error) => error.into(),
        };
        for (role, text) in messages {
            let start = tokens.len();
            tokens.resize(start + text.len() + ROLE_BYTES, 0);
            let out = &mut tokens[start..];
            let written = writer.message(&self.tokenizer, *role, text, &mut scratch, out);
            tokens.truncate(start + written.map_err(wrong)?);
        }
        let start = tokens.len();
        tokens.resize(start + ROLE_BYTES, 0);
        let out = &mut tokens[start..];
        let written = writer.prompt_answer(&self.tokenizer, &mut scratch, out);
        tokens.truncate(start + written.map_err(wrong)?);
        let thinks = self.chat.thinking.as_ref().is_some_and(|thinking| thinking.prompted);
        Ok(Prompt { tokens, thinks })
    }

    /// As the model's own template writes it.
    fn rendered(&mut self, conversation: &Conversation) -> Result<Prompt, PromptError> {
        let template = match &mut self.template {
            Some(template) => template,
            none => {
                let section = self.section.as_ref().ok_or(PromptError::NoChat)?;
                let words = Words::of(&self.tokenizer, &self.chat, section);
                none.insert(Template::new(section.source, words)?)
            }
        };
        let rendered = template.render(conversation)?;
        let tokens = rendered.tokens(&self.tokenizer)?;
        let text = rendered.text();
        let begins = |open: &str| text.trim_end().ends_with(open);
        let thinks = self.chat.thinking.as_ref().is_some_and(|thinking| begins(&thinking.open));
        Ok(Prompt { tokens, thinks })
    }
}

/// More than the tokens and bytes around the content of a message: control tokens, a role of at most 24
/// bytes, line ends, a mark of at most 24.
const ROLE_BYTES: usize = 64;

/// Scratch for the longest piece of a text.
fn scratch(text: &str) -> Vec<u32> {
    vec![0; text.len().min(PIECE_BYTES) * SCRATCH_WORDS_PER_BYTE]
}

/// A message that every chat format has, of a role and a text.
fn message(message: &Value) -> Option<(Role, &str)> {
    let role = Role::named(message["role"].as_str()?)?;
    let fields = message.as_object()?;
    (fields.len() == 2).then(|| Some((role, message["content"].as_str()?))).flatten()
}

/// The first role that only a template can know.
fn odd_role(messages: &[Value]) -> String {
    let odd = messages.iter().find(|said| message(said).is_none());
    odd.and_then(|said| said["role"].as_str()).unwrap_or_default().to_owned()
}

/// The door's way to the clerk.
#[derive(Clone)]
pub struct ToClerk(pub UnboundedSender<Request>);

impl ToClerk {
    /// Has something done; `None` when the clerk has gone.
    pub async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Clerk<'_>) -> T + Send + 'static,
    ) -> Option<T> {
        let (tell, told) = oneshot::channel();
        let request = Box::new(move |clerk: &mut Clerk<'_>| {
            // Whoever waited may have left.
            let _ = tell.send(work(clerk));
        });
        self.0.send(request).ok()?;
        told.await.ok()
    }
}
