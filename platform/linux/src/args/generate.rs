use clap::Args;
use rill::answer::Answer;
use rill::generate::{Ending, Guide};
use rill::image::Sampling;
use rill::sampler::{Bias, Settings};
use rill::seams::{Event, Events};
use rill::thinking::Part;
use rill_linux::answer::AnswerOptions;
use rill_linux::engine::{Beside, Engine, Memory};
use rill_linux::talk::Talk;

use super::EngineArgs;
use crate::failure::Failure;
use crate::interrupt;
use crate::terminal::tell;
use crate::voice::{ThinkingArg, Voice};

/// How tokens are chosen and when an answer ends.
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    /// Most tokens of an answer [default: until it ends]
    #[arg(short = 'n', long, value_name = "TOKENS")]
    max_tokens: Option<u64>,
    /// Ends the answer before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Least tokens of an answer: with fewer the model does not end it, only --stop does
    #[arg(long, value_name = "TOKENS", default_value_t = 0, hide_short_help = true)]
    min_tokens: u32,
    /// Let the model never end an answer: -n, --stop or the context does
    #[arg(long, hide_short_help = true)]
    ignore_eos: bool,
    /// Thinking before an answer: `show`, `hide`, or at most so many tokens of it [default: shown,
    /// dimmed, on a terminal; else not]
    #[arg(long, value_name = "show|hide|TOKENS")]
    thinking: Option<ThinkingArg>,
    /// Seed of the random choices
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Overrides what the model's makers advise.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling (default: as the model's makers advise)")]
struct SamplingArgs {
    /// Always take the most probable token
    #[arg(long, conflicts_with_all = ["temp", "top_n_sigma", "top_k", "top_p", "min_p"])]
    greedy: bool,
    /// Temperature; 0 is greedy
    #[arg(long, value_name = "T", value_parser = at_least_zero, allow_negative_numbers = true)]
    temp: Option<f32>,
    /// Keep tokens whose logits are at most so many standard deviations below the best; 0 keeps all
    #[arg(
        long,
        value_name = "N",
        value_parser = at_least_zero,
        default_value_t = 0.0,
        allow_negative_numbers = true,
        hide_short_help = true,
    )]
    top_n_sigma: f32,
    /// Keep this many of the most probable tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Keep the most probable tokens until their probabilities sum to this
    #[arg(long, value_name = "P", value_parser = above_zero_to_one, allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Keep tokens at least this fraction as probable as the best
    #[arg(long, value_name = "P", value_parser = below_one, allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Make tokens that were there before less probable; 1 does nothing
    #[arg(long, value_name = "R", value_parser = above_zero, allow_negative_numbers = true)]
    repeat_penalty: Option<f32>,
    /// Taken from the logit of each token that the answer has; -2 to 2
    #[arg(
        long,
        value_name = "P",
        value_parser = within_two,
        default_value_t = 0.0,
        allow_negative_numbers = true,
        hide_short_help = true,
    )]
    presence_penalty: f32,
    /// Taken from the logit of a token for each time that the answer has it; -2 to 2
    #[arg(
        long,
        value_name = "P",
        value_parser = within_two,
        default_value_t = 0.0,
        allow_negative_numbers = true,
        hide_short_help = true,
    )]
    frequency_penalty: f32,
    /// Added to the logit of a token, for example 42=-1.5; may be repeated (`rill tokenize` gives ids)
    #[arg(long, value_name = "ID=BIAS", value_parser = bias, hide_short_help = true)]
    logit_bias: Vec<Bias>,
}

impl GenerateArgs {
    /// Whether an answer can end as is asked.
    fn check(&self) -> Result<(), Failure> {
        let mut answer = Answer::default();
        let added = self.stop.iter().try_for_each(|stop| answer.add_stop(stop));
        added.map_err(|error| Failure::Usage(format!("--stop: {error}")))
    }

