//! One conversation's place at the engine.

use std::time::{Duration, Instant};

use rill::draft::{Drafter, Guess, Repeats};
use rill::engine::{Ask, Engine, Step};
use rill::sampler::Logprobs;
use rill::seams::World;
use rill::sequence::{Sequence, SequenceError};

use super::known;
use super::speech::Speech;
use crate::job::{Account, EVENTS, Ending, Event, Job, Token, Trouble, Work};
use crate::metrics::Metrics;

/// Most events of one step: a token for each of the rows of a guess, and the end.
const BURST: usize = EVENTS / 2;

/// A place, free or busy.
pub struct Place<'l, 'a> {
    pub sequence: &'l mut Sequence<'a>,
    /// Its number among all that were begun.
    pub order: u64,
    pub state: State,
}

/// How far the answer in a place is.
#[derive(Debug, Clone, Copy)]
pub struct Seat {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Of them, those that needed no computing.
    pub cached: usize,
    /// Tokens of the answer so far.
    pub tokens: u64,
    /// Of them, how many came a second.
    pub speed: f64,
}

/// What a place is at.
pub enum State {
    /// Nothing.
    Free,
    /// An answer, or a decision.
    Busy(Box<Task>),
}

/// A job under way.
pub struct Task {
    job: Job,
    kind: Kind,
    began: Instant,
    /// When the first token came.
    first: Option<Instant>,
    cached: usize,
    tokens: u64,
    /// Since when its client does not read.
    stuck: Option<Instant>,
}

/// What is made of the logits.
enum Kind {
    Answer(Box<Speech>),
    /// Choices so far, and where the one at work stands.
    Decide {
        sums: Vec<f32>,
        token: usize,
        first: Vec<f32>,
    },
}

impl<'l, 'a> Place<'l, 'a> {
    /// A free place.
    pub fn new(sequence: &'l mut Sequence<'a>) -> Self {
        Self { sequence, order: 0, state: State::Free }
    }

    /// Whether somebody may have it.
    pub fn is_free(&self) -> bool {
        matches!(self.state, State::Free)
    }

    /// How far the answer in it is.
    pub fn seat(&self) -> Option<Seat> {
        let State::Busy(task) = &self.state else { return None };
        let speaking = task.first.map_or(0.0, |first| first.elapsed().as_secs_f64());
        let speed = if speaking > 0.0 { task.tokens as f64 / speaking } else { 0.0 };
        let prompt = task.job.prompt.tokens.len();
        Some(Seat { prompt, cached: task.cached, tokens: task.tokens, speed })
    }

    /// Whether its next step can be taken: somebody is at work, and its client keeps up.
    pub fn can_go_on(&self) -> bool {
        match &self.state {
            State::Free => false,
            State::Busy(task) => 2 * task.job.events.capacity() > task.job.events.max_capacity(),
        }
    }

