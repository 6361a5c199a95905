//! Answers of a given form: a JSON schema, a grammar or the schemas of tools say which tokens may come next.

mod blame;
mod cache;
mod calls;
mod depth;
mod forced;
mod gbnf;
mod matcher;
mod plain;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use cache::{Cache, Key};
use llguidance::ParserFactory;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use matcher::Matcher;
use rill::draft::{Drafter, Guess};
use rill::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::room::{Part, Room};

pub use calls::{Calls, Marks, Tool};
pub use depth::STACK;

/// A form that an answer must have.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// A JSON value that its schema allows.
    Schema(Value),
    /// A text of a grammar, in llguidance's dialect of Lark or in GBNF.
    Grammar(String),
    /// Calls of tools; other text too where they are not forced.
    Calls(Calls),
}

impl Wanted {
    /// Bytes of the schemas or the grammar.
    fn bytes(&self) -> usize {
        let len = |schema: &Value| schema.to_string().len();
        match self {
            Self::Schema(schema) => len(schema),
            Self::Grammar(text) => text.len(),
            Self::Calls(calls) => {
                let other = calls.other.iter().map(|(_, schema)| len(schema));
                calls.tools.iter().map(calls::bytes).chain(other).fold(0, usize::saturating_add)
            }
        }
    }

    /// The path of what is wrong with all of it.
    fn path(&self) -> String {
        match self {
            Self::Schema(_) | Self::Grammar(_) => String::new(),
            Self::Calls(_) => "tools".to_owned(),
        }
    }

    /// Any JSON object.
    pub fn object() -> Self {
        Self::Schema(json!({"type": "object"}))
    }
}

/// Why there can be no answer of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormError {
    /// What is wrong, of the field that asks for the form: the field itself, a part of it
    /// (`.properties.place`), or of calls the full name of a part.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// Why there is no form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoForm {
    /// There can be none.
    #[error("{}", .0.message)]
    Wrong(FormError),
    /// Those that wait and are at work have all the room that there is.
    #[error("there is no room for it beside others")]
    Full,
}

impl From<FormError> for NoForm {
    fn from(error: FormError) -> Self {
        Self::Wrong(error)
    }
}

/// Makes forms for one vocabulary.
pub struct Forms {
    factory: ParserFactory,
    marks: Option<Marks>,
    room: Room,
    known: Cache,
}

