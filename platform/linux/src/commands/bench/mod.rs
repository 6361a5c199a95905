#[cfg(feature = "serve")]
mod forms;

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use rill::kernels::KV_BLOCK;
use rill::report::Account;
use rill::seams::{Parallel, Silent};
use rill::sequence::SequenceError;
use rill::size::Size;
use rill::stats::{Phase, Stats};
use rill_linux::engine::{Engine, Memory};
use rill_linux::memory::peak_resident;
use serde::Serialize;
use serde_json::{Value, json};

use super::inspect::parameters;
use super::{read_ids, spare, sweep};
use crate::args::EngineArgs;
use crate::failure::Failure;
use crate::interrupt;
use crate::table;
use crate::terminal::stdout;

/// Measure the speed of prompts and answers
///
/// After one run that is not counted, each run feeds a prompt, then single tokens after it: what
/// is fed is decided beforehand, and all of it is computed, also what conversations have in common, so that
/// every run does the same work (--prefixes N plans for N known beginnings, and lets prompts that begin alike
/// share them). With --conversations N the same is measured of N conversations together: tokens a second
/// of all of them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// Tokens of the prompt
    #[arg(short, long, value_name = "N", default_value_t = 128)]
    prompt: u32,
    /// Tokens of the answer
    #[arg(short = 'n', long, value_name = "N", default_value_t = 32)]
    answer: u32,
    /// Runs
    #[arg(short, long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Let the answer be guessed on, as in a conversation: what repeats is fed in fewer steps
    #[arg(long, conflicts_with = "no_draft")]
    draft: bool,
    /// Text file with token ids to feed, again from the start when they are too few [default:
    /// random ones, which ask for experts more evenly than text does]
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// Seed of the random ids
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Measure several budgets, each in a process of its own [default: some between the least that
    /// works and the most of any use]
    #[arg(long, value_name = "SIZE,...", value_parser = Sweep::parse, num_args = 0..=1,
          require_equals = true, default_missing_value = "", conflicts_with = "ram")]
    sweep_ram: Option<Sweep>,
    /// Also draw the sweep: speed, hits and reads against the budget, as SVG
    #[arg(long, value_name = "FILE.svg", requires = "sweep_ram")]
    plot: Option<PathBuf>,
    /// Also measure what it costs that an answer of the server has a form (a JSON schema, a grammar, calls of
    /// tools): the sets of tokens that may come, against the time of a token
    #[cfg(feature = "serve")]
    #[arg(long, conflicts_with = "sweep_ram")]
    forms: bool,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  rill bench -m model.rill --ram 900MiB
  rill bench -m model.rill --ram 2GiB -t 4 -p 512 -n 128 -r 5 --json
  rill bench -m model.rill --ids text.ids
  rill bench -m model.rill --conversations 4
  rill bench -m model.rill --forms
  rill bench -m model.rill --sweep-ram=768MiB,1GiB,2GiB --plot sweep.svg";

/// The budgets of a sweep; none to choose some.
#[derive(Debug, Clone)]
struct Sweep(Vec<u64>);

impl Sweep {
    fn parse(text: &str) -> Result<Self, String> {
        sweep::parse(text).map(Self)
    }
}

/// One row of the table.
#[derive(Debug, Serialize)]
struct Test {
    test: String,
    /// Of each conversation.
    tokens: usize,
    /// Those that were measured together.
    conversations: usize,
    samples_tokens_per_second: Vec<f64>,
    /// Of the run that was not counted: nothing was in RAM when it began.
    cold_tokens_per_second: f64,
    mean_tokens_per_second: f64,
    deviation_tokens_per_second: f64,
    page_hit_rate: f64,
    read_bytes_per_token: f64,
    /// What all runs and conversations together were fed, as the engine counts it.
    fed_tokens: u64,
    /// Where the time of all runs together went.
    account: Account,
}

