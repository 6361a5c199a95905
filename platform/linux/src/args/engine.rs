use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser};
use rill::experts::{POLICIES, Policy, policy};
use rill::plan::KvFormat;
use rill_linux::engine::{Beside, BudgetOptions, Engine, Memory, Note, Options};
use rill_linux::memory::{group_limit, parse_size};
use rill_linux::model::Model;
use rill_linux::pool::Pool;

use super::ModelArgs;
use crate::failure::Failure;
use crate::terminal::tell;

/// Which model, and how it may use this machine.
#[derive(Debug, Clone, clap::Args)]
pub struct EngineArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pub budget: BudgetArgs,
    /// Cores to use [default: all]
    #[arg(short, long, value_name = "N", value_parser = threads())]
    threads: Option<NonZeroUsize>,
    /// Table of functions to use; `rill inspect --kernels` lists those of this CPU
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    kernels: Option<String>,
    /// Which experts give way to others: those expected to be wanted last, the least often used with
    /// a memory of those that left, the least recently used of the same layer or of all
    #[arg(long, value_name = "NAME", value_parser = policies(), default_value = POLICIES[0].name(),
        hide_short_help = true)]
    policy: &'static dyn Policy,
    /// Never read experts on a guess
    #[arg(long, hide_short_help = true)]
    no_lookahead: bool,
    /// Never guess how an answer goes on; guesses change no word of it
    #[arg(long, hide_short_help = true)]
    pub no_draft: bool,
    /// In the end keep, beside the image, which experts are in RAM: the next run reads them first
    #[arg(long, hide_short_help = true)]
    save_pages: bool,
    /// Keep what is known of conversations in a file of at most this size, beside the image: those that
    /// begin alike after a restart need not compute it again. What was said can be read from it, by you
    /// alone
    #[arg(long, value_name = "SIZE", value_parser = parse_size, hide_short_help = true)]
    keep_beginnings: Option<u64>,
    /// Folder for what runs find out about an image and its device [default: that of the image]
    #[arg(long, value_name = "DIR", env = "RILL_STATE", hide_short_help = true)]
    state: Option<PathBuf>,
}

/// How much RAM, and for what.
#[derive(Debug, Clone, clap::Args)]
pub struct BudgetArgs {
    /// RAM that the whole process may use, for example 900MiB [default: what is free]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub ram: Option<u64>,
    /// Tokens that a conversation may have [default: 4096, or the model's own if less]
    #[arg(short, long, value_name = "TOKENS")]
    pub context: Option<u32>,
    /// Most tokens of a prompt that go through the model together [default: chosen by the budget]
    #[arg(long, value_name = "TOKENS", hide_short_help = true)]
    batch: Option<u32>,
    /// Beginnings of conversations that are kept, so that others that begin alike need not compute
    /// them again [default: chosen by the budget]
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub prefixes: Option<u32>,
    /// How keys and values of a conversation are kept; logits depend on it
    #[arg(long, value_enum, default_value = "f16")]
    kv: KvName,
    /// Conversations side by side [default: 1; to serve, 2]
    #[arg(long, value_name = "N", hide_short_help = true)]
    conversations: Option<NonZeroU32>,
    /// Tokens whose keys and values there is RAM for, of all conversations together: when it is full, the
    /// last that came wait for the others [default: a context for each conversation]
    #[arg(long, value_name = "TOKENS", hide_short_help = true)]
    kv_tokens: Option<u32>,
}

/// A format of keys and values as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KvName {
    /// In 16 bits a number
    F16,
    /// About half of that (LFM2-8B-A1B: 6.2 KiB a token, not 12.0), for a KL divergence of 9.4e-4
    /// nats (kiosk model)
    Int8,
}

impl EngineArgs {
    /// The file of the image, if it is one.
    pub fn image(&self) -> Option<&Path> {
        self.model.path()
    }

    /// Opens the image and checks header and manifest.
    pub fn open(&self) -> Result<Model, Failure> {
        Ok(self.model.open()?)
    }

