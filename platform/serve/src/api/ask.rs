//! From a request to answers under way, and to whole ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use rill_template::{Conversation, TemplateError};
use serde_json::Value;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::timeout;

use super::held::{Given, Held};
use super::spoken::{Reader, Spoken, Tokens};
use crate::calls::Call;
use crate::clerk::PromptError;
use crate::door::Guest;
use crate::error::ApiError;
use crate::form::{NoForm, Wanted};
use crate::job::{Account, EVENTS, Ending, Event, Job, Likely, Prompt, Style, Trouble, Work};
use crate::metrics::Outcome;
use crate::server::{Open, Shared};

/// While nothing comes it is looked so often whether anything can.
const LOOK: Duration = Duration::from_secs(1);

/// Answers under way. Dropping them tells the worker that nobody waits any more.
pub struct Answers {
    events: Receiver<(usize, Event)>,
    /// Those that have not ended.
    open: usize,
    shared: Arc<Shared>,
    guest: Guest,
    spent: Spent,
    /// The room for what is kept of them.
    held: Held,
}

/// What answers took so far, as their usage tells it: a prompt counts once, however many answers it has.
struct Spent {
    per_prompt: usize,
    prompts: u64,
    /// Tokens of each answer.
    tokens: Vec<u64>,
}

impl Spent {
    fn new(prompts: usize, per_prompt: usize) -> Self {
        Self { per_prompt, prompts: 0, tokens: vec![0; prompts * per_prompt] }
    }

    fn hear(&mut self, choice: usize, event: &Event) {
        match event {
            Event::Begun { prompt, .. } if choice.is_multiple_of(self.per_prompt) => {
                self.prompts += *prompt as u64;
            }
            Event::Said { .. } => self.tokens[choice] += 1,
            // Only now it is known: some tokens say nothing, and some text is no token's.
            Event::Ended(account) => self.tokens[choice] = account.tokens,
            Event::Begun { .. } | Event::Decided(_) | Event::Failed(_) => {}
        }
    }

    fn all(&self) -> u64 {
        self.prompts + self.tokens.iter().sum::<u64>()
    }
}

/// One whole answer.
#[derive(Debug, Clone, Default)]
pub struct Whole {
    /// What the model thought.
    pub thinking: String,
    /// What it said.
    pub text: String,
    /// What it called.
    pub calls: Vec<Call>,
    /// The tokens of what it said with log-probabilities, where they were asked for.
    pub tokens: Vec<Likely>,
    /// How it ended.
    pub account: Option<Account>,
    /// Log-probabilities of choices.
    pub decided: Vec<f32>,
}

/// Has a conversation, which stands in `field`, written as tokens, and sees to it that there is room for
/// an answer.
pub async fn conversation(
    open: &Open,
    field: &str,
    messages: Vec<Value>,
    tools: Option<Vec<Value>>,
) -> Result<Prompt, ApiError> {
    let mut conversation = Conversation::new(messages);
    conversation.tools = tools;
    conversation.add_generation_prompt = true;
    conversation.writes_calls = true;
    conversation.now = (open.facts.now)();
    let written = open.clerk.ask(move |clerk| clerk.conversation(&conversation)).await;
    fitting(open, field, written)
}

/// Has a plain text written as tokens.
pub async fn text(open: &Open, field: &str, text: String) -> Result<Prompt, ApiError> {
    let written = open.clerk.ask(move |clerk| clerk.text(&text)).await;
    fitting(open, field, written)
}

/// Makes the answers of a style have a form, which the field `field` asks for. One that begins with it is
/// not thought about: it begins at once.
pub async fn form(
    open: &Open,
    field: &str,
    wanted: Option<Wanted>,
    style: &mut Style,
) -> Result<(), ApiError> {
    let Some(wanted) = wanted else { return Ok(()) };
    let calls = matches!(wanted, Wanted::Calls(_));
    let vocab = open.facts.vocab;
    let made = open.clerk.ask(move |clerk| clerk.form(wanted, vocab)).await.ok_or_else(gone)?;
    let form = made.map_err(|error| match error {
        NoForm::Full => full(),
        // Of calls it is the full name of a field already.
        NoForm::Wrong(error) if calls => ApiError::field(error.path, error.message),
        NoForm::Wrong(error) => ApiError::field(format!("{field}{}", error.path), error.message),
    })?;
    if form.begins_at_once() {
        style.thinking = Some(0);
    }
    style.form = Some(form);
    Ok(())
}