/// What every row has in common.
#[derive(Debug, Serialize)]
struct Setting {
    model: String,
    size_bytes: u64,
    parameters: u64,
    backend: &'static str,
    threads: usize,
    kv: &'static str,
    budget_bytes: u64,
    slots: u32,
    pages: u32,
    storage: &'static str,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    if let Some(plot) = &args.plot {
        spare(plot, args.engine.image().into_iter().chain(args.ids.as_deref()))?;
    }
    let given = args.ids.as_deref().map(read_ids).transpose()?;
    let tokens = match args.prompt.checked_add(args.answer) {
        Some(0) => return Err(Failure::Usage("nothing to measure: -p and -n are both 0".into())),
        Some(tokens) => tokens,
        None => {
            return Err(Failure::Usage(format!("-p and -n are more than {} together", u32::MAX)));
        }
    };
    let mut options = args.engine.clone();
    options.no_draft = !args.draft;
    // What conversations have in common is computed for each of them.
    options.budget.prefixes.get_or_insert(0);
    if let Some(Sweep(budgets)) = &args.sweep_ram {
        let bounds = options.bounds(Some(tokens))?;
        return sweep::run(budgets, bounds, args.json, args.plot.as_deref());
    }
    let mut memory = Memory::new();
    let mut engine = options.load(Some(tokens), &mut memory)?;
    let conversations = engine.session.conversations();
    let (prompt, context) = (args.prompt as usize, engine.session.context());
    let total = tokens as usize;
    if total > context {
        let (context, needed) = (context as u32, Some(total));
        return Err(SequenceError::ContextFull { context, needed }.into());
    }
    // What was measured stays until all is.
    let needed = conversations * total.next_multiple_of(KV_BLOCK);
    let room = engine.budget.plan.sizes.kv_positions();
    if needed > room {
        return Err(Failure::Usage(format!(
            "{conversations} conversations of {total} tokens need room for {needed}, and --kv-tokens gives \
             {room}: measure fewer, or shorter ones"
        )));
    }
    let ids = fed(args, given, engine.image.manifest.shape.vocab, [conversations, total]);
    let mut tests = measure_together(args, &mut engine, prompt, &ids[..1])?;
    if conversations > 1 {
        tests.extend(measure_together(args, &mut engine, prompt, &ids)?);
    }
    let mut out = stdout();
    let setting = Setting::of(&engine);
    #[cfg(feature = "serve")]
    let costs = forms(args, &engine, &tests)?;
    #[cfg(not(feature = "serve"))]
    let costs: [Value; 0] = [];
    if args.json {
        let costs = costs.iter().map(|cost| json!(cost));
        let rows: Vec<Value> = rows(&setting, &tests).into_iter().chain(costs).collect();
        serde_json::to_writer_pretty(&mut out, &rows).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        print_table(&setting, &tests, &mut out)?;
        #[cfg(feature = "serve")]
        if !costs.is_empty() {
            writeln!(out)?;
            forms::print(&costs, &mut out)?;
        }
    }
    Ok(())
}

