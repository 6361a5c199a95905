//! Texts to calibrate with or to measure on, as tokens.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rill::chat::Role;
use rill::image::{Chat, ChatTemplate, Template as Verdict};
use rill::tokenizer::{SCRATCH_WORDS_PER_BYTE, Tokenizer};
use rill_template::{Conversation, Template, Words};
use serde_json::Value;

/// Largest file of texts that is read.
const FILE_BYTES: u64 = 64 << 20;

/// What a model hears at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Its file.
    pub file: String,
    /// Its file and, where that has several, its line there and its number of several windows.
    pub name: String,
    /// Its tokens, the model's begin token first where it has one. At least 2.
    pub ids: Vec<u32>,
}

/// Why texts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextsError {
    /// A file cannot be read.
    #[error("{} cannot be read: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file is larger than any that is read.
    #[error("{} has more than {} MiB; give less text", .0.display(), FILE_BYTES >> 20)]
    Large(PathBuf),
    /// A file is no text.
    #[error("{} is not UTF-8 from byte {at} on", path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
        /// The first byte that is wrong.
        at: usize,
    },
    /// A line says nothing that a model could hear.
    #[error("{} line {line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The model's tokenizer or template is damaged.
    #[error("the model's {0} cannot be used")]
    Model(&'static str),
    /// There is nothing to go by.
    #[error("the texts have fewer than {least} tokens: give more text")]
    Short {
        /// How many there must be.
        least: usize,
    },
}

/// Cuts texts into what a model hears at once, and conversations into what it is told.
pub struct Reader<'t> {
    tokenizer: Tokenizer<'t>,
    begin: Option<u32>,
    template: Option<Template>,
    chat: &'t Chat,
    window: usize,
}

impl<'t> Reader<'t> {
    /// For a model with this tokenizer section, chat format and template section. No text will have
    /// more than `window` tokens.
    pub fn new(
        tables: &'t [u8],
        vocab: u32,
        chat: &'t Chat,
        template: &[u8],
        window: usize,
    ) -> Result<Self, TextsError> {
        let tokenizer =
            Tokenizer::parse(tables, vocab).map_err(|_| TextsError::Model("tokenizer"))?;
        // Where the core writes what the template would, the core's way is the quick one.
        let follows = chat.template != Verdict::Same && !template.is_empty();
        let template = follows
            .then(|| {
                let section = ChatTemplate::parse(template)?;
                Template::new(section.source, Words::of(&tokenizer, chat, &section)).ok()
            })
            .map(|template| template.ok_or(TextsError::Model("chat template")))
            .transpose()?;
        Ok(Self { tokenizer, begin: chat.begin, template, chat, window: window.max(2) })
    }

    /// Reads files: those that end in `.jsonl` have a conversation or a text on each line (a list of
    /// messages, an object with `messages` or `text`, or a string); others are one text each.
    pub fn read(&self, paths: &[PathBuf]) -> Result<Vec<Text>, TextsError> {
        let mut texts = Vec::new();
        for path in paths {
            let content = content(path)?;
            if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("jsonl")) {
                for (index, line) in content.lines().enumerate() {
                    if line.trim().is_empty() {
                        continue;
                    }
                    let line_error = |reason: String| TextsError::Line {
                        path: path.clone(),
                        line: index + 1,
                        reason,
                    };
                    let value = serde_json::from_str(line)
                        .map_err(|error| line_error(format!("not JSON: {error}")))?;
                    let ids = self.line(&value).map_err(line_error)?;
                    let name = format!("{}:{}", path.display(), index + 1);
                    self.windows(path, &name, &ids, &mut texts);
                }
            } else {
                let name = path.display().to_string();
                self.windows(path, &name, &self.encode(&content), &mut texts);
            }
        }
        Ok(texts)
    }

    /// The tokens of what a line says, without the begin token.
    fn line(&self, value: &Value) -> Result<Vec<u32>, String> {
        let fields = value.as_object();
        let field = |name: &str| fields.and_then(|fields| fields.get(name));
        if let Some(text) = value.as_str().or_else(|| field("text").and_then(Value::as_str)) {
            return Ok(self.encode(text));
        }
        let Some(messages) =
            value.as_array().or_else(|| field("messages").and_then(Value::as_array))
        else {
            return Err("give a string, a list of messages, or an object with `messages` or \
                        `text`"
                .into());
        };
        if messages.is_empty() {
            return Err("a conversation without messages".into());
        }
        self.conversation(messages)
    }

    fn conversation(&self, messages: &[Value]) -> Result<Vec<u32>, String> {
        if let Some(template) = &self.template {
            let rendered = template.render(&Conversation::new(messages.to_vec()));
            let mut ids = rendered
                .map_err(|error| error.to_string())?
                .tokens(&self.tokenizer)
                .map_err(|error| error.to_string())?;
            if ids.first() == self.begin.as_ref() && self.begin.is_some() {
                ids.remove(0);
            }
            return Ok(ids);
        }
        let mut ids = Vec::new();
        for message in messages {
            let text = |key: &str| {
                let text = message.get(key).and_then(Value::as_str);
                text.ok_or_else(|| format!("a message without the text `{key}`"))
            };
            let (role, content) = (text("role")?, text("content")?);
            let other = || format!("the role {role:?} is none of system, user, assistant");
            let role = Role::named(role).ok_or_else(other)?.word(self.chat);
            ids.extend(self.chat.open);
            ids.extend(self.encode(&format!("{role}\n{content}")));
            ids.extend(self.chat.close);
            ids.extend(self.encode("\n"));
        }
        Ok(ids)
    }

    /// The ids of a text; names of control tokens in it are text.
    fn encode(&self, text: &str) -> Vec<u32> {
        encode(&self.tokenizer, text, false)
    }

    /// Cuts ids into windows that each begin with the begin token.
    fn windows(&self, path: &Path, name: &str, ids: &[u32], texts: &mut Vec<Text>) {
        let window = (self.window - usize::from(self.begin.is_some())).max(1);
        for (index, part) in ids.chunks(window).enumerate() {
            let name =
                if ids.len() > window { format!("{name} ({})", index + 1) } else { name.into() };
            let ids: Vec<u32> = self.begin.into_iter().chain(part.iter().copied()).collect();
            if ids.len() > 1 {
                texts.push(Text { file: path.display().to_string(), name, ids });
            }
        }
    }
}

/// The ids of a text of any length. With `special` the names of control tokens in it become those tokens.
pub fn encode(tokenizer: &Tokenizer<'_>, text: &str, special: bool) -> Vec<u32> {
    // No token has fewer bytes than one, and no piece more than the text.
    let mut scratch = vec![0; text.len() * SCRATCH_WORDS_PER_BYTE];
    let mut ids = vec![0; text.len()];
    let count = tokenizer.encode(text, special, &mut scratch, &mut ids).unwrap_or_else(|error| {
        unreachable!("there is room for any text of {} bytes: {error}", text.len())
    });
    ids.truncate(count);
    ids
}

fn content(path: &Path) -> Result<String, TextsError> {
    let read = |error| TextsError::Read { path: path.into(), error };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(read)?;
    file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(TextsError::Large(path.into()));
    }
    String::from_utf8(bytes).map_err(|error| TextsError::Encoding {
        path: path.into(),
        at: error.utf8_error().valid_up_to(),
    })
}
