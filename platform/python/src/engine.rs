//! How Python asks for it: plain values in, plain values out. `rill/__init__.py` makes it pleasant.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict};
use pyo3::{create_exception, exceptions::PyRuntimeError, exceptions::PyValueError};
use rill::chat::Role;
use rill::generate::Ending;
use rill::plan::KvFormat;
use rill_linux::answer::AnswerOptions;
use rill_linux::engine::{BudgetOptions, Options};
use rill_linux::talk::Message;

use crate::model::{Manner, Prompt, Sampling};
use crate::worker::Worker;

create_exception!(rill, RillError, PyRuntimeError, "Something that Rill cannot do, and why.");

/// A loaded model.
#[pyclass(frozen, module = "rill._rill")]
pub struct Engine {
    worker: Worker,
}

/// RAM, tokens of a conversation and of a batch, conversations, tokens of all of them.
type Sizes = (Option<u64>, Option<u32>, Option<u32>, u32, Option<u32>);
/// How an answer is chosen, as Python says it: (most tokens, stop texts, most tokens of thinking, seed).
type Limits = (Option<u64>, Vec<String>, Option<u64>, u64);
/// Temperature, top-k, top-p, min-p, repetition penalty.
type Choice = (Option<f32>, Option<u32>, Option<f32>, Option<f32>, Option<f32>);
/// Text, thinking, why it ended, tokens of prompt and answer.
type Answered = (String, Option<String>, &'static str, usize, usize);

#[pymethods]
impl Engine {
    /// Loads a model.
    #[new]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        sizes: Sizes,
        kv: &str,
        threads: Option<usize>,
    ) -> PyResult<Self> {
        let (ram, context, batch, conversations, kv_tokens) = sizes;
        let kv = KvFormat::ALL.into_iter().find(|format| format.name() == kv);
        let kv = kv.ok_or_else(|| PyValueError::new_err("`kv` must be \"f16\" or \"int8\""))?;
        let sizes = BudgetOptions { ram, context, batch, kv, ..BudgetOptions::default() };
        let budget = BudgetOptions { conversations, kv_tokens, ..sizes };
        let threads = threads.and_then(NonZeroUsize::new);
        let options = Options { model: Some(path), budget, threads, ..Options::default() };
        Ok(Self { worker: Worker::start(py, options)? })
    }

    fn close(&self, py: Python<'_>) {
        self.worker.close(py);
    }

    /// What is known of the model.
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (name, vocab, context, conversations, begin, stops, kernels) =
            self.worker.call(py, |model| {
                let (manifest, session) = (&model.engine.image.manifest, &model.engine.session);
                Ok((
                    manifest.name.to_string(),
                    manifest.shape.vocab,
                    session.context(),
                    session.conversations(),
                    manifest.chat.begin,
                    manifest.chat.stops.to_vec(),
                    session.kernels().name,
                ))
            })?;
        let info = PyDict::new(py);
        info.set_item("name", name)?;
        info.set_item("vocab", vocab)?;
        info.set_item("context", context)?;
        info.set_item("conversations", conversations)?;
        info.set_item("begin", begin)?;
        info.set_item("stops", stops)?;
        info.set_item("kernels", kernels)?;
        Ok(info)
    }

    /// Where time went so far; times in seconds.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let all = self.worker.call(py, |model| Ok(model.engine.session.stats()))?;
        let seconds = |micros: u64| micros as f64 / 1e6;
        let cache = all.prompt.plus(all.decode).cache;
        let stats = PyDict::new(py);
        stats.set_item("prompt_tokens", all.prompt.tokens)?;
        stats.set_item("prompt_time", seconds(all.prompt.time))?;
        stats.set_item("answer_tokens", all.decode.tokens)?;
        stats.set_item("answer_time", seconds(all.decode.time))?;
        stats.set_item("waiting", seconds(cache.waiting))?;
        stats.set_item("reused", all.reused)?;
        stats.set_item("parked_tokens", all.parked_tokens)?;
        stats.set_item("drafted", all.drafted)?;
        stats.set_item("accepted", all.accepted)?;
        stats.set_item("hits", cache.hits + cache.guessed)?;
        stats.set_item("misses", cache.misses + cache.late)?;
        stats.set_item("evictions", cache.evictions)?;
        stats.set_item("bytes_read", cache.bytes)?;
        Ok(stats)
    }

    fn begin(&self, py: Python<'_>, system: Option<String>) -> PyResult<u64> {
        self.worker.call(py, move |model| model.begin(system.as_deref()))
    }

    fn end(&self, py: Python<'_>, chat: u64) -> PyResult<()> {
        self.worker.call(py, move |model| {
            model.end(chat);
            Ok(())
        })
    }

    fn ask(
        &self,
        py: Python<'_>,
        chat: u64,
        question: String,
        limits: Limits,
        choice: Choice,
    ) -> PyResult<()> {
        let manner = manner(limits, choice);
        self.worker.call(py, move |model| model.ask(chat, &question, &manner))
    }

    fn speak(&self, py: Python<'_>, chat: u64) -> PyResult<Option<String>> {
        self.worker.call(py, move |model| model.speak(chat))
    }

    /// Answers conversations, each a list of (role, text).
    fn answer(
        &self,
        py: Python<'_>,
        conversations: Vec<Vec<(String, String)>>,
        limits: Limits,
        choice: Choice,
    ) -> PyResult<Vec<Answered>> {
        let conversations = conversations.into_iter().map(messages);
        let prompts = conversations.map(|said| said.map(Prompt::Chat)).collect::<PyResult<_>>()?;
        self.answer_all(py, prompts, manner(limits, choice))
    }

    /// Continues texts.
    fn complete(
        &self,
        py: Python<'_>,
        texts: Vec<String>,
        limits: Limits,
        choice: Choice,
    ) -> PyResult<Vec<Answered>> {
        let prompts = texts.into_iter().map(Prompt::Raw).collect();
        self.answer_all(py, prompts, manner(limits, choice))
    }

    /// Logits after the last token, as bytes of 32-bit floats.
    fn logits<'py>(&self, py: Python<'py>, tokens: Vec<u32>) -> PyResult<Bound<'py, PyByteArray>> {
        let logits = self.worker.call(py, move |model| model.logits(&tokens))?;
        Ok(PyByteArray::new(py, &bytes(&logits)))
    }

    /// Logits after every token, as bytes of 32-bit floats.
    fn all_logits<'py>(
        &self,
        py: Python<'py>,
        tokens: Vec<u32>,
    ) -> PyResult<Bound<'py, PyByteArray>> {
        let all = self.worker.call(py, move |model| {
            let mut all = Vec::new();
            model.each_logits(&tokens, |logits| all.extend(bytes(logits)))?;
            Ok(all)
        })?;
        Ok(PyByteArray::new(py, &all))
    }

    /// Of each token from `from` on: the logarithm of its probability, and whether it is the likeliest.
    fn score(&self, py: Python<'_>, tokens: Vec<u32>, from: usize) -> PyResult<Vec<(f32, bool)>> {
        self.worker.call(py, move |model| model.score(&tokens, from))
    }

    fn chat_text(&self, py: Python<'_>, said: Vec<(String, String)>) -> PyResult<String> {
        let said = messages(said)?;
        let text = self.worker.call(py, move |model| model.chat_text(&said))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn encode(&self, py: Python<'_>, text: String, control: bool) -> PyResult<Vec<u32>> {
        self.worker.call(py, move |model| model.encode(&text, control))
    }

    fn decode<'py>(&self, py: Python<'py>, tokens: Vec<u32>) -> PyResult<Bound<'py, PyBytes>> {
        let text = self.worker.call(py, move |model| {
            model.know(&tokens)?;
            let tokenizer = model.engine.session.tokenizer();
            Ok(tokens.iter().flat_map(|&id| tokenizer.piece(id)).copied().collect::<Vec<u8>>())
        })?;
        Ok(PyBytes::new(py, &text))
    }
}

