//! `rill run --file`: a file of prompts, answered side by side, and in order.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rill::engine::Sample;
use rill::generate::Ending;
use rill::seams::Silent;
use rill::sequence::SequenceError;
use rill_linux::answer::{Speech, hear};
use rill_linux::engine::{Beside, Engine, Memory};
use rill_linux::talk::{Talk, TalkError};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::answers::{Answers, Finished, Outcome, Output};
use super::line::{BadLine, Line};
use super::prompts::{Numbered, Prompts};
use super::{Args, refused};
use crate::args::{Heeding, begin_talk};
use crate::commands::spare;
use crate::failure::Failure;
use crate::interrupt;
use crate::logprobs::Listener;
use crate::terminal::{stdout, tell, tell_failure};

/// An answer under way.
struct Running {
    /// How many prompts came before it.
    place: u64,
    line: u64,
    key: String,
    id: Option<Value>,
    /// Number of its conversation.
    conversation: usize,
    speech: Speech,
    listener: Listener,
    prompt_tokens: usize,
    text: String,
    thinking: Option<String>,
}

/// A line of the result that is not written yet.
struct Done {
    line: u64,
    text: String,
    /// Why there is no answer.
    error: Option<String>,
}

/// The answers to a file.
struct Batch<'b, 'm> {
    args: &'b Args,
    /// The file.
    path: &'b Path,
    prompts: Prompts,
    answers: Answers,
    engine: &'b mut Engine<'m>,
    /// What every answer depends on, as text.
    common: String,
    /// Each conversation, as the model is to hear it; `None` where there is no chat format.
    talks: Vec<Option<Talk>>,
    /// Conversations that nobody has.
    free: Vec<usize>,
    /// In order of arrival.
    running: Vec<Running>,
    /// Lines of the result from the first on that is not written; `None` for those under way.
    waiting: VecDeque<Option<Done>>,
    /// Bytes of those that are not under way.
    held: usize,
    /// Lines that are written.
    written: u64,
    /// Prompts that have no answer, and what is wrong with the first of them.
    failed: u64,
    first_failure: Option<(u64, String)>,
    bar: ProgressBar,
}

/// So many times as many prompts as there are conversations are begun before the first of them has its
/// answer: what is held back, and lost when the program is killed, stays little.
const AHEAD: usize = 16;
/// With more bytes of finished lines than this no prompt is begun: the first answer that is missing is under
/// way, and all of them wait for it.
const MOST_HELD: usize = 1 << 20;
/// The log-probability of a token, as text: 48 bytes were measured in the mean.
const LIKELY_BYTES: usize = 48;

pub fn run(args: &Args, path: &Path) -> Result<(), Failure> {
    if let Some(out) = &args.out {
        spare(out, args.engine.image().into_iter().chain([path]))?;
    }
    let prompts = Prompts::open(path).map_err(Failure::file(path))?;
    let mut memory = Memory::new();
    let beside = |conversations| beside(args.logprobs, conversations);
    let mut engine = args.generate.load_beside(&args.engine, beside, &mut memory)?;
    tell_failure(engine.recall());
    // Not before: a signal while the model is loaded leaves no file without answers.
    let answers = Answers::open(args.out.as_deref()).map_err(|error| of_answers(args, error))?;
    let mut batch = Batch::new(args, path, prompts, answers, &mut engine)?;
    let ended = batch.skip_finished().and_then(|()| batch.answer());
    if ended.is_ok() {
        batch.answers.keep();
    }
    let ended = ended.and(batch.answers.sync().map_err(|error| of_answers(args, error)));
    batch.bar.finish_and_clear();
    let Batch { written, failed, first_failure, .. } = batch;
    tell_failure(interrupt::unhurried(|| engine.keep()));
    if args.stats {
        tell(engine.report());
    }
    ended?;
    match first_failure {
        None => Ok(()),
        Some((line, error)) => {
            let count = format!("{failed} of {written} prompts have no answer");
            Err(Failure::Prompts(format!("{count}; {}, line {line}: {error}", path.display())))
        }
    }
}

/// Bytes that the answers of so many conversations take, with the log-probabilities of so many tokens in each
/// place: until they end, as text then, and while they wait for those before them.
fn beside(logprobs: Option<usize>, conversations: u32) -> Beside {
    let token = logprobs.map_or(0, |best| size_of::<Sample>() + (1 + best) * LIKELY_BYTES);
    let token = (token as u64).saturating_mul(conversations.into());
    Beside { requests: MOST_HELD as u64, token, ..Beside::default() }
}

/// The answers cannot be written, or read back.
fn of_answers(args: &Args, error: std::io::Error) -> Failure {
    match &args.out {
        Some(path) => Failure::file(path)(error),
        None => Failure::Output(error),
    }
}