/// A prompt that leaves room for at least one token.
fn fitting(
    open: &Open,
    field: &str,
    written: Option<Result<Prompt, PromptError>>,
) -> Result<Prompt, ApiError> {
    let prompt = written.ok_or_else(gone)?.map_err(|error| {
        let field = match &error {
            // Tools are written into the prompt too.
            PromptError::Template(TemplateError::Deep(what, _)) if what == "tools" => "tools",
            _ => field,
        };
        ApiError::field(field, error)
    })?;
    fits(open, field, prompt)
}

/// The prompt, if it has tokens and leaves room for at least one.
pub fn fits(open: &Open, field: &str, prompt: Prompt) -> Result<Prompt, ApiError> {
    let (len, context) = (prompt.tokens.len(), open.facts.context);
    if len == 0 {
        return Err(ApiError::field(field, "there is nothing to continue"));
    }
    if len >= context {
        let message = format!(
            "the prompt has {len} tokens and the context {context}: shorten it, or start the server \
             with a larger one (-c)"
        );
        return Err(ApiError::field(field, message).code("context_length_exceeded"));
    }
    Ok(prompt)
}

/// The server is at its end.
pub fn gone() -> ApiError {
    ApiError::later(StatusCode::SERVICE_UNAVAILABLE, 30, "the server is about to end")
}

fn full() -> ApiError {
    let message = "as many answers wait as may: try again later";
    ApiError::later(StatusCode::TOO_MANY_REQUESTS, 5, message).code("queue_full")
}

/// Queues answers, of which so many bytes are kept: of each prompt as many as `count`. Seeds count up from
/// that of the style.
pub fn start(
    shared: &Arc<Shared>,
    guest: Guest,
    prompts: Vec<Prompt>,
    count: usize,
    work: &Work,
    bytes: usize,
) -> Result<Answers, ApiError> {
    let all = prompts.len() * count;
    let places: Result<Vec<_>, _> =
        (0..all).map(|_| Arc::clone(&shared.queue).try_acquire_owned()).collect();
    let mut places = places.map_err(|_| full())?;
    let held = Held::take(&shared.answers, bytes).ok_or_else(full)?;
    let (tell, events) = channel(EVENTS * all.max(1));
    let asked = Instant::now();
    for (choice, place) in places.drain(..).enumerate() {
        let mut work = work.clone();
        if let Work::Answer(style) = &mut work {
            style.seed = style.seed.wrapping_add((choice % count) as u64);
        }
        let job = Job {
            prompt: prompts[choice / count].clone(),
            work,
            choice,
            asked,
            deadline: asked + shared.limits.time,
            events: tell.clone(),
            place,
        };
        if !shared.send(job) {
            return Err(gone());
        }
    }
    let shared = Arc::clone(shared);
    let spent = Spent::new(prompts.len(), count);
    Ok(Answers { events, open: all, shared, guest, spent, held })
}

/// Queues answers of a style by the model that is open, which are given like this.
pub fn answer(
    shared: &Arc<Shared>,
    open: &Open,
    guest: Guest,
    prompts: Vec<Prompt>,
    count: usize,
    mut style: Style,
    given: Given,
) -> Result<Answers, ApiError> {
    // More than can wait and be under way at once never come to their turn.
    let most = shared.limits.choices.min(shared.limits.queue.saturating_add(open.facts.places));
    let all = prompts.len() * count;
    if all > most {
        return Err(ApiError::field("n", format!("{all} answers are more than {most}")));
    }
    let shortest = prompts.iter().map(|prompt| prompt.tokens.len()).min().unwrap_or(0);
    let left = open.facts.context.saturating_sub(shortest) as u64;
    let bytes = given.bound(&mut style, left, all, &shared.limits)?;
    start(shared, guest, prompts, count, &Work::Answer(Box::new(style)), bytes)
}