impl Engine {
    fn answer_all(
        &self,
        py: Python<'_>,
        prompts: Vec<Prompt>,
        manner: Manner,
    ) -> PyResult<Vec<Answered>> {
        let answers = self.worker.call(py, move |model| model.answer_all(prompts, &manner))?;
        let answered = |answer: crate::model::Answer| {
            let ending = match answer.ending {
                Ending::Stop => "stop",
                Ending::MaxTokens => "max_tokens",
                Ending::ContextFull => "context_full",
                Ending::Interrupted => "interrupted",
            };
            (answer.text, answer.thinking, ending, answer.prompt_tokens, answer.answer_tokens)
        };
        Ok(answers.into_iter().map(answered).collect())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        Python::attach(|py| self.worker.close(py));
    }
}

fn manner((max_tokens, stop, thinking, seed): Limits, choice: Choice) -> Manner {
    let (temperature, top_k, top_p, min_p, repetition_penalty) = choice;
    let sampling = Sampling { temperature, top_k, top_p, min_p, repetition_penalty };
    Manner { options: AnswerOptions { max_tokens, stop, thinking }, sampling, seed }
}

fn messages(said: Vec<(String, String)>) -> PyResult<Vec<Message>> {
    let message = |(name, content): (String, String)| {
        let unknown = || PyValueError::new_err(format!("unknown role {name:?}"));
        Ok(Message { role: Role::named(&name).ok_or_else(unknown)?, content })
    };
    said.into_iter().map(message).collect()
}

fn bytes(logits: &[f32]) -> Vec<u8> {
    logits.iter().flat_map(|logit| logit.to_ne_bytes()).collect()
}
