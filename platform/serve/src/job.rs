//! What the door asks of the engine's side, and what it hears.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rill::sampler::{Bias, Settings};
use rill::sequence::SequenceError;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::Sender;

use crate::form::{Form, Marks};

/// Events that an answer may be ahead of who reads it.
pub const EVENTS: usize = 64;

/// A prompt as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// At least one.
    pub tokens: Vec<u32>,
    /// Whether its end begins the thinking of the answer.
    pub thinks: bool,
}

/// How an answer is made.
#[derive(Debug, Clone)]
pub struct Style {
    /// How tokens are chosen.
    pub settings: Settings,
    /// Seed of the random choices.
    pub seed: u64,
    /// What is added to which logits.
    pub biases: Vec<Bias>,
    /// The answer ends before these texts.
    pub stops: Vec<String>,
    /// Most tokens.
    pub most: u64,
    /// Most bytes of them: it ends after the token that makes them so many.
    pub most_bytes: u64,
    /// Whether thinking is told apart: in conversations.
    pub tells_thinking: bool,
    /// Most tokens of thinking.
    pub thinking: Option<u64>,
    /// The form that it must have.
    pub form: Option<Arc<Form>>,
    /// What begins and ends calls, where they are told apart.
    pub calls: Option<Marks>,
    /// Log-probabilities of each token and of so many of the best.
    pub logprobs: Option<usize>,
}

impl Style {
    /// Of a text that goes on for at most so many tokens, and of which nothing else is wanted.
    pub fn new(settings: Settings, seed: u64, most: u64) -> Self {
        Self {
            settings,
            seed,
            biases: Vec::new(),
            stops: Vec::new(),
            most,
            most_bytes: u64::MAX,
            tells_thinking: false,
            thinking: None,
            form: None,
            calls: None,
            logprobs: None,
        }
    }
}

/// What is to be done with a prompt.
#[derive(Debug, Clone)]
pub enum Work {
    /// Continue it.
    Answer(Box<Style>),
    /// Say how likely each of these continuations is.
    Decide(Vec<Vec<u32>>),
}

/// One answer to be given.
#[derive(Debug)]
pub struct Job {
    /// What to answer.
    pub prompt: Prompt,
    /// What kind of answer.
    pub work: Work,
    /// Which of its request's answers it is.
    pub choice: usize,
    /// When it was asked for.
    pub asked: Instant,
    /// When it ends at the latest.
    pub deadline: Instant,
    /// Who hears of it; a client that left has dropped the other end.
    pub events: Sender<(usize, Event)>,
    /// Its place in the queue, given back with the job.
    #[expect(dead_code, reason = "it counts as long as it is there")]
    pub place: OwnedSemaphorePermit,
}

/// A token in an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// A token in an answer, and the best in its place.
pub type Likely = (Token, Vec<Token>);

/// What a piece of an answer's text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Thinking.
    Thinking,
    /// The answer itself.
    Answer,
    /// Calls of tools, as the model writes them.
    Calls,
    /// The end of such calls.
    CallsEnd,
}

/// Pieces of an answer's text.
pub type Said = Vec<(Part, String)>;

/// What happened to an answer.
#[derive(Debug, Clone)]
pub enum Event {
    /// Its prompt has so many tokens, of which so many were known.
    Begun {
        /// Tokens of the prompt.
        prompt: usize,
        /// Those of them that needed no computing.
        cached: usize,
    },
    /// A token came.
    Said {
        /// The text that is certain now.
        text: Said,
        /// The token, and the best in its place, where they were asked for; none of calls.
        token: Option<Likely>,
        /// Bytes of this token and those before it whose text is not certain yet, or never comes.
        behind: usize,
    },
    /// The natural logarithm of the probability of each continuation.
    Decided(Vec<f32>),
    /// It is whole.
    Ended(Account),
    /// It cannot go on.
    Failed(Trouble),
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The model ended it.
    Stop,
    /// This one of the stop texts did.
    StopText,
    /// It has as many tokens as were asked for, or the context, the time or its form has no more.
    Length,
}

/// What an answer took.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    /// Why it ended.
    pub ending: Ending,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Of them, those that needed no computing.
    pub cached: usize,
    /// Tokens of the answer.
    pub tokens: u64,
    /// Of them, those of thinking.
    pub thought: u64,
    /// Time until its place was free.
    pub queued: Duration,
    /// Time from then to the first token.
    pub prompt_time: Duration,
    /// Time from the first token to the last.
    pub answer_time: Duration,
}

/// Why an answer cannot go on.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// What is asked cannot be done.
    Request(String),
    /// It waited for a place as long as it may.
    Waited,
    /// The engine waits for its device, for longer than any batch takes.
    Stuck,
    /// The engine cannot do it, whoever asks: the device fails, or the model is damaged.
    Engine(String),
}

impl From<SequenceError> for Trouble {
    fn from(error: SequenceError) -> Self {
        match error {
            SequenceError::NoBlocks => Self::Waited,
            SequenceError::Page(_) | SequenceError::NoNumbers => Self::Engine(error.to_string()),
            _ => Self::Request(error.to_string()),
        }
    }
}