    /// Loads the model that answers into `memory`; `tokens` is the context when the user asks for none.
    pub fn load<'m>(
        &self,
        engine: &EngineArgs,
        tokens: Option<u32>,
        memory: &'m mut Memory,
    ) -> Result<Engine<'m>, Failure> {
        self.check()?;
        self.prepare(engine.load(tokens, memory)?)
    }

    /// As [`Self::load`]; `beside` says what the program takes for itself with so many conversations.
    pub fn load_beside<'m>(
        &self,
        engine: &EngineArgs,
        beside: impl FnOnce(u32) -> Beside,
        memory: &'m mut Memory,
    ) -> Result<Engine<'m>, Failure> {
        self.check()?;
        self.prepare(engine.load_beside(1, beside, memory)?)
    }

    /// Every conversation chooses its tokens as is asked.
    fn prepare<'m>(&self, mut engine: Engine<'m>) -> Result<Engine<'m>, Failure> {
        for number in (0..engine.session.conversations()).rev() {
            engine.session.select(number);
            engine.session.set_sampling(self.settings(engine.image.manifest.sampling), self.seed);
            engine.session.set_biases(&self.sampling.logit_bias)?;
        }
        Ok(engine)
    }

    /// How to choose tokens, given what the image advises.
    pub fn settings(&self, advised: Sampling) -> Settings {
        let args = &self.sampling;
        let sampling = Sampling {
            temperature: if args.greedy { 0.0 } else { args.temp.unwrap_or(advised.temperature) },
            top_k: args.top_k.unwrap_or(advised.top_k),
            top_p: args.top_p.unwrap_or(advised.top_p),
            min_p: args.min_p.unwrap_or(advised.min_p),
            repetition_penalty: args.repeat_penalty.unwrap_or(advised.repetition_penalty),
        };
        Settings {
            sampling,
            presence_penalty: args.presence_penalty,
            frequency_penalty: args.frequency_penalty,
            top_n_sigma: args.top_n_sigma,
            ignore_eos: self.ignore_eos,
            min_tokens: self.min_tokens,
        }
    }

    /// Seed of the random choices.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What is added to logits before each choice.
    pub fn biases(&self) -> &[Bias] {
        &self.sampling.logit_bias
    }

    /// All that an answer depends on of it.
    pub fn meaning(&self, advised: Sampling) -> impl std::fmt::Debug {
        (self.settings(advised), self.seed, self.sampling.logit_bias.clone(), self.answer())
    }

    /// What writes answers to standard output.
    pub fn voice(&self) -> Voice {
        Voice::new(self.thinking)
    }

    /// When an answer ends.
    pub fn answer(&self) -> AnswerOptions {
        AnswerOptions {
            max_tokens: self.max_tokens,
            stop: self.stop.clone(),
            thinking: self.thinking.and_then(ThinkingArg::most),
        }
    }

    /// Continues the sequence of `engine`, which is an answer of `talk` where there is one; `events`
    /// hears what happens, `guide` has a say in it, `emit` takes the text as it comes.
    pub fn generate(
        &self,
        engine: &mut Engine<'_>,
        talk: Option<&mut Talk>,
        events: &mut dyn Events,
        guide: &mut dyn Guide,
        mut emit: impl FnMut(Part, &str) -> std::io::Result<()>,
    ) -> Result<Ending, Failure> {
        let mut heard = Ok(());
        let speak = |part, text: &str| {
            if heard.is_ok() {
                heard = emit(part, text);
            }
        };
        let options = self.answer();
        let events = &mut Heeding(events);
        let ending = engine.answer_with(talk, &options, events, guide, interrupt::take, speak)?;
        heard?;
        Ok(ending)
    }
}

/// Ends a batch when a signal asked that what is being done ends: a long one takes longer than a signal
/// may be left waiting.
pub struct Heeding<'e>(pub &'e mut dyn Events);

impl Events for Heeding<'_> {
    fn hear(&mut self, event: Event) {
        self.0.hear(event);
    }

    fn wants_stop(&mut self) -> bool {
        interrupt::asked()
    }
}

/// Begins a conversation, with an instruction before it.
pub fn begin_talk(engine: &mut Engine<'_>, system: Option<&str>) -> Result<Talk, Failure> {
    let talk = Talk::begin(engine, system)?;
    talk.note().into_iter().for_each(|note| tell(format_args!("note: {note}")));
    Ok(talk)
}

fn number(text: &str, fits: impl Fn(f32) -> bool, range: &str) -> Result<f32, String> {
    text.parse().ok().filter(|x: &f32| x.is_finite() && fits(*x)).ok_or(format!("not {range}"))
}

fn at_least_zero(text: &str) -> Result<f32, String> {
    number(text, |x| x >= 0.0, "a number of at least 0")
}

fn above_zero(text: &str) -> Result<f32, String> {
    number(text, |x| x > 0.0, "a number above 0")
}

fn above_zero_to_one(text: &str) -> Result<f32, String> {
    number(text, |x| x > 0.0 && x <= 1.0, "a number above 0, at most 1")
}

fn within_two(text: &str) -> Result<f32, String> {
    number(text, |x| (-2.0..=2.0).contains(&x), "a number from -2 to 2")
}

fn bias(text: &str) -> Result<Bias, String> {
    let wrong = || "not a token and what to add to its logit, as 42=-1.5".to_owned();
    let (id, bias) = text.split_once('=').ok_or_else(wrong)?;
    let id = id.trim().parse().map_err(|_| wrong())?;
    Ok(Bias { id, bias: number(bias.trim(), |_| true, "ID=BIAS with a number for BIAS")? })
}

fn below_one(text: &str) -> Result<f32, String> {
    number(text, |x| (0.0..1.0).contains(&x), "a number of at least 0, below 1")
}
