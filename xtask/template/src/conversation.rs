use serde_json::{Map, Value};

/// What a template renders, in the form of Hugging Face's `apply_chat_template`.
///
/// Everything in it may come from users; none of its texts becomes a control token.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// The messages, first to last: maps with `role`, `content` (a text or a list of parts) and
    /// what else the template knows (`tool_calls`, `reasoning_content`, ...).
    pub messages: Vec<Value>,
    /// The tools that the model may call, as JSON schemas.
    pub tools: Option<Vec<Value>>,
    /// The documents that the model may cite.
    pub documents: Option<Vec<Value>>,
    /// Whether the assistant is to answer next.
    pub add_generation_prompt: bool,
    /// Whether an assistant's calls are written before its content where the template takes no notice
    /// of them, which `apply_chat_template` does not do: the templates of the first LFM2 expect it.
    pub writes_calls: bool,
    /// What else the template is given by name: `enable_thinking`, `keep_past_thinking`, ...
    pub arguments: Map<String, Value>,
    /// What `strftime_now` takes for the time: seconds of the local clock since 1970 began.
    pub now: i64,
}

impl Conversation {
    /// These messages, with nothing else.
    pub fn new(messages: Vec<Value>) -> Self {
        Self {
            messages,
            tools: None,
            documents: None,
            add_generation_prompt: false,
            writes_calls: false,
            arguments: Map::new(),
            now: 0,
        }
    }

    /// All its values: a message, a key and a text are one each.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Value> {
        let lists = [Some(&self.messages), self.tools.as_ref(), self.documents.as_ref()];
        lists.into_iter().flatten().flatten().chain(self.arguments.values())
    }
}
