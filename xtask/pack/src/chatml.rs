//! The text of which the core writes the tokens, and conversations to compare it on.

use rill::image::Earlier;
use rill_template::Conversation;
use serde_json::json;

/// Opens a message.
pub const OPEN: &str = "<|im_start|>";
/// Closes a message.
pub const CLOSE: &str = "<|im_end|>";
/// Who instructs, asks and answers.
pub const ROLES: [&str; 3] = ["system", "user", "assistant"];
/// Begins and ends thinking.
pub const THINK: [&str; 2] = ["<think>", "</think>"];

/// One message.
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
const THOUGHT: Message =
    message(2, "<think>\nThe library is on floor 5.\n</think>\n\nIt is on floor 5.");
const PADDED: Message = message(1, "  Where is it? \n");
const PADDED_ANSWER: Message = message(2, "\n On floor 5.  ");
const SILENCE: [Message; 2] = [message(1, ""), message(2, "")];

/// A conversation to compare.
pub struct Sample {
    messages: &'static [Message],
    /// Whether the assistant is to answer next.
    answer: bool,
}

/// Conversations that reach every branch of a template: instructions or none, one turn and
/// several, an answer to come or not, contents that are empty or have white space around them,
/// earlier thinking.
pub const SAMPLES: [Sample; 12] = [
    Sample { messages: &[QUESTION], answer: true },
    Sample { messages: &[SYSTEM, QUESTION], answer: true },
    Sample { messages: &[QUESTION, ANSWER, AGAIN], answer: true },
    Sample { messages: &[SYSTEM, QUESTION, ANSWER, AGAIN], answer: true },
    Sample { messages: &[SYSTEM, QUESTION, ANSWER, AGAIN, ANSWER, QUESTION], answer: true },
    Sample { messages: &[SYSTEM, QUESTION, ANSWER], answer: false },
    Sample { messages: &[SILENCE[0]], answer: true },
    Sample { messages: &[SYSTEM, SILENCE[0], SILENCE[1], QUESTION], answer: true },
    Sample { messages: &[PADDED, PADDED_ANSWER, PADDED], answer: true },
    Sample { messages: &[QUESTION, THOUGHT, AGAIN], answer: true },
    Sample { messages: &[SYSTEM, QUESTION, THOUGHT, AGAIN, THOUGHT, QUESTION], answer: true },
    Sample { messages: &[QUESTION, THOUGHT], answer: false },
];

/// How the core thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Habit {
    /// Whether the prompt of an answer begins thinking.
    pub prompted: bool,
    /// What becomes of earlier thinking.
    pub earlier: Earlier,
}

impl Habit {
    /// All of them, the plainest first.
    pub fn all() -> impl Iterator<Item = Self> {
        [Earlier::Stays, Earlier::Leaves, Earlier::LeavesButLast]
            .into_iter()
            .flat_map(|earlier| [false, true].map(|prompted| Self { prompted, earlier }))
    }
}

impl Sample {
    /// For a template.
    pub fn conversation(&self) -> Conversation {
        let message = |m: &Message| json!({"role": m.role, "content": m.content});
        let mut conversation = Conversation::new(self.messages.iter().map(message).collect());
        conversation.add_generation_prompt = self.answer;
        conversation
    }

    /// Whether the assistant is to answer next.
    pub fn asks(&self) -> bool {
        self.answer
    }

    /// As the core writes it.
    pub fn chatml(&self, bos: &str, habit: Habit) -> String {
        let [_, user, assistant] = ROLES;
        let last_user = self.messages.iter().rposition(|m| m.role == user).unwrap_or(0);
        let last_answer = self.messages.iter().rposition(|m| m.role == assistant).unwrap_or(0);
        let mut text = String::from(bos);
        for (index, Message { role, content }) in self.messages.iter().enumerate() {
            let leaves = match habit.earlier {
                Earlier::Stays => false,
                Earlier::Leaves => index < last_user,
                Earlier::LeavesButLast => index < last_answer,
            };
            let content = match content.split_once(THINK[1]) {
                Some((_, rest)) if leaves => rest.trim_start(),
                _ => content,
            };
            text += &format!("{OPEN}{role}\n{content}{CLOSE}\n");
        }
        if self.answer {
            text += &format!("{OPEN}{assistant}\n");
            if habit.prompted {
                text += &format!("{}\n", THINK[0]);
            }
        }
        text
    }
}
