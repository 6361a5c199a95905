//! What is done with a model, on its own thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rill::answer::StopError;
use rill::generate::{Ending, Free};
use rill::sampler::{Logprobs, Settings};
use rill::seams::{Event, Events};
use rill::sequence::SequenceError;
use rill::tokenizer::EncodeError;
use rill_linux::answer::{AnswerOptions, Speech, hear};
use rill_linux::engine::Engine;
use rill_linux::talk::{Message, Talk, TalkError};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// The conversation cannot go on.
    #[error(transparent)]
    Talk(#[from] TalkError),
    /// The model cannot go on.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// A text has a run that cannot be cut.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A stop text is not usable.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// Something is out of range.
    #[error("{0}")]
    Argument(String),
    /// Every conversation is in use.
    #[error(
        "all {0} conversations are in use: close one, or load the model with more `conversations`"
    )]
    Full(usize),
    /// The conversation is closed.
    #[error("the conversation is closed")]
    Closed,
    /// The user interrupted it.
    #[error("interrupted")]
    Interrupted,
}

/// How an answer is chosen, and when it ends.
#[derive(Debug, Clone, Default)]
pub struct Manner {
    /// When it ends.
    pub options: AnswerOptions,
    /// What is chosen otherwise than the image advises.
    pub sampling: Sampling,
    /// Seed of the random choices.
    pub seed: u64,
}

/// What is chosen otherwise than the image advises.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sampling {
    /// See [`rill::image::Sampling`].
    pub temperature: Option<f32>,
    /// As above.
    pub top_k: Option<u32>,
    /// As above.
    pub top_p: Option<f32>,
    /// As above.
    pub min_p: Option<f32>,
    /// As above.
    pub repetition_penalty: Option<f32>,
}

/// What is asked.
pub enum Prompt {
    /// Messages, which the model answers.
    Chat(Vec<Message>),
    /// A text, which the model continues.
    Raw(String),
}

/// An answer.
pub struct Answer {
    /// What the model said.
    pub text: String,
    /// What it thought before, if it did.
    pub thinking: Option<String>,
    /// Why it ended.
    pub ending: Ending,
    /// Tokens of what was asked.
    pub prompt_tokens: usize,
    /// Tokens of the answer.
    pub answer_tokens: usize,
}

/// A loaded model and who speaks with it.
pub struct Model<'m> {
    /// The model.
    pub engine: Engine<'m>,
    /// Each conversation; `None` for those that nobody has.
    chats: Vec<Option<Chat>>,
    /// Number of the conversation that begins next: no two have the same.
    next: u64,
    /// Ends what is computed now.
    pub stop: Arc<AtomicBool>,
}

/// A conversation.
struct Chat {
    id: u64,
    talk: Talk,
    /// An answer under way.
    speech: Option<Speech>,
}

/// Says when to stop, and hears nothing.
struct Stop<'s>(&'s AtomicBool);