/// What forms cost, if that is asked: of the time of a token of one conversation.
#[cfg(feature = "serve")]
fn forms(args: &Args, engine: &Engine<'_>, tests: &[Test]) -> Result<Vec<forms::Cost>, Failure> {
    if !args.forms {
        return Ok(Vec::new());
    }
    let alone = |test: &&Test| test.conversations == 1 && test.test.starts_with("tg");
    let answer = tests.iter().find(alone);
    let none = || Failure::Usage("--forms compares with tokens of an answer: -n is 0".into());
    let token = 1.0 / answer.ok_or_else(none)?.mean_tokens_per_second;
    forms::measure(engine, args.repetitions, token)
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
struct Sample {
    seconds: f64,
    /// What the engine says of it.
    phase: Phase,
}

/// What is fed to each of some conversations, so many tokens: its own random ids, or the given ones from
/// another place on.
fn fed(
    args: &Args,
    given: Option<Vec<u32>>,
    vocab: u32,
    [conversations, total]: [usize; 2],
) -> Vec<Vec<u32>> {
    let mut random = fastrand::Rng::with_seed(args.seed);
    let fed = |number: usize| match &given {
        Some(ids) => {
            let first = ids.len() * number / conversations;
            ids.iter().copied().cycle().skip(first).take(total).collect()
        }
        None => (0..total).map(|_| random.u32(..vocab)).collect(),
    };
    (0..conversations).map(fed).collect()
}

/// Measures the first conversations together, one for each of `ids`, which begin with a prompt of so many
/// tokens.
fn measure_together(
    args: &Args,
    engine: &mut Engine<'_>,
    prompt: usize,
    ids: &[Vec<u32>],
) -> Result<Vec<Test>, Failure> {
    let (prompts, answers): (Vec<&[u32]>, Vec<&[u32]>) =
        ids.iter().map(|ids| ids.split_at(prompt)).unzip();
    let mut samples: [Vec<Sample>; 2] = Default::default();
    let mut cold = [0.0; 2];
    for repetition in 0..=args.repetitions {
        for number in 0..engine.session.conversations() {
            engine.session.select(number);
            engine.session.reset();
        }
        // All of a prompt is to be computed each time, where beginnings are kept too.
        engine.session.forget();
        let measured = [feed_prompts(engine, &prompts)?, feed_answers(engine, &answers)?];
        // The first run fills caches and wakes the CPU.
        if repetition == 0 {
            cold = measured.map(|sample| sample.seconds);
        } else {
            samples.iter_mut().zip(measured).for_each(|(all, one)| all.push(one));
        }
    }
    let many = if ids.len() > 1 { format!(" x{}", ids.len()) } else { String::new() };
    let names =
        [format!("pp{}{many}", args.prompt), format!("tg{} @ d{}{many}", args.answer, args.prompt)];
    Ok(names
        .into_iter()
        .zip([args.prompt, args.answer].map(|tokens| tokens as usize))
        .zip(samples.iter().zip(cold))
        .filter(|((_, fed), _)| *fed > 0)
        .map(|((test, fed), (samples, cold))| Test::of(test, (fed, ids.len()), samples, cold))
        .collect())
}

/// Feeds each conversation tokens that are known together.
fn feed_prompts(engine: &mut Engine<'_>, ids: &[&[u32]]) -> Result<Sample, Failure> {
    measure(engine, |engine| {
        for (number, ids) in ids.iter().enumerate() {
            engine.session.select(number);
            engine.session.append(ids)?;
        }
        while compute(engine, ids.len())? {}
        Ok(())
    })
}

/// Feeds each conversation tokens in the place of samples, each when those before it are computed.
fn feed_answers(engine: &mut Engine<'_>, ids: &[&[u32]]) -> Result<Sample, Failure> {
    measure(engine, |engine| {
        let mut left: Vec<_> = ids.iter().map(|ids| ids.iter()).collect();
        loop {
            for (number, left) in left.iter_mut().enumerate() {
                engine.session.select(number);
                // A batch leaves out who waits for a turn, and a guess that was right is computed already.
                while is_computed(engine, number)
                    && let Some(&id) = left.next()
                {
                    engine.session.accept(id)?;
                }
            }
            if !compute(engine, ids.len())? {
                return Ok(());
            }
        }
    })
}

/// One batch of what is pending in the first `conversations`; `false` when nothing was.
fn compute(engine: &mut Engine<'_>, conversations: usize) -> Result<bool, Failure> {
    interrupt::check()?;
    if conversations > 1 {
        let order: Vec<usize> = (0..conversations).collect();
        let is_done = order.iter().all(|&number| is_computed(engine, number));
        return match engine.advance(&mut Silent, &order)?.rows {
            0 if !is_done => Err(SequenceError::NoBlocks.into()),
            rows => Ok(rows > 0),
        };
    }
    if is_computed(engine, 0) {
        return Ok(false);
    }
    let Engine { session, machine, .. } = engine;
    session.compute(&mut machine.world(&mut Silent))?;
    Ok(true)
}

fn is_computed(engine: &mut Engine<'_>, conversation: usize) -> bool {
    engine.session.parts().1[conversation].pending().is_empty()
}

fn measure(
    engine: &mut Engine<'_>,
    feed: impl FnOnce(&mut Engine<'_>) -> Result<(), Failure>,
) -> Result<Sample, Failure> {
    let before = all(engine.session.stats());
    let start = Instant::now();
    feed(engine)?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(Sample { seconds, phase: all(engine.session.stats()).since(before) })
}

fn all(stats: Stats) -> Phase {
    stats.prompt.plus(stats.decode)
}

impl Test {
    /// Of so many tokens in each of so many conversations.
    fn of(
        test: String,
        (tokens, conversations): (usize, usize),
        samples: &[Sample],
        cold_seconds: f64,
    ) -> Self {
        let all_tokens = tokens * conversations;
        let speeds: Vec<f64> = samples.iter().map(|s| all_tokens as f64 / s.seconds).collect();
        let count = samples.len() as f64;
        let mean = speeds.iter().sum::<f64>() / count;
        let squares = speeds.iter().map(|speed| (speed - mean).powi(2)).sum::<f64>();
        let all = samples.iter().fold(Phase::default(), |all, sample| all.plus(sample.phase));
        let account = Account::of(&all);
        Self {
            test,
            tokens,
            conversations,
            mean_tokens_per_second: mean,
            deviation_tokens_per_second: (squares / (count - 1.0).max(1.0)).sqrt(),
            samples_tokens_per_second: speeds,
            cold_tokens_per_second: all_tokens as f64 / cold_seconds,
            page_hit_rate: all.cache.hit_rate(),
            read_bytes_per_token: all.cache.bytes as f64 / (count * all_tokens as f64),
            fed_tokens: all.tokens,
            account,
        }
    }
}

impl Setting {
    fn of(engine: &Engine<'_>) -> Self {
        let manifest = &engine.image.manifest;
        Self {
            model: manifest.name.to_string(),
            size_bytes: engine.image.header.file_len,
            parameters: parameters(manifest),
            backend: engine.session.kernels().name,
            threads: engine.machine.pool.width(),
            kv: engine.session.kv_format().name(),
            budget_bytes: engine.budget.used(),
            slots: engine.budget.plan.slots,
            pages: engine.budget.plan.pages,
            storage: engine.machine.via(),
        }
    }
}

fn print_table(setting: &Setting, tests: &[Test], out: &mut impl Write) -> std::io::Result<()> {
    const HEAD: [&str; 10] = [
        "model",
        "size",
        "params",
        "backend",
        "threads",
        "ram",
        "test",
        "t/s",
        "hits",
        "MiB/token",
    ];
    let rows: Vec<Vec<String>> = tests
        .iter()
        .map(|test| {
            let (mean, deviation) = (test.mean_tokens_per_second, test.deviation_tokens_per_second);
            vec![
                setting.model.clone(),
                Size(setting.size_bytes).to_string(),
                format!("{:.2} M", setting.parameters as f64 / 1e6),
                setting.backend.to_owned(),
                setting.threads.to_string(),
                Size(setting.budget_bytes).to_string(),
                test.test.clone(),
                format!("{mean:.2} ± {deviation:.2}"),
                format!("{:.1} %", 100.0 * test.page_hit_rate),
                format!("{:.1}", test.read_bytes_per_token / f64::from(1 << 20)),
            ]
        })
        .collect();
    table::print(&HEAD, &rows, out)
}

/// The rows as JSON.
fn rows(setting: &Setting, tests: &[Test]) -> Vec<Value> {
    #[derive(Serialize)]
    struct Row<'r> {
        #[serde(flatten)]
        setting: &'r Setting,
        #[serde(flatten)]
        test: &'r Test,
        peak_resident_bytes: Option<u64>,
    }
    let peak_resident_bytes = peak_resident();
    tests.iter().map(|test| json!(Row { setting, test, peak_resident_bytes })).collect()
}