impl<'b, 'm> Batch<'b, 'm> {
    fn new(
        args: &'b Args,
        path: &'b Path,
        prompts: Prompts,
        answers: Answers,
        engine: &'b mut Engine<'m>,
    ) -> Result<Self, Failure> {
        let conversations = engine.session.conversations();
        let mut talks = Vec::new();
        for number in 0..conversations {
            engine.session.select(number);
            talks.push(match number {
                _ if args.raw => None,
                0 => Some(begin_talk(engine, None)?),
                _ => Some(Talk::begin(engine, None)?),
            });
        }
        let bar = progress_bar(args, prompts.count());
        let common = format!(
            "{:016x} {} {} {:?} {} {:?} {:?}",
            engine.identity(),
            engine.session.kv_format().name(),
            engine.session.context(),
            args.system,
            args.raw,
            args.logprobs,
            args.generate.meaning(engine.image.manifest.sampling),
        );
        Ok(Self {
            args,
            path,
            prompts,
            answers,
            engine,
            common,
            talks,
            free: (0..conversations).rev().collect(),
            running: Vec::new(),
            waiting: VecDeque::new(),
            held: 0,
            written: 0,
            failed: 0,
            first_failure: None,
            bar,
        })
    }

    /// What the answer to a line depends on, for telling whether one that is there is still right.
    fn key(&self, line: &[u8]) -> String {
        let all = [self.common.as_bytes(), b"\n", line].concat();
        format!("{:016x}", xxh3_64(&all))
    }

    /// Goes past the prompts that have their answers.
    fn skip_finished(&mut self) -> Result<(), Failure> {
        while let Some(answer) = self.answers.finished().map_err(|e| of_answers(self.args, e))? {
            let Finished { line, key, error } = answer;
            let prompt = self.prompts.next().map_err(Failure::file(self.path))?;
            let is_it = |p: &Numbered| p.number == line && self.key(&p.bytes) == key;
            if !prompt.is_some_and(|prompt| is_it(&prompt)) {
                let what = format!(
                    "line {} is not what this model answers to {} with these options: write to \
                     another file",
                    self.written + 1,
                    self.path.display()
                );
                let error = std::io::Error::new(std::io::ErrorKind::AlreadyExists, what);
                return Err(of_answers(self.args, error));
            }
            self.count(line, error);
        }
        // They took no time that says anything of the others.
        self.bar.tick();
        self.bar.reset_eta();
        Ok(())
    }

    /// Answers what is left.
    fn answer(&mut self) -> Result<(), Failure> {
        loop {
            let more = self.begin_some()?;
            self.write()?;
            interrupt::check()?;
            if self.running.is_empty() && !more {
                return Ok(());
            }
            // Who is done makes room for another.
            if !self.go_on()? && !self.running.is_empty() {
                self.compute()?;
            }
        }
    }

    /// Begins as many answers as there are conversations for; says whether there may be more prompts.
    fn begin_some(&mut self) -> Result<bool, Failure> {
        while self.waiting.len() < AHEAD * self.talks.len()
            && self.held <= MOST_HELD
            && !self.free.is_empty()
        {
            let prompt = self.prompts.next().map_err(Failure::file(self.path))?;
            let Some(prompt) = prompt else { return Ok(false) };
            let place = self.written + self.waiting.len() as u64;
            self.waiting.push_back(None);
            self.begin(place, prompt)?;
        }
        Ok(true)
    }

    /// Begins an answer; a line that cannot be answered is done.
    fn begin(&mut self, place: u64, prompt: Numbered) -> Result<(), Failure> {
        let Numbered { number: line, bytes, text } = prompt;
        let key = self.key(&bytes);
        let bad = |what| BadLine { id: None, what };
        let begun = match text.map_err(bad).and_then(|text| Line::parse(&text)) {
            Ok(parsed) => match self.ask(&parsed)? {
                Ok(begun) => Ok((parsed.id, begun)),
                Err(what) => Err(BadLine { id: parsed.id, what }),
            },
            Err(bad) => Err(bad),
        };
        match begun {
            Ok((id, (conversation, speech))) => {
                let prompt_tokens = self.engine.session.tokens().len();
                let listener = Listener::new(self.args.logprobs);
                let (text, thinking) = (String::new(), None);
                self.running.push(Running {
                    place,
                    line,
                    key,
                    id,
                    conversation,
                    speech,
                    listener,
                    prompt_tokens,
                    text,
                    thinking,
                });
            }
            Err(BadLine { id, what }) => {
                let outcome = Outcome::Error { error: what };
                self.hold(place, Done::of(&Output { line, key: &key, id: id.as_ref(), outcome })?);
            }
        }
        Ok(())
    }

