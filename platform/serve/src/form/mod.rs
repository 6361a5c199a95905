//! Answers of a given form: a JSON schema, a grammar or the schemas of tools say which tokens may come next.

mod blame;
mod cache;
mod calls;
mod depth;
mod forced;
mod gbnf;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use cache::{Cache, Key};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use rill::draft::{Drafter, Guess};
use rill::tokenizer::Tokenizer;
use serde_json::{Value, json};

pub use cache::MOST_BYTES as CACHE_BYTES;
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

/// Makes forms for one vocabulary.
pub struct Forms {
    factory: ParserFactory,
    marks: Option<Marks>,
    known: Cache,
}

impl Forms {
    /// For a vocabulary whose answers end with `end`, with what begins and ends calls.
    pub fn new(
        tokenizer: &Tokenizer<'_>,
        vocab: u32,
        end: u32,
        marks: Option<Marks>,
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
        Ok(Self { factory, marks, known: Cache::default() })
    }

    /// What an answer of a form begins with, written with the tokens of `tokenizer`; an error where there
    /// can be no such answer. It takes up to [`STACK`] bytes of the thread's stack, and nothing where the
    /// same was asked for of late.
    pub fn form(
        &mut self,
        wanted: Wanted,
        tokenizer: &Tokenizer<'_>,
    ) -> Result<Arc<Form>, FormError> {
        let key = Key::of(&wanted);
        if let Some(form) = self.known.find(key) {
            return Ok(form);
        }
        let bytes = bound(&wanted)?;
        let mut form = self.begin(wanted)?;
        form.force(tokenizer);
        let form = Arc::new(form);
        self.known.keep(key, bytes, &form);
        Ok(form)
    }

    fn begin(&self, wanted: Wanted) -> Result<Form, FormError> {
        let whole = |message| FormError { path: String::new(), message };
        match wanted {
            Wanted::Schema(schema) => match self.schema(schema.clone()) {
                Ok(matcher) => Ok(Form::new(matcher, None)),
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

    fn schema(&self, schema: Value) -> Result<Matcher, String> {
        self.matcher(TopLevelGrammar::from_json_schema(strict(schema, false)))
    }

    fn matcher(&self, grammar: TopLevelGrammar) -> Result<Matcher, String> {
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            None => Ok(matcher),
            Some(error) => Err(said(error)),
        }
    }
}

/// Most bytes of a schema or a grammar, and of the schemas of all tools: what is made of them takes many
/// times as many.
const MOST_BYTES: usize = 128 << 10;
/// Most symbols in the rules of a form.
const MOST_SYMBOLS: usize = 100_000;
/// Most states of what recognises the texts of a form, of some 2 KiB each.
const MOST_STATES: usize = 20_000;

/// Refuses what is too long or goes too deep; says how many bytes the texts of others have.
fn bound(wanted: &Wanted) -> Result<usize, FormError> {
    let len = |schema: &Value| schema.to_string().len();
    let (path, depth, bytes) = match wanted {
        Wanted::Schema(schema) => (String::new(), depth::of_schema(schema), len(schema)),
        Wanted::Grammar(text) if gbnf::is_gbnf(text) => (String::new(), 0, text.len()),
        Wanted::Grammar(text) => (String::new(), depth::of_grammar(text), text.len()),
        Wanted::Calls(calls) => {
            let tool = calls.tools.iter().find(|tool| depth::of_tool(tool) > depth::MOST);
            let other = calls.other.as_ref();
            let path = tool.map(|tool| &tool.path).or(other.map(|(path, _)| path));
            let tools = calls.tools.iter().map(calls::bytes);
            let other = other.map(|(_, schema)| len(schema));
            let bytes = tools.chain(other).fold(0, usize::saturating_add);
            let path = path.cloned().unwrap_or_default();
            let path = if bytes > MOST_BYTES { "tools".into() } else { path };
            (path, depth::of_calls(calls), bytes)
        }
    };
    limit(path, depth, bytes)?;
    Ok(bytes)
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
    fn new(matcher: Matcher, gate: Option<Gate>) -> Self {
        let fresh = gate.filter(|gate| gate.again).map(|_| matcher.deep_clone());
        let (mask, forced, is_free) = (SimpleVob::new(), VecDeque::new(), gate.is_some());
        Self { fresh, matcher, mask, gate, is_free, forced }
    }

    /// Whether an answer begins with it.
    pub fn begins_at_once(&self) -> bool {
        !self.is_free
    }

    /// The set of tokens that may come next, as [`Ask`](rill::engine::Ask) has it; `None` for all.
    pub fn allowed(&mut self) -> Result<Option<&[u32]>, String> {
        if self.is_free {
            return Ok(None);
        }
        self.mask = match self.forced.front() {
            Some(&id) => {
                let tokens = self.matcher.tok_env().map_err(said)?;
                tokens.tok_trie().singleton_token_set(id)
            }
            None => self.matcher.compute_mask_or_eos().map_err(said)?,
        };
        Ok(Some(self.mask.as_slice()))
    }

    /// This token came; `spoken` says whether outside of thinking.
    pub fn accept(
        &mut self,
        id: u32,
        spoken: bool,
        tokenizer: &Tokenizer<'_>,
    ) -> Result<(), String> {
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
        self.matcher.consume_token(id).map_err(said)?;
        if let Some(fresh) = self.fresh.as_ref().filter(|_| self.matcher.is_stopped()) {
            self.matcher = fresh.deep_clone();
            self.is_free = true;
        }
        self.forced.pop_front();
        self.force(tokenizer);
        Ok(())
    }

    /// Finds out whether there is no choice of the next tokens. A model is used to the tokens that its
    /// tokenizer writes a text with: they are the only ones then, and no mask is computed for them.
    fn force(&mut self, tokenizer: &Tokenizer<'_>) {
        if self.is_free || !self.forced.is_empty() || self.matcher.is_stopped() {
            return;
        }
        // What goes wrong is said by the next mask.
        let bytes = self.matcher.compute_ff_bytes();
        if let Ok(environment) = self.matcher.tok_env() {
            self.forced.extend(forced::tokens(&bytes, tokenizer, environment.tok_trie()));
        }
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

/// The first line of an error: what follows is about the library.
fn said(error: impl fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
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
        }
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Form").finish_non_exhaustive()
    }
}