    /// Begins a job in a free place.
    pub fn begin(&mut self, engine: &mut Engine<'a>, job: Box<Job>, order: u64) {
        self.order = order;
        let begun = self.prepare(engine, &job);
        let (kind, cached) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                let _ = job.events.try_send((job.choice, Event::Failed(error.into())));
                known::end(engine, self.sequence);
                return;
            }
        };
        let event = Event::Begun { prompt: job.prompt.tokens.len(), cached };
        let _ = job.events.try_send((job.choice, event));
        self.state = State::Busy(Box::new(Task {
            job: *job,
            kind,
            began: Instant::now(),
            first: None,
            cached,
            tokens: 0,
            stuck: None,
        }));
    }

    fn prepare(
        &mut self,
        engine: &mut Engine<'a>,
        job: &Job,
    ) -> Result<(Kind, usize), SequenceError> {
        let kind = match &job.work {
            Work::Answer(style) => {
                self.sequence.set_sampling(style.settings, style.seed);
                engine.set_biases(self.sequence, &style.biases)?;
                Kind::Answer(Box::new(Speech::new(engine, style, job.prompt.thinks)))
            }
            Work::Decide(_) => Kind::Decide { sums: Vec::new(), token: 0, first: Vec::new() },
        };
        Ok((kind, known::begin(engine, self.sequence, &job.prompt.tokens)?))
    }

    /// Frees the place when its client left, or its time is over.
    pub fn check(&mut self, engine: &mut Engine<'a>, now: Instant, patience: Duration) {
        let goes_on = self.can_go_on();
        let State::Busy(task) = &mut self.state else { return };
        if task.job.events.is_closed() {
            self.leave(engine);
        } else if now >= task.job.deadline {
            let ending = Ok(Ending::Length);
            self.end(engine, ending);
        } else if goes_on {
            task.stuck = None;
        } else if now.duration_since(*task.stuck.get_or_insert(now)) > patience {
            // Whoever does not read does not hear of it either.
            self.leave(engine);
        }
    }

    /// Takes the next tokens from what was computed, and sends what they say.
    pub fn speak(&mut self, engine: &mut Engine<'a>, world: &mut World<'_, 'a>, metrics: &Metrics) {
        let State::Busy(task) = &mut self.state else { return };
        let outcome = match task.kind {
            Kind::Answer(_) => task.say(engine, world, self.sequence, metrics),
            Kind::Decide { .. } => task.weigh(engine, world, self.sequence).map_err(Trouble::from),
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(ending)) => self.end(engine, Ok(ending)),
            Err(trouble) => self.end(engine, Err(trouble)),
        }
    }

    /// Ends what is under way, and frees the place at once.
    pub fn end(&mut self, engine: &mut Engine<'a>, ending: Result<Ending, Trouble>) {
        let State::Busy(mut task) = std::mem::replace(&mut self.state, State::Free) else { return };
        known::end(engine, self.sequence);
        let event = match ending {
            Ok(ending) => {
                task.finish();
                Event::Ended(task.account(ending))
            }
            Err(trouble) => Event::Failed(trouble),
        };
        // There is room: half of it is kept for one step.
        let _ = task.job.events.try_send((task.job.choice, event));
    }

    fn leave(&mut self, engine: &mut Engine<'a>) {
        self.state = State::Free;
        known::end(engine, self.sequence);
    }
}

impl Drafter for State {
    /// What the form of an answer leaves no choice of, else what was said before, as far as the answer may
    /// go.
    fn draft(&mut self, tokens: &[u32], draft: &mut [u32]) -> Guess {
        let Self::Busy(task) = self else { return Guess::default() };
        let Task { job, tokens: said, .. } = &mut **task;
        let Work::Answer(style) = &mut job.work else { return Guess::default() };
        let left = usize::try_from(style.most.saturating_sub(*said)).unwrap_or(usize::MAX);
        // The last token is not continued.
        let most = draft.len().min(left.saturating_sub(1));
        let draft = &mut draft[..most];
        let forced = style.form.as_mut().map(|form| form.draft(tokens, draft));
        forced.filter(|guess| guess.len > 0).unwrap_or_else(|| Repeats.draft(tokens, draft))
    }
}