    /// Asks in a free conversation. What is wrong with the line where it cannot be asked.
    fn ask(&mut self, line: &Line) -> Result<Result<(usize, Speech), String>, Failure> {
        let Some(&number) = self.free.last() else {
            unreachable!("a prompt is taken when a conversation is free");
        };
        let Self { args, engine, talks, .. } = self;
        engine.session.select(number);
        engine.session.reset();
        let settings = line.settings(args.generate.settings(engine.image.manifest.sampling));
        engine.session.set_sampling(settings, line.seed.unwrap_or(args.generate.seed()));
        engine.session.set_biases(args.generate.biases())?;
        let talk = &mut talks[number];
        let said = line.conversation(args.system.as_deref());
        let asked = match (talk.as_mut(), line.raw()) {
            (Some(talk), _) => talk.ask_all(engine, &said),
            (None, Some(text)) => engine.session.append_text(text).map_err(TalkError::from),
            (None, None) => {
                return Ok(Err("only a `prompt` can be continued as it is (--raw)".into()));
            }
        };
        match asked {
            Ok(()) => {}
            // The fault of this line.
            Err(error @ TalkError::Template(_)) => return Ok(Err(error.to_string())),
            Err(TalkError::Sequence(
                error @ (SequenceError::ContextFull { .. } | SequenceError::Text(_)),
            )) => {
                let texts: Vec<_> = said.iter().map(|message| message.content.as_str()).collect();
                return Ok(Err(refused(engine, args.raw, &texts, error.into()).to_string()));
            }
            Err(error) => return Err(error.into()),
        }
        let options = line.answer(args.generate.answer());
        match Speech::begin(engine, talk.as_ref(), &options) {
            Ok(speech) => {
                self.free.pop();
                Ok(Ok((number, speech)))
            }
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    /// Goes on with every answer as far as nothing has to be computed; says whether one of them is done.
    fn go_on(&mut self) -> Result<bool, Failure> {
        let before = self.running.len();
        for mut running in std::mem::take(&mut self.running) {
            let Running { speech, listener, text, thinking, .. } = &mut running;
            let say = |part, piece: &str| hear(text, thinking, part, piece);
            match speech.go_on(self.engine, listener, say)? {
                Some(ending) => self.finish(running, ending)?,
                None => self.running.push(running),
            }
        }
        Ok(self.running.len() < before)
    }

    /// An answer ended.
    fn finish(&mut self, running: Running, ending: Ending) -> Result<(), Failure> {
        let Running { place, line, key, id, conversation, speech, listener, .. } = running;
        let Running { prompt_tokens, mut text, mut thinking, .. } = running;
        let say = |part, piece: &str| hear(&mut text, &mut thinking, part, piece);
        speech.finish(self.engine, self.talks[conversation].as_mut(), say);
        let session = &self.engine.session;
        let outcome = Outcome::Answer {
            text,
            thinking,
            ending,
            prompt_tokens,
            answer_tokens: session.tokens().len() - prompt_tokens,
            logprobs: listener.choices(session.tokenizer()),
        };
        let done = Done::of(&Output { line, key: &key, id: id.as_ref(), outcome })?;
        // Its keys and values are free for others.
        self.engine.session.reset();
        self.free.push(conversation);
        self.hold(place, done);
        Ok(())
    }

    /// Computes for all answers under way.
    fn compute(&mut self) -> Result<(), Failure> {
        let order: Vec<usize> = self.running.iter().map(|running| running.conversation).collect();
        match self.engine.advance(&mut Heeding(&mut Silent), &order) {
            Ok(advance) if advance.rows > 0 => Ok(()),
            Ok(_) => Err(SequenceError::NoBlocks.into()),
            Err(SequenceError::Stopped) => Err(Failure::Interrupted),
            Err(error) => Err(error.into()),
        }
    }

    /// A line of the result waits for those before it.
    fn hold(&mut self, place: u64, done: Done) {
        self.held += done.text.len();
        let at = (place - self.written) as usize;
        self.waiting[at] = Some(done);
    }

    /// Writes what no earlier answer is missing before.
    fn write(&mut self) -> Result<(), Failure> {
        while let Some(Some(_)) = self.waiting.front() {
            let Some(Done { line, text, error }) = self.waiting.pop_front().flatten() else {
                break;
            };
            self.held -= text.len();
            self.answers.write(&text).map_err(|error| of_answers(self.args, error))?;
            self.count(line, error);
        }
        Ok(())
    }

    /// A line of the result is written.
    fn count(&mut self, line: u64, error: Option<String>) {
        self.written += 1;
        self.bar.inc(1);
        if let Some(error) = error {
            self.failed += 1;
            self.first_failure.get_or_insert((line, error));
        }
    }
}

impl Done {
    fn of(output: &Output<'_>) -> Result<Self, Failure> {
        let mut text = serde_json::to_string(output).map_err(std::io::Error::from)?;
        text.push('\n');
        let error = match &output.outcome {
            Outcome::Error { error } => Some(error.clone()),
            Outcome::Answer { .. } => None,
        };
        Ok(Self { line: output.line, text, error })
    }
}

/// A bar where somebody watches, and nothing else is written in the same place.
fn progress_bar(args: &Args, prompts: u64) -> ProgressBar {
    let is_alone = args.out.is_some() || !stdout().is_terminal();
    let target = if std::io::stderr().is_terminal() && is_alone {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(prompts), target);
    match ProgressStyle::with_template("answering {wide_bar} {pos}/{len} {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