impl Forms {
    /// For a vocabulary whose answers end with `end`, with what begins and ends calls; all of them take as
    /// much as there is `room` for.
    pub fn new(
        tokenizer: &Tokenizer<'_>,
        vocab: u32,
        end: u32,
        marks: Option<Marks>,
        room: Room,
    ) -> Result<Self, String> {
        let known = u32::try_from(tokenizer.len()).unwrap_or(u32::MAX).min(vocab);
        let is_mark = |id| marks.is_some_and(|marks| id == marks.begin || id == marks.end);
        let word = |id| {
            let bytes = if id < known { tokenizer.piece(id) } else { &[] };
            // No text has control tokens in it.
            let is_control = tokenizer.is_special(id) || is_mark(id);
            let marker = is_control.then_some(TokTrie::SPECIAL_TOKEN_MARKER);
            marker.into_iter().chain(bytes.iter().copied()).collect()
        };
        let words: Vec<Vec<u8>> = (0..vocab).map(word).collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab, end), &words);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(|e| e.to_string())?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_grammar_size = MOST_SYMBOLS;
        limits.max_lexer_states = MOST_STATES;
        limits.initial_lexer_fuel = MOST_WORK;
        Ok(Self { factory, marks, room, known: Cache::default() })
    }

    /// What an answer of a form begins with, written with the tokens of `tokenizer`; an error where there
    /// can be no such answer. It takes up to [`STACK`] bytes of the thread's stack, and nothing where the
    /// same was asked for of late.
    pub fn form(&mut self, wanted: Wanted, tokenizer: &Tokenizer<'_>) -> Result<Arc<Form>, NoForm> {
        let key = Key::of(&wanted);
        if let Some(form) = self.known.find(key) {
            return Ok(form);
        }
        let wanted = plain::of(wanted);
        let text = bound(&wanted)?;
        let path = wanted.path();
        let mut form = self.begin(wanted)?;
        form.bytes += form.force(tokenizer) * FORCED + text * COPY;
        if form.bytes > MOST_AT_WORK {
            let message = format!(
                "it takes {} bytes of RAM once it is compiled, and at most {MOST_AT_WORK} are given: make \
                 it shorter",
                form.bytes
            );
            return Err(FormError { path, message }.into());
        }
        // The mask for the first token has it grow already.
        let grown = form.fresh.iter().chain([&form.matcher]).map(Matcher::grown);
        form.bytes += text * SHARED + grown.sum::<usize>();
        // Those that are only kept make room for it.
        form.part = loop {
            match self.room.take(form.bytes) {
                Some(part) => break Some(part),
                None if self.known.forget() => {}
                None => return Err(NoForm::Full),
            }
        };
        let form = Arc::new(form);
        self.known.keep(key, &form);
        Ok(form)
    }

    fn begin(&self, wanted: Wanted) -> Result<Form, FormError> {
        let whole = |message| FormError { path: String::new(), message };
        match wanted {
            Wanted::Schema(schema) => match self.schema(schema.clone()) {
                Ok(made) => Ok(Form::new(made, None)),
                Err(message) => Err(blame::find(self, &schema, message)),
            },
            Wanted::Grammar(text) => {
                let (text, lines) = if gbnf::is_gbnf(&text) {
                    let grammar = gbnf::parse(&text).map_err(whole)?;
                    let long = || whole("it takes too many pieces in Lark".into());
                    let lark = gbnf::lark(grammar).ok_or_else(long)?;
                    limit(String::new(), depth::of_grammar(&lark.text), 0)?;
                    (lark.text, Some(lark.lines))
                } else {
                    (text, None)
                };
                let matcher = self.matcher(TopLevelGrammar::from_lark(text));
                let located = |message| whole(located(message, lines.as_deref()));
                Ok(Form::new(matcher.map_err(located)?, None))
            }
            Wanted::Calls(calls) => {
                let grammar = TopLevelGrammar::from_lark(calls::grammar(&calls));
                let matcher = self.matcher(grammar);
                let matcher = matcher.map_err(|message| blame::find_tool(self, &calls, message))?;
                let is_free = !calls.forced && calls.other.is_none();
                let begin = self.marks.filter(|_| is_free).map(|marks| marks.begin);
                let gate = begin.map(|begin| Gate { begin, again: calls.several });
                Ok(Form::new(matcher, gate))
            }
        }
    }

    fn schema(&self, schema: Value) -> Result<Made, String> {
        self.matcher(TopLevelGrammar::from_json_schema(strict(schema, false)))
    }

    fn matcher(&self, grammar: TopLevelGrammar) -> Result<Made, String> {
        let mut matcher = Matcher::new(self.factory.create_parser(grammar).map_err(said)?);
        let first = matcher.mask().map_err(|message| self.unbegun(message))?;
        // Some limits are for what a token makes of it.
        if let Some(id) = first.iter().next() {
            matcher.deep_clone().take(id).map_err(|message| self.unbegun(message))?;
        }
        Ok(Made { bytes: BESIDE + matcher.made(), matcher })
    }

    /// Why an answer cannot begin, in words for who asked.
    fn unbegun(&self, message: String) -> String {
        if message.contains("NoExtensionBias") {
            return "nothing fits it: no answer can begin".into();
        }
        if message.contains("Current row has") {
            let most = self.factory.limits().max_items_in_row;
            return format!(
                "it has too many alternatives in one place, and at most {most} are taken: write them as a \
                 regular expression, or leave some out"
            );
        }
        message
    }
}

/// What was made of a form, and the bytes that it takes, but for those that go with its text.
struct Made {
    matcher: Matcher,
    bytes: usize,
}

/// Most bytes of a schema or a grammar, and of the schemas of all tools: what is made of them takes many
/// times as many. Prompts are hardly longer.
const MOST_BYTES: usize = 32 << 10;
/// Most symbols in the rules of a form.
const MOST_SYMBOLS: usize = 100_000;
/// Most states of what recognises the texts of a form: the smallest takes so many bytes.
const MOST_STATES: usize = MOST_GROWTH / STATE;
const STATE: usize = 256;
/// Most work to make it, in steps of the library.
const MOST_WORK: u64 = 500_000;

// Bytes of the heap, measured with schemas and grammars of every kind and rounded up: those of a form that
// says nothing; for each byte of its text, in a copy and in what all copies share; for each byte that must
// come; and while it is made, for each byte of its text.
const BESIDE: usize = 128 << 10;
const COPY: usize = 32;
const SHARED: usize = 170;
const FORCED: usize = 384;
const MAKING: usize = 768;