impl Task {
    /// The next tokens of an answer; says how it ended, if it did.
    fn say<'a>(
        &mut self,
        engine: &mut Engine<'a>,
        world: &mut World<'_, 'a>,
        sequence: &mut Sequence<'a>,
        metrics: &Metrics,
    ) -> Result<Option<Ending>, Trouble> {
        let Self { job, kind, .. } = self;
        let (Kind::Answer(speech), Work::Answer(style)) = (kind, &mut job.work) else {
            return Ok(None);
        };
        let (events, choice) = (&job.events, job.choice);
        let send = |event| {
            // There is room for as many as one step has; a client that left is noticed in the next.
            let _ = events.try_send((choice, event));
        };
        let mut sent = 0;
        loop {
            if self.tokens >= style.most {
                return Ok(Some(Ending::Length));
            }
            if speech.has_thought_enough() {
                let mut text = Vec::new();
                let end = speech.end_thinking(&mut text);
                send(Event::Said { text, token: None });
                return match engine.append_to_answer(sequence, end.as_ref()) {
                    Err(SequenceError::ContextFull { .. }) => Ok(Some(Ending::Length)),
                    other => Ok(other.map(|()| None)?),
                };
            }
            if sequence.tokens().len() == sequence.context() {
                return Ok(Some(Ending::Length));
            }
            if !engine.has_logits(sequence) || sent + 2 >= BURST {
                return Ok(None);
            }
            let allowed = match &mut style.form {
                Some(form) => form.allowed()?,
                None => None,
            };
            let ask = Ask { allowed, logprobs: style.logprobs };
            let sample = engine.sample_as(world, sequence, &ask)?;
            if let Some(form) = &mut style.form {
                form.accept(sample.id, !speech.is_thinking(), engine.tokenizer())?;
            }
            if self.first.is_none() {
                self.first = Some(Instant::now());
                metrics.first_token(job.asked.elapsed());
            }
            self.tokens += 1;
            let tokenizer = engine.tokenizer();
            let named = |id, logprob| Token { id, bytes: tokenizer.piece(id).to_vec(), logprob };
            let token = sample.logprobs.map(|Logprobs { chosen, best }| {
                let best = best.iter().map(|best| named(best.id, best.logprob)).collect();
                (named(sample.id, chosen), best)
            });
            let mut text = Vec::new();
            let ending = match engine.accept(sequence, sample.id)? {
                Step::Token(id) => {
                    let piece = engine.tokenizer().piece(id);
                    let stopped = speech.push(id, piece, &mut text);
                    stopped.then_some(Ending::StopText)
                }
                Step::End(_) => Some(Ending::Stop),
                Step::Full => Some(Ending::Length),
            };
            // What ends an answer says nothing.
            if ending != Some(Ending::Stop) {
                send(Event::Said { text, token });
                sent += 1;
            }
            if ending.is_some() {
                return Ok(ending);
            }
        }
    }

    /// Log-probabilities of the next tokens of a decision's choices.
    fn weigh<'a>(
        &mut self,
        engine: &mut Engine<'a>,
        world: &mut World<'_, 'a>,
        sequence: &mut Sequence<'a>,
    ) -> Result<Option<Ending>, SequenceError> {
        let (Kind::Decide { sums, token, first }, Work::Decide(choices)) =
            (&mut self.kind, &self.job.work)
        else {
            return Ok(None);
        };
        let Some(logits) = engine.logits(world.parallel, sequence) else { return Ok(None) };
        self.first.get_or_insert_with(Instant::now);
        let prompt = self.job.prompt.tokens.len();
        if first.is_empty() {
            *first =
                choices.iter().map(|choice| Logprobs::of(logits, choice[0], 0).chosen).collect();
        } else {
            let next = choices[sums.len()][*token];
            first[sums.len()] += Logprobs::of(logits, next, 0).chosen;
            *token += 1;
        }
        // Choices of one token are done with the prompt; the others go on from there.
        while let Some(choice) = choices.get(sums.len()) {
            let at = (*token).max(1);
            if at < choice.len() {
                *token = at;
                engine.cut(sequence, prompt + at - 1);
                engine.append(sequence, &choice[sequence.tokens().len() - prompt..at])?;
                return Ok(None);
            }
            sums.push(first[sums.len()]);
            *token = 0;
            engine.cut(sequence, prompt);
        }
        let event = Event::Decided(std::mem::take(sums));
        let _ = self.job.events.try_send((self.job.choice, event));
        Ok(Some(Ending::Stop))
    }

    /// Sends the text that was held back.
    fn finish(&mut self) {
        if let Kind::Answer(speech) = &mut self.kind {
            let mut text = Vec::new();
            speech.finish(&mut text);
            if !text.is_empty() {
                let event = Event::Said { text, token: None };
                let _ = self.job.events.try_send((self.job.choice, event));
            }
        }
    }

    fn account(&self, ending: Ending) -> Account {
        let thought = match &self.kind {
            Kind::Answer(speech) => speech.thought(),
            Kind::Decide { .. } => 0,
        };
        let now = Instant::now();
        let first = self.first.unwrap_or(now);
        Account {
            ending,
            prompt: self.job.prompt.tokens.len(),
            cached: self.cached,
            tokens: self.tokens,
            thought,
            queued: self.began.duration_since(self.job.asked),
            prompt_time: first.duration_since(self.began),
            answer_time: now.duration_since(first),
        }
    }
}
