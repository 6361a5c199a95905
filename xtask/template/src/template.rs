use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use rill::image::{Chat, ChatTemplate};
use rill::tokenizer::Tokenizer;

use crate::conversation::Conversation;
use crate::environment;
use crate::guard::Guard;
use crate::limits::{MEMORY, OUTPUT_BYTES, SOURCE_BYTES, STACK_BYTES, TIME};
use crate::paid;
use crate::rendered::Rendered;
use crate::source::{self, Source};

/// Why a conversation was not rendered.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The source is too long.
    #[error("the chat template has {0} bytes, at most {SOURCE_BYTES} are read")]
    Long(usize),
    /// The source is not Jinja as the engine reads it.
    #[error("the chat template cannot be compiled: {0}")]
    Source(String),
    /// The template itself refuses the conversation.
    #[error("the chat template refuses: {0}")]
    Refused(String),
    /// The template does something that cannot be done.
    #[error("the chat template fails: {0}")]
    Failed(String),
    /// It does too much.
    #[error("the chat template does not end within its limits: too many steps or too much text")]
    Work,
    /// What it wrote is too long.
    #[error("the chat template writes {0} bytes, at most {OUTPUT_BYTES} are taken")]
    Output(usize),
    /// It took too long.
    #[error("the chat template does not end within {} seconds", TIME.as_secs())]
    Time,
    /// It took too much RAM.
    #[error("the chat template takes more than {} MiB of RAM", MEMORY >> 20)]
    Memory,
    /// What a template is given under this name goes deeper than so many levels.
    #[error("`{0}` has lists and maps deeper in each other than {1}")]
    Deep(String, usize),
    /// There is no thread to run it on.
    #[error("no thread for the chat template: {0}")]
    Thread(io::Error),
}

/// The tokens that a template and its vocabulary speak of by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Words {
    /// `bos_token`.
    pub bos: String,
    /// `eos_token`.
    pub eos: String,
    /// The control tokens and their ids.
    pub control: Vec<(String, u32)>,
    /// What begins and ends the thinking of a model. An assistant's message may have these as
    /// tokens, where they are control tokens.
    pub thinking: Option<[String; 2]>,
}

impl Words {
    /// Those of a model whose template came with it as `section`.
    pub fn of(tokenizer: &Tokenizer<'_>, chat: &Chat, section: &ChatTemplate<'_>) -> Self {
        let ids = 0..u32::try_from(tokenizer.len()).unwrap_or(u32::MAX);
        let named = |id| Some((String::from_utf8(tokenizer.piece(id).to_vec()).ok()?, id));
        let thinking = chat.thinking.as_ref();
        Self {
            bos: section.bos.into(),
            eos: section.eos.into(),
            control: ids.filter(|&id| tokenizer.is_special(id)).filter_map(named).collect(),
            thinking: thinking.map(|t| [t.open.as_str(), t.close.as_str()].map(str::to_owned)),
        }
    }
}

/// A checkpoint's chat template (Jinja).
#[derive(Debug, Clone)]
pub struct Template {
    source: Source,
    words: Words,
}

impl Template {
    /// Compiles `source`.
    pub fn new(source: &str, words: Words) -> Result<Self, TemplateError> {
        if source.len() > SOURCE_BYTES {
            return Err(TemplateError::Long(source.len()));
        }
        let source = source::prepare(source);
        let text = source.text.clone();
        within_limits(move || environment::compile(&text))??;
        Ok(Self { source, words })
    }

    /// Renders `conversation`.
    pub fn render(&self, conversation: &Conversation) -> Result<Rendered, TemplateError> {
        let guard = Guard::new(&self.source, &self.words, conversation);
        let job = environment::Job::new(&self.source, &self.words, &guard, conversation)?;
        let text = within_limits(move || job.run())??;
        if text.len() > OUTPUT_BYTES {
            return Err(TemplateError::Output(text.len()));
        }
        Ok(Rendered::new(&text, &guard, &self.words.control))
    }
}

/// How often time and memory are looked at.
const WATCH: Duration = Duration::from_millis(20);

/// Says that nobody waits any more.
struct GivesUp(Arc<AtomicBool>);

impl Drop for GivesUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` on a thread with a stack of known size and watches it.
fn within_limits<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TemplateError> {
    let (tell, told) = sync_channel(1);
    let given_up = Arc::<AtomicBool>::default();
    let _gives_up = GivesUp(given_up.clone());
    let thread = Builder::new().name("rill-template".into()).stack_size(STACK_BYTES);
    let run = move || {
        paid::heed(given_up);
        // Whoever waited may have given up.
        let _ = tell.send(work());
    };
    let (start, before) = (Instant::now(), resident());
    thread.spawn(run).map_err(TemplateError::Thread)?;
    loop {
        match told.recv_timeout(WATCH) {
            Ok(outcome) => return Ok(outcome),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(TemplateError::Failed("the template engine stopped".into()));
            }
            Err(RecvTimeoutError::Timeout) if start.elapsed() > TIME => {
                return Err(TemplateError::Time);
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let (Some(before), Some(now)) = (before, resident())
            && now.saturating_sub(before) > MEMORY
        {
            return Err(TemplateError::Memory);
        }
    }
}

/// Bytes of RAM that the process has; `None` where the system does not say.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