/// Most bytes of a form at work, but for what it grows by.
pub const MOST_AT_WORK: usize = 3 << 20;
/// Most bytes by which its states grow: a text of JSON whose length is counted takes about three states of
/// 600 bytes for each of its characters, and 4000 of those have room.
pub const MOST_GROWTH: usize = 7 << 20;
/// Bytes by which it grows for each token of the answer.
pub const TOKEN_GROWTH: usize = 1 << 10;
/// Most bytes that it takes to make one, one after the other, and of the stack for that.
pub const MOST_MAKING: usize = MOST_BYTES * MAKING + depth::USED;

/// Refuses what is too long or goes too deep; returns the bytes of what is not.
fn bound(wanted: &Wanted) -> Result<usize, FormError> {
    let bytes = wanted.bytes();
    let (path, depth) = match wanted {
        Wanted::Schema(schema) => (String::new(), depth::of_schema(schema)),
        Wanted::Grammar(text) if gbnf::is_gbnf(text) => (String::new(), 0),
        Wanted::Grammar(text) => (String::new(), depth::of_grammar(text)),
        Wanted::Calls(calls) => {
            let tool = calls.tools.iter().find(|tool| depth::of_tool(tool) > depth::MOST);
            let other = calls.other.as_ref();
            let path = tool.map(|tool| &tool.path).or(other.map(|(path, _)| path));
            let path = path.cloned().unwrap_or_default();
            let path = if bytes > MOST_BYTES { wanted.path() } else { path };
            (path, depth::of_calls(calls))
        }
    };
    limit(path, depth, bytes)?;
    let endless = match wanted {
        Wanted::Schema(schema) => depth::endless(schema),
        Wanted::Grammar(_) => None,
        Wanted::Calls(calls) => {
            let tools = calls.tools.iter().map(|tool| (&tool.path, &tool.parameters));
            let mut all = tools.chain(calls.other.iter().map(|(path, schema)| (path, schema)));
            all.find_map(|(path, schema)| Some(format!("{path}{}", depth::endless(schema)?)))
        }
    };
    match endless {
        None => Ok(bytes),
        Some(path) => {
            let message = "nothing fits it: it needs itself within itself, without an end".into();
            Err(FormError { path, message })
        }
    }
}

/// Refuses what has so many levels and so many bytes, if those are too many.
fn limit(path: String, depth: usize, bytes: usize) -> Result<(), FormError> {
    let message = if bytes > MOST_BYTES {
        format!("it is too long: {bytes} bytes, and at most {MOST_BYTES} are taken")
    } else if depth > depth::MOST {
        let most = depth::MOST;
        format!(
            "it goes too deep: nesting, references and rules come to {depth} levels, and at most {most} \
             are taken"
        )
    } else {
        return Ok(());
    };
    Err(FormError { path, message })
}

/// A schema whose values have no white space but one space where `spaced` says so: it says nothing, and a
/// model may never come to an end of it.
fn strict(mut schema: Value, spaced: bool) -> Value {
    if let Value::Object(fields) = &mut schema {
        let mut how = json!({"whitespace_flexible": false});
        if spaced {
            // As Python writes them.
            how["item_separator"] = ", ".into();
            how["key_separator"] = ": ".into();
        }
        fields.insert("x-guidance".into(), how);
    }
    schema
}

/// An answer goes no further: its form has grown as large as it may, or nothing fits what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the form has grown as large as it may, or nothing fits what came")]
pub struct Spent;

/// Where an answer stands in its form.
pub struct Form {
    /// The form from its beginning, where it may begin again.
    fresh: Option<Matcher>,
    matcher: Matcher,
    mask: SimpleVob,
    gate: Option<Gate>,
    /// Whether any text may come: the form has not begun, or is over.
    is_free: bool,
    /// Tokens that must come, the next one first: nothing else is allowed in their places.
    forced: VecDeque<u32>,
    /// Bytes that it takes, with what its copies share.
    bytes: usize,
    /// Its part of the room for all; a copy has none.
    part: Option<Part>,
}

/// What begins a form in the middle of an answer.
#[derive(Debug, Clone, Copy)]
struct Gate {
    /// This token.
    begin: u32,
    /// Whether it may begin again after its end; else the answer ends there.
    again: bool,
}