impl Answers {
    /// The next event and whose it is; `None` when all have ended.
    pub async fn next(&mut self) -> Option<(usize, Event)> {
        if self.open == 0 {
            return None;
        }
        let heard = loop {
            match timeout(LOOK, self.events.recv()).await {
                Ok(heard) => break heard.ok_or(Trouble::Engine("the server ends".into())),
                // The worker waits for its device, and cannot say so.
                Err(_) if self.shared.is_stuck() => break Err(Trouble::Stuck),
                Err(_) => {}
            }
        };
        let (choice, event) = match heard {
            Ok(heard) => heard,
            Err(trouble) => {
                (0..self.open).for_each(|_| self.end(Outcome::Failed));
                return Some((0, Event::Failed(trouble)));
            }
        };
        self.spent.hear(choice, &event);
        match &event {
            Event::Begun { cached, .. } => self.shared.metrics.reuse(*cached),
            Event::Said { .. } | Event::Decided(_) => {}
            Event::Ended(account) => self.end(match account.ending {
                Ending::Stop | Ending::StopText => Outcome::Whole,
                Ending::Length => Outcome::Cut,
            }),
            Event::Failed(_) => self.end(Outcome::Failed),
        }
        Some((choice, event))
    }

    fn end(&mut self, outcome: Outcome) {
        self.open -= 1;
        self.shared.metrics.answer(outcome);
    }

    /// All of them, whole, and the room for them.
    pub async fn whole(mut self) -> Result<(Vec<Whole>, Held), ApiError> {
        let count = self.spent.tokens.len();
        let mut all = vec![Whole::default(); count];
        let mut readers = vec![<(Reader, Tokens)>::default(); count];
        while let Some((choice, event)) = self.next().await {
            let whole = &mut all[choice];
            match event {
                Event::Begun { .. } => {}
                Event::Said { text, token, behind } => {
                    let (reader, tokens) = &mut readers[choice];
                    whole.tokens.extend(tokens.read(&text, token, behind));
                    reader.read(text, |spoken| match spoken {
                        Spoken::Thinking(piece) => whole.thinking.push_str(&piece),
                        Spoken::Text(piece) => whole.text.push_str(&piece),
                        Spoken::Call(piece) => Call::collect(&mut whole.calls, piece),
                    });
                }
                Event::Decided(logprobs) => whole.decided = logprobs,
                Event::Ended(mut account) => {
                    account.ending = readers[choice].0.ending(account.ending);
                    whole.account = Some(account);
                }
                Event::Failed(trouble) => return Err(trouble.into()),
            }
        }
        Ok((all, self.held.clone()))
    }

    /// The room for them.
    pub fn held(&self) -> Held {
        self.held.clone()
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        (0..self.open).for_each(|_| self.shared.metrics.answer(Outcome::Left));
        if let (Some(name), Some(mut keys)) = (&self.guest.0, self.shared.keys()) {
            keys.spend(name, self.spent.all());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_of_several_answers_is_spent_once() {
        let mut spent = Spent::new(2, 2);
        let account = Account {
            ending: Ending::Stop,
            prompt: 10,
            cached: 0,
            tokens: 4,
            thought: 0,
            queued: Duration::ZERO,
            prompt_time: Duration::ZERO,
            answer_time: Duration::ZERO,
        };
        for choice in 0..4 {
            spent.hear(choice, &Event::Begun { prompt: 10, cached: 0 });
            spent.hear(choice, &Event::Said { text: Vec::new(), token: None, behind: 0 });
        }
        // Who leaves now has had a token of each.
        assert_eq!(spent.all(), 2 * 10 + 4);
        (0..4).for_each(|choice| spent.hear(choice, &Event::Ended(account)));
        assert_eq!(spent.all(), 2 * 10 + 4 * 4);
    }
}