impl Events for Stop<'_> {
    fn hear(&mut self, _: Event) {}

    fn wants_stop(&mut self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl<'m> Model<'m> {
    /// A model that nobody speaks with.
    pub fn new(engine: Engine<'m>) -> Self {
        let chats = (0..engine.session.conversations()).map(|_| None).collect();
        Self { engine, chats, next: 1, stop: Arc::default() }
    }

    /// Fails if not all of these are tokens of the model.
    pub fn know(&self, tokens: &[u32]) -> Result<(), Wrong> {
        let vocab = self.engine.image.manifest.shape.vocab;
        match tokens.iter().find(|&&id| id >= vocab) {
            Some(id) => Err(Wrong::Argument(format!("token {id} is not in the vocabulary"))),
            None => Ok(()),
        }
    }

    /// A conversation that nobody has; it is empty and selected.
    fn free(&mut self) -> Result<usize, Wrong> {
        let free = self.chats.iter().position(Option::is_none);
        let number = free.ok_or(Wrong::Full(self.chats.len()))?;
        self.engine.session.select(number);
        self.engine.session.reset();
        Ok(number)
    }

    /// The place of a conversation.
    fn place(&self, id: u64) -> Result<usize, Wrong> {
        let is_it = |chat: &Option<Chat>| chat.as_ref().is_some_and(|chat| chat.id == id);
        self.chats.iter().position(is_it).ok_or(Wrong::Closed)
    }

    /// Begins a conversation.
    pub fn begin(&mut self, system: Option<&str>) -> Result<u64, Wrong> {
        let number = self.free()?;
        let talk = Talk::begin(&mut self.engine, system)?;
        let id = self.next;
        self.next += 1;
        self.chats[number] = Some(Chat { id, talk, speech: None });
        Ok(id)
    }

    /// Ends a conversation; one that has ended stays so.
    pub fn end(&mut self, id: u64) {
        if let Ok(number) = self.place(id) {
            self.chats[number] = None;
            self.engine.session.select(number);
            self.engine.session.reset();
        }
    }

    /// Asks in a conversation. An answer under way is over.
    pub fn ask(&mut self, id: u64, question: &str, manner: &Manner) -> Result<(), Wrong> {
        let number = self.place(id)?;
        let settings = self.settings(&manner.sampling)?;
        self.hush(number);
        let Self { engine, chats, .. } = self;
        let Some(Chat { talk, speech, .. }) = &mut chats[number] else { return Err(Wrong::Closed) };
        engine.session.select(number);
        engine.session.set_sampling(settings, manner.seed);
        talk.ask(engine, question)?;
        *speech = Some(Speech::begin(engine, Some(talk), &manner.options)?);
        Ok(())
    }

    /// The next text of the answer under way; `None` when it is over.
    pub fn speak(&mut self, id: u64) -> Result<Option<String>, Wrong> {
        let number = self.place(id)?;
        let mut said = String::new();
        loop {
            let Self { engine, chats, stop, .. } = self;
            let Some(Chat { speech: Some(speech), .. }) = &mut chats[number] else {
                return Ok(Some(said).filter(|said| !said.is_empty()));
            };
            let mut emit = |part, text: &str| hear(&mut said, &mut None, part, text);
            if speech.go_on(engine, &mut Free, &mut emit)?.is_some() {
                said.push_str(&self.hush(number));
                continue;
            }
            if !said.is_empty() {
                return Ok(Some(said));
            }
            advance(engine, stop, &[number])?;
        }
    }

    /// The answer under way in a conversation is over; what it held back.
    fn hush(&mut self, number: usize) -> String {
        let mut said = String::new();
        if let Some(Chat { talk, speech, .. }) = &mut self.chats[number]
            && let Some(speech) = speech.take()
        {
            let emit = |part, text: &str| hear(&mut said, &mut None, part, text);
            speech.finish(&mut self.engine, Some(talk), emit);
        }
        said
    }

    /// Answers prompts, as many side by side as there are conversations that nobody has.
    pub fn answer_all(
        &mut self,
        prompts: Vec<Prompt>,
        manner: &Manner,
    ) -> Result<Vec<Answer>, Wrong> {
        let settings = self.settings(&manner.sampling)?;
        let free: Vec<usize> =
            (0..self.chats.len()).filter(|&number| self.chats[number].is_none()).collect();
        if free.is_empty() && !prompts.is_empty() {
            return Err(Wrong::Full(self.chats.len()));
        }
        let answered = self.answer_in(free.clone(), prompts, manner, settings);
        for number in free {
            self.engine.session.select(number);
            self.engine.session.reset();
        }
        answered
    }

    fn answer_in(
        &mut self,
        mut free: Vec<usize>,
        prompts: Vec<Prompt>,
        manner: &Manner,
        settings: Settings,
    ) -> Result<Vec<Answer>, Wrong> {
        struct Running {
            place: usize,
            number: usize,
            speech: Speech,
            talk: Option<Talk>,
            text: String,
            thinking: Option<String>,
            prompt_tokens: usize,
        }
        let engine = &mut self.engine;
        let mut answers: Vec<Option<Answer>> = prompts.iter().map(|_| None).collect();
        let mut waiting = prompts.into_iter().enumerate().peekable();
        let mut running = Vec::<Running>::new();
        loop {
            while waiting.peek().is_some()
                && let Some(number) = free.pop()
                && let Some((place, prompt)) = waiting.next()
            {
                engine.session.select(number);
                engine.session.reset();
                let mut talk = None;
                match prompt {
                    Prompt::Raw(text) => engine.session.append_text(&text)?,
                    Prompt::Chat(messages) => {
                        talk.insert(Talk::begin(engine, None)?).ask_all(engine, &messages)?;
                    }
                }
                engine.session.set_sampling(settings, manner.seed);
                let speech = Speech::begin(engine, talk.as_ref(), &manner.options)?;
                let prompt_tokens = engine.session.tokens().len();
                let (text, thinking) = (String::new(), None);
                running.push(Running {
                    place,
                    number,
                    speech,
                    talk,
                    text,
                    thinking,
                    prompt_tokens,
                });
            }
            if running.is_empty() {
                break;
            }
            let before = running.len();
            for mut one in std::mem::take(&mut running) {
                let Running { speech, text, thinking, .. } = &mut one;
                let emit = |part, piece: &str| hear(text, thinking, part, piece);
                let Some(ending) = speech.go_on(engine, &mut Free, emit)? else {
                    running.push(one);
                    continue;
                };
                let Running { place, number, speech, mut talk, mut text, mut thinking, .. } = one;
                let emit = |part, piece: &str| hear(&mut text, &mut thinking, part, piece);
                speech.finish(engine, talk.as_mut(), emit);
                let prompt_tokens = one.prompt_tokens;
                let answer_tokens = engine.session.tokens().len() - prompt_tokens;
                engine.session.reset();
                free.push(number);
                answers[place] =
                    Some(Answer { text, thinking, ending, prompt_tokens, answer_tokens });
            }
            // Who is done makes room for another.
            if running.len() == before {
                let order: Vec<usize> = running.iter().map(|one| one.number).collect();
                advance(engine, &self.stop, &order)?;
            }
        }
        // The loop ends when every prompt has its answer.
        Ok(answers.into_iter().flatten().collect())
    }

    /// Calls `each` with the logits after each of `tokens`, in order.
    pub fn each_logits(
        &mut self,
        tokens: &[u32],
        mut each: impl FnMut(&[f32]),
    ) -> Result<(), Wrong> {
        self.free()?;
        let Self { engine, stop, .. } = self;
        engine.session.append(tokens)?;
        let mut events = Stop(stop);
        let world = &mut engine.machine.world(&mut events);
        let computed = engine.session.each_logits(world, |logits| {
            each(logits);
            Ok(())
        });
        engine.session.reset();
        computed
    }

    /// The logits after `tokens`.
    pub fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Wrong> {
        self.free()?;
        let Self { engine, stop, .. } = self;
        engine.session.append(tokens)?;
        if tokens.is_empty() {
            return Err(SequenceError::Empty.into());
        }
        loop {
            let more = engine.session.compute(&mut engine.machine.world(&mut Stop(stop)));
            if !more.inspect_err(|_| engine.session.reset())? {
                break;
            }
        }
        let logits = engine.session.logits().to_vec();
        engine.session.reset();
        Ok(logits)
    }

    /// How likely the tokens from `from` on are after those before them: natural logarithms of their
    /// probabilities, and whether each is the most likely one.
    pub fn score(&mut self, tokens: &[u32], from: usize) -> Result<Vec<(f32, bool)>, Wrong> {
        if from == 0 || from > tokens.len() {
            return Err(Wrong::Argument("`from` must be 1 to the number of tokens".into()));
        }
        self.know(tokens)?;
        let mut scores = Vec::with_capacity(tokens.len() - from);
        let mut at = 0;
        let wanted = tokens.to_vec();
        self.each_logits(&tokens[..tokens.len() - 1], |logits| {
            at += 1;
            if at >= from {
                let Logprobs { chosen, best } = Logprobs::of(logits, wanted[at], 1);
                scores.push((chosen, best.first().is_some_and(|best| best.id == wanted[at])));
            }
        })?;
        Ok(scores)
    }

    /// The text of a conversation as the model is to hear it, the beginning of its answer included.
    pub fn chat_text(&mut self, messages: &[Message]) -> Result<Vec<u8>, Wrong> {
        self.free()?;
        let mut talk = Talk::begin(&mut self.engine, None)?;
        talk.ask_all(&mut self.engine, messages)?;
        let session = &mut self.engine.session;
        let pieces = session.tokens().iter().flat_map(|&id| session.tokenizer().piece(id));
        let text = pieces.copied().collect();
        session.reset();
        Ok(text)
    }

    /// The tokens of a text.
    pub fn encode(&mut self, text: &str, control: bool) -> Result<Vec<u32>, Wrong> {
        // No text has more tokens than bytes.
        let mut ids = vec![0; text.len()];
        let count = self.engine.session.parts().0.encode(text, control, &mut ids)?;
        ids.truncate(count);
        Ok(ids)
    }

    /// How tokens are chosen.
    fn settings(&self, other: &Sampling) -> Result<Settings, Wrong> {
        let advised = self.engine.image.manifest.sampling;
        let sampling = rill::image::Sampling {
            temperature: other.temperature.unwrap_or(advised.temperature),
            top_k: other.top_k.unwrap_or(advised.top_k),
            top_p: other.top_p.unwrap_or(advised.top_p),
            min_p: other.min_p.unwrap_or(advised.min_p),
            repetition_penalty: other.repetition_penalty.unwrap_or(advised.repetition_penalty),
        };
        match sampling.out_of_range() {
            Some(name) => Err(Wrong::Argument(format!("`{name}` is out of range"))),
            None => Ok(sampling.into()),
        }
    }
}

/// One batch for conversations that wait for it.
fn advance(engine: &mut Engine<'_>, stop: &AtomicBool, order: &[usize]) -> Result<(), Wrong> {
    match engine.advance(&mut Stop(stop), order) {
        Ok(advance) if advance.rows == 0 => Err(SequenceError::NoBlocks.into()),
        Ok(_) if stop.load(Ordering::Relaxed) => Err(Wrong::Interrupted),
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