impl Form {
    fn new(Made { matcher, bytes }: Made, gate: Option<Gate>) -> Self {
        let fresh = gate.filter(|gate| gate.again).map(|_| matcher.deep_clone());
        let (mask, forced, is_free) = (SimpleVob::new(), VecDeque::new(), gate.is_some());
        let bytes = bytes * if fresh.is_some() { 2 } else { 1 };
        Self { fresh, matcher, mask, gate, is_free, forced, bytes, part: None }
    }

    /// Whether an answer begins with it.
    pub fn begins_at_once(&self) -> bool {
        !self.is_free
    }

    /// The set of tokens that may come next, as [`Ask`](rill::engine::Ask) has it; `None` for all.
    pub fn allowed(&mut self) -> Result<Option<&[u32]>, Spent> {
        if self.is_free {
            return Ok(None);
        }
        self.mask = match self.forced.front() {
            Some(&id) => self.matcher.trie().singleton_token_set(id),
            None => self.matcher.mask().map_err(|_| Spent)?,
        };
        Ok(Some(self.mask.as_slice()))
    }

    /// This token came; `spoken` says whether outside of thinking.
    pub fn accept(
        &mut self,
        id: u32,
        spoken: bool,
        tokenizer: &Tokenizer<'_>,
    ) -> Result<(), Spent> {
        if self.is_free {
            if !spoken || self.gate.is_none_or(|gate| gate.begin != id) {
                return Ok(());
            }
            self.is_free = false;
        }
        // What ends a whole answer is no part of it.
        if self.matcher.is_stopped() {
            return Ok(());
        }
        self.matcher.take(id).map_err(|_| Spent)?;
        if let Some(fresh) = self.fresh.as_ref().filter(|_| self.matcher.is_stopped()) {
            self.matcher = fresh.deep_clone();
            self.is_free = true;
        }
        self.forced.pop_front();
        self.force(tokenizer);
        Ok(())
    }

    /// Finds out whether there is no choice of the next tokens. A model is used to the tokens that its
    /// tokenizer writes a text with: they are the only ones then, and no mask is computed for them. Says how
    /// many bytes have no choice.
    fn force(&mut self, tokenizer: &Tokenizer<'_>) -> usize {
        if self.is_free || !self.forced.is_empty() || self.matcher.is_stopped() {
            return 0;
        }
        let bytes = self.matcher.forced();
        self.forced.extend(forced::tokens(&bytes, tokenizer, self.matcher.trie()));
        bytes.len()
    }
}

impl Drafter for Form {
    /// The tokens that must come.
    fn draft(&mut self, _: &[u32], draft: &mut [u32]) -> Guess {
        draft.iter_mut().zip(&self.forced).for_each(|(to, &id)| *to = id);
        Guess { len: self.forced.len().min(draft.len()), level: Guess::CERTAIN }
    }
}

/// An error in a grammar with its line, which llguidance writes as `at LINE(COLUMN): `; of a grammar that
/// was written for it, `lines` are those of the request.
fn located(message: String, lines: Option<&[usize]>) -> String {
    let found = || {
        let (line, rest) = message.strip_prefix("at ").unwrap_or(&message).split_once('(')?;
        let (_, rest) = rest.split_once("): ")?;
        let line: usize = line.parse().ok()?;
        let line = lines.map_or(Some(line), |lines| lines.get(line.checked_sub(1)?).copied())?;
        Some(format!("line {line}: {rest}"))
    };
    found().unwrap_or(message)
}

/// The first line of an error, with the reason that it may say further down: the rest is about the library,
/// or shows again what was sent.
fn said(error: impl fmt::Display) -> String {
    let text = error.to_string();
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let reason = || lines.find_map(|line| line.strip_prefix("error: "));
    match first.ends_with(':').then(reason).flatten() {
        Some(reason) => format!("{first} {reason}"),
        None => first.to_owned(),
    }
}

impl Clone for Form {
    fn clone(&self) -> Self {
        Self {
            fresh: self.fresh.as_ref().map(Matcher::deep_clone),
            matcher: self.matcher.deep_clone(),
            mask: SimpleVob::new(),
            gate: self.gate,
            is_free: self.is_free,
            forced: self.forced.clone(),
            bytes: self.bytes,
            part: None,
        }
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Form").finish_non_exhaustive()
    }
}