    /// The same for another image.
    pub fn of_image(&self, path: &Path) -> Self {
        Self { model: self.model.at(path), ..self.clone() }
    }

    /// The bounds of the budget for a context of `tokens`, unless the user asks for another.
    pub fn bounds(&self, tokens: Option<u32>) -> Result<[u64; 2], Failure> {
        let model = self.model.open()?;
        let options = self.options(tokens);
        let budget = options.budget.plan(&model, options.threads)?;
        let [least, most] = budget.bounds(&model.image);
        let limit = group_limit().map_or(u64::MAX, |limit| limit.bytes);
        Ok([least, most.min(limit).max(least)])
    }

    /// Loads the model into `memory`. `tokens` is the context when the user asks for none.
    pub fn load<'m>(
        &self,
        tokens: Option<u32>,
        memory: &'m mut Memory,
    ) -> Result<Engine<'m>, Failure> {
        load(&self.options(tokens), memory)
    }

    /// Loads the model into `memory`, for `conversations` side by side unless the user asks for another
    /// number; `beside` says what the program takes for itself with so many.
    pub fn load_beside<'m>(
        &self,
        conversations: u32,
        beside: impl FnOnce(u32) -> Beside,
        memory: &'m mut Memory,
    ) -> Result<Engine<'m>, Failure> {
        let budget = self.budget.options_beside(conversations, beside);
        load(&Options { budget, ..self.options(None) }, memory)
    }

    /// What the library calls it. `tokens` is the context when the user asks for none.
    fn options(&self, tokens: Option<u32>) -> Options {
        let budget = self.budget.options();
        Options {
            model: self.model.path().map(Path::to_owned),
            via: self.model.via(),
            budget: BudgetOptions { context: budget.context.or(tokens), ..budget },
            threads: self.threads,
            kernels: self.kernels.clone(),
            policy: self.policy,
            lookahead: !self.no_lookahead,
            draft: !self.no_draft,
            save_pages: self.save_pages,
            keep_beginnings: self.keep_beginnings,
            state: self.state.clone(),
        }
    }
}

impl BudgetArgs {
    /// What the library calls it.
    pub fn options(&self) -> BudgetOptions {
        BudgetOptions {
            ram: self.ram,
            context: self.context,
            batch: self.batch,
            kv: self.kv.format(),
            prefixes: self.prefixes,
            conversations: self.conversations.map_or(1, NonZeroU32::get),
            kv_tokens: self.kv_tokens,
            ..BudgetOptions::default()
        }
    }

    /// The same for a program that has so many conversations side by side unless the user asks for another
    /// number, and takes what `beside` says of them.
    pub fn options_beside(
        &self,
        conversations: u32,
        beside: impl FnOnce(u32) -> Beside,
    ) -> BudgetOptions {
        let conversations = self.conversations.map_or(conversations, NonZeroU32::get);
        BudgetOptions { conversations, beside: beside(conversations), ..self.options() }
    }
}

fn load<'m>(options: &Options, memory: &'m mut Memory) -> Result<Engine<'m>, Failure> {
    let mut note = |note: Note<'_>| match note {
        Note::Budget(budget) => tell(format_args!("{budget}; --ram sets another budget")),
        note => tell(format_args!("note: {note}")),
    };
    Ok(Engine::load(options, memory, &mut note)?)
}

impl KvName {
    const fn format(self) -> KvFormat {
        match self {
            Self::F16 => KvFormat::F16,
            Self::Int8 => KvFormat::Int8,
        }
    }
}

/// Reads a number of threads.
pub fn threads() -> impl TypedValueParser<Value = NonZeroUsize> {
    let number = RangedU64ValueParser::<usize>::new().range(1..=Pool::MOST as u64);
    number.map(|number| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN))
}

/// Reads the name of a policy.
fn policies() -> impl TypedValueParser<Value = &'static dyn Policy> {
    let names = PossibleValuesParser::new(POLICIES.map(Policy::name));
    names.map(|name| policy(&name).unwrap_or(POLICIES[0]))
}
