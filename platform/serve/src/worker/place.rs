//! One conversation's place at the engine.

use std::time::{Duration, Instant};

use rill::draft::{Drafter, Guess, Repeats};
use rill::engine::{Ask, Engine, Step};
use rill::sampler::Logprobs;
use rill::seams::World;
use rill::sequence::{Sequence, SequenceError};

use super::decision::{Branch, Decision};
use super::known;
use super::speech::Speech;
use crate::form::Form;
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
    /// A choice of a decision in another place.
    Helping(Branch),
}

/// A job under way.
pub struct Task {
    job: Job,
    kind: Kind,
    /// Where the answer stands in its form.
    form: Option<Form>,
    began: Instant,
    /// When the first token came.
    first: Option<Instant>,
    cached: usize,
    tokens: u64,
    /// Bytes of those tokens.
    bytes: u64,
    /// Since when its client does not read.
    stuck: Option<Instant>,
}

/// What is made of the logits.
enum Kind {
    Answer(Box<Speech>),
    Decide(Decision),
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
            State::Helping(_) => true,
            State::Busy(task) => 2 * task.job.events.capacity() > task.job.events.max_capacity(),
        }
    }

    /// Whether it has nothing to do itself while other places weigh choices of its decision.
    pub fn waits_for_choices(&self) -> bool {
        let State::Busy(task) = &self.state else { return false };
        matches!(&task.kind, Kind::Decide(decision) if decision.is_idle())
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
        let form = match &job.work {
            Work::Answer(style) => style.form.as_deref().cloned(),
            Work::Decide(_) => None,
        };
        let event = Event::Begun { prompt: job.prompt.tokens.len(), cached };
        let _ = job.events.try_send((job.choice, event));
        self.state = State::Busy(Box::new(Task {
            job: *job,
            kind,
            form,
            began: Instant::now(),
            first: None,
            cached,
            tokens: 0,
            bytes: 0,
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
            Work::Decide(_) => Kind::Decide(Decision::default()),
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
        let task = match &mut self.state {
            State::Free => return,
            State::Helping(branch) => return branch.weigh(engine, world, self.sequence),
            State::Busy(task) => task,
        };
        let outcome = match task.kind {
            Kind::Answer(_) => task.say(engine, world, self.sequence, metrics),
            Kind::Decide(_) => {
                task.weigh(engine, world, self.sequence);
                Ok(None)
            }
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(ending)) => self.end(engine, Ok(ending)),
            Err(trouble) => self.end(engine, Err(trouble)),
        }
    }

    /// Ends what is under way, and frees the place at once.
    pub fn end(&mut self, engine: &mut Engine<'a>, ending: Result<Ending, Trouble>) {
        let mut task = match std::mem::replace(&mut self.state, State::Free) {
            State::Free => return,
            // Its decision has the choice weighed again.
            State::Helping(_) => return engine.reset(self.sequence),
            State::Busy(task) => task,
        };
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

    /// The choices of its decision that are neither whole nor at work here, where nothing is.
    pub fn left(&self) -> Vec<Branch> {
        let State::Busy(task) = &self.state else { return Vec::new() };
        let (Kind::Decide(decision), Work::Decide(choices)) = (&task.kind, &task.job.work) else {
            return Vec::new();
        };
        let prompt = task.job.prompt.tokens.len();
        let branch = |number| Branch::new(self.order, number, prompt, &choices[number]);
        let open = decision.open().filter(|_| decision.is_idle());
        open.map(branch).collect()
    }

    /// Whether this choice of another place's decision is at work here.
    pub fn helps(&self, branch: &Branch) -> bool {
        let State::Helping(own) = &self.state else { return false };
        (own.order, own.number) == (branch.order, branch.number)
    }

    /// Has a choice weighed here, which is free, for the decision in `owner`.
    pub fn help(&mut self, engine: &mut Engine<'a>, owner: &Self, branch: Branch) {
        engine.fork(&*owner.sequence, self.sequence);
        self.order = owner.order;
        match branch.begin(engine, self.sequence) {
            Ok(()) => self.state = State::Helping(branch),
            // Its own place says why not.
            Err(_) => engine.reset(self.sequence),
        }
    }

    /// Has a choice of its own decision weighed here.
    pub fn take(&mut self, engine: &mut Engine<'a>, branch: Branch) {
        let begun = branch.begin(engine, self.sequence);
        if let Err(error) = begun {
            self.end(engine, Err(error.into()));
        } else if let State::Busy(task) = &mut self.state
            && let Kind::Decide(decision) = &mut task.kind
        {
            *decision.own() = Some(branch);
        }
    }

    /// The choice that was weighed here for another place, once it is whole: then the place is free.
    pub fn helped(&mut self, engine: &mut Engine<'a>) -> Option<Branch> {
        let is_whole = matches!(&self.state, State::Helping(branch) if branch.is_done);
        let state = is_whole.then(|| std::mem::replace(&mut self.state, State::Free))?;
        engine.reset(self.sequence);
        let State::Helping(branch) = state else { return None };
        Some(branch)
    }

    /// A choice of its decision is whole, if it has one; ends the decision once all are.
    pub fn hear(&mut self, engine: &mut Engine<'a>, branch: Option<&Branch>) {
        let State::Busy(task) = &mut self.state else { return };
        let Kind::Decide(decision) = &mut task.kind else { return };
        if let Some(branch) = branch.filter(|branch| branch.order == self.order) {
            decision.add(branch.number, branch.sum);
        }
        let Some(outcome) = decision.outcome() else { return };
        let _ = task.job.events.try_send((task.job.choice, Event::Decided(outcome)));
        engine.cut(self.sequence, task.job.prompt.tokens.len());
        self.end(engine, Ok(Ending::Stop));
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
        let Task { job, form, tokens: said, .. } = &mut **task;
        let Work::Answer(style) = &job.work else { return Guess::default() };
        let left = usize::try_from(style.most.saturating_sub(*said)).unwrap_or(usize::MAX);
        // The last token is not continued.
        let most = draft.len().min(left.saturating_sub(1));
        let draft = &mut draft[..most];
        let forced = form.as_mut().map(|form| form.draft(tokens, draft));
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
        let Self { job, kind, form, .. } = self;
        let (Kind::Answer(speech), Work::Answer(style)) = (kind, &job.work) else {
            return Ok(None);
        };
        let (events, choice) = (&job.events, job.choice);
        let send = |event| {
            // There is room for as many as one step has; a client that left is noticed in the next.
            let _ = events.try_send((choice, event));
        };
        let mut sent = 0;
        loop {
            if self.tokens >= style.most || self.bytes >= style.most_bytes {
                return Ok(Some(Ending::Length));
            }
            if speech.has_thought_enough() {
                let mut text = Vec::new();
                let end = speech.end_thinking(&mut text);
                send(Event::Said { text, token: None, behind: 0 });
                return match engine.append_to_answer(sequence, end.as_ref()) {
                    Err(SequenceError::ContextFull { .. }) => Ok(Some(Ending::Length)),
                    other => Ok(other.map(|()| None)?),
                };
            }
            if sequence.tokens().len() == sequence.context() {
                return Ok(Some(Ending::Length));
            }
            if !engine.has_logits(sequence) {
                if sequence.pending().is_empty() {
                    // They went with the batch of others, when guesses were more than one burst.
                    engine.uncompute_last(sequence);
                }
                return Ok(None);
            }
            if sent + 2 >= BURST {
                return Ok(None);
            }
            let Ok(allowed) = form.as_mut().map_or(Ok(None), Form::allowed) else {
                return Ok(Some(Ending::Length));
            };
            let ask = Ask { allowed, logprobs: style.logprobs };
            let sample = engine.sample_as(world, sequence, &ask)?;
            let is_spoken = !speech.is_thinking();
            let accept = |form: &mut Form| form.accept(sample.id, is_spoken, engine.tokenizer());
            if form.as_mut().is_some_and(|form| accept(form).is_err()) {
                return Ok(Some(Ending::Length));
            }
            if self.first.is_none() {
                self.first = Some(Instant::now());
                metrics.first_token(job.asked.elapsed());
            }
            self.tokens += 1;
            let tokenizer = engine.tokenizer();
            self.bytes += tokenizer.piece(sample.id).len() as u64;
            let named = |id, logprob| Token { id, bytes: tokenizer.piece(id).to_vec(), logprob };
            let token = sample.logprobs.map(|Logprobs { chosen, best }| {
                let best = best.iter().map(|best| named(best.id, best.logprob)).collect();
                (named(sample.id, chosen), best)
            });
            let mut text = Vec::new();
            let was_calling = speech.is_calling();
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
                let token = token.filter(|_| !was_calling && !speech.is_calling());
                send(Event::Said { text, token, behind: speech.behind() });
                sent += 1;
            }
            if ending.is_some() {
                return Ok(ending);
            }
        }
    }

    /// Weighs what was computed of a decision: its prompt, or a choice.
    fn weigh<'a>(
        &mut self,
        engine: &mut Engine<'a>,
        world: &mut World<'_, 'a>,
        sequence: &Sequence<'a>,
    ) {
        let (Kind::Decide(decision), Work::Decide(choices)) = (&mut self.kind, &self.job.work)
        else {
            return;
        };
        if !decision.has_begun() {
            if decision.begin(engine, world, sequence, choices) {
                self.first.get_or_insert_with(Instant::now);
            }
            return;
        }
        let Some(mut branch) = decision.own().take() else { return };
        branch.weigh(engine, world, sequence);
        if branch.is_done {
            decision.add(branch.number, branch.sum);
        } else {
            *decision.own() = Some(branch);
        }
    }

    /// Sends the text that was held back.
    fn finish(&mut self) {
        if let Kind::Answer(speech) = &mut self.kind {
            let mut text = Vec::new();
            speech.finish(&mut text);
            if !text.is_empty() {
                let event = Event::Said { text, token: None, behind: 0 };
                let _ = self.job.events.try_send((self.job.choice, event));
            }
        }
    }

    fn account(&self, ending: Ending) -> Account {
        let thought = match &self.kind {
            Kind::Answer(speech) => speech.thought(),
            Kind::Decide(_) => 0,
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
