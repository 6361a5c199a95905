use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Instant;

use rill::experts::CacheStats;
use rill::seams::{Parallel, Silent};
use rill::size::Size;
use rill_linux::memory::peak_resident;
use serde::Serialize;

use super::inspect::parameters;
use super::read_ids;
use crate::engine::{Engine, EngineArgs};
use crate::failure::Failure;
use crate::interrupt;

/// Measure the speed of prompts and answers
///
/// After one run that is not counted, each run feeds a prompt, then single tokens after it: what
/// is fed is decided beforehand, so that every run does the same work.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// Tokens of the prompt
    #[arg(short, long, value_name = "N", default_value_t = 128)]
    prompt: usize,
    /// Tokens of the answer
    #[arg(short = 'n', long, value_name = "N", default_value_t = 32)]
    answer: usize,
    /// Runs
    #[arg(short, long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Text file with token ids to feed, again from the start when they are too few [default:
    /// random ones, which ask for experts more evenly than text does]
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// Seed of the random ids
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  rill bench -m model.rill --ram 900MiB
  rill bench -m model.rill --ram 2GiB -t 4 -p 512 -n 128 -r 5 --json
  rill bench -m model.rill --ids text.ids";

/// One row of the table.
#[derive(Debug, Serialize)]
struct Test {
    test: String,
    tokens: usize,
    samples_tokens_per_second: Vec<f64>,
    mean_tokens_per_second: f64,
    deviation_tokens_per_second: f64,
    page_hit_rate: f64,
    read_bytes_per_token: f64,
    read_wait_seconds: f64,
}

/// What every row has in common.
#[derive(Debug, Serialize)]
struct Setting {
    model: String,
    size_bytes: u64,
    parameters: u64,
    backend: &'static str,
    threads: usize,
    budget_bytes: u64,
    slots: u32,
    pages: u32,
    storage: &'static str,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let given = args.ids.as_deref().map(read_ids).transpose()?;
    let total = args.prompt + args.answer;
    if total == 0 {
        return Err(Failure::Usage("nothing to measure: -p and -n are both 0".into()));
    }
    interrupt::watch()?;
    let tokens = u32::try_from(total).unwrap_or(u32::MAX);
    let mut engine = args.engine.load(Some(tokens), |advised| advised, 0)?;
    let vocab = engine.image.manifest.shape.vocab;
    let mut random = fastrand::Rng::with_seed(args.seed);
    let ids: Vec<u32> = match given {
        Some(ids) => ids.into_iter().cycle().take(total).collect(),
        None => (0..total).map(|_| random.u32(..vocab)).collect(),
    };
    let (prompt, answer) = ids.split_at(args.prompt);
    let named = [format!("pp{}", prompt.len()), format!("tg{} @ d{}", answer.len(), prompt.len())];
    let mut samples: [Vec<Sample>; 2] = Default::default();
    for repetition in 0..=args.repetitions {
        engine.session.reset();
        let measured = [feed(&mut engine, &[prompt])?, feed(&mut engine, &each(answer))?];
        // The first run fills caches and wakes the CPU.
        if repetition > 0 {
            samples.iter_mut().zip(measured).for_each(|(all, one)| all.push(one));
        }
    }
    let tests: Vec<Test> = named
        .into_iter()
        .zip([prompt, answer])
        .zip(&samples)
        .filter(|((_, fed), _)| !fed.is_empty())
        .map(|((test, fed), samples)| Test::of(test, fed.len(), samples))
        .collect();
    let mut out = stdout().lock();
    let setting = Setting::of(&engine);
    if args.json {
        print_json(&setting, &tests, &mut out)?;
    } else {
        print_table(&setting, &tests, &mut out)?;
    }
    Ok(())
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
struct Sample {
    seconds: f64,
    cache: CacheStats,
}

fn each(ids: &[u32]) -> Vec<&[u32]> {
    ids.chunks(1).collect()
}

/// Feeds groups of tokens, each computed before the next is known.
fn feed(engine: &mut Engine, groups: &[&[u32]]) -> Result<Sample, Failure> {
    let Engine { session, machine, .. } = engine;
    let before = session.stats().cache;
    let start = Instant::now();
    for group in groups {
        session.append(group)?;
        while session.compute(&mut machine.world(&mut Silent))? {
            interrupt::check()?;
        }
        interrupt::check()?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let after = session.stats().cache;
    let cache = CacheStats {
        hits: after.hits - before.hits,
        misses: after.misses - before.misses,
        bytes: after.bytes - before.bytes,
        waiting: after.waiting - before.waiting,
        ..CacheStats::default()
    };
    Ok(Sample { seconds, cache })
}

impl Test {
    fn of(test: String, tokens: usize, samples: &[Sample]) -> Self {
        let speeds: Vec<f64> = samples.iter().map(|s| tokens as f64 / s.seconds).collect();
        let count = samples.len() as f64;
        let mean = speeds.iter().sum::<f64>() / count;
        let squares = speeds.iter().map(|speed| (speed - mean).powi(2)).sum::<f64>();
        let sum = |of: fn(&CacheStats) -> u64| samples.iter().map(|s| of(&s.cache)).sum::<u64>();
        let wanted = sum(|cache| cache.hits + cache.misses);
        Self {
            test,
            tokens,
            mean_tokens_per_second: mean,
            deviation_tokens_per_second: (squares / (count - 1.0).max(1.0)).sqrt(),
            samples_tokens_per_second: speeds,
            page_hit_rate: sum(|cache| cache.hits) as f64 / wanted.max(1) as f64,
            read_bytes_per_token: sum(|cache| cache.bytes) as f64 / (count * tokens as f64),
            read_wait_seconds: sum(|cache| cache.waiting) as f64 / 1e6 / count,
        }
    }
}

impl Setting {
    fn of(engine: &Engine) -> Self {
        let manifest = &engine.image.manifest;
        Self {
            model: manifest.name.to_string(),
            size_bytes: engine.image.header.file_len,
            parameters: parameters(manifest),
            backend: engine.session.kernels().name,
            threads: engine.machine.pool.width(),
            budget_bytes: engine.budget.used(),
            slots: engine.budget.plan.slots,
            pages: engine.budget.plan.pages,
            storage: engine.machine.device.via(),
        }
    }
}

fn print_table(setting: &Setting, tests: &[Test], out: &mut impl Write) -> std::io::Result<()> {
    const HEAD: [&str; 9] =
        ["model", "size", "params", "backend", "threads", "ram", "test", "t/s", "hits"];
    let rows: Vec<[String; 9]> = tests
        .iter()
        .map(|test| {
            let (mean, deviation) = (test.mean_tokens_per_second, test.deviation_tokens_per_second);
            [
                setting.model.clone(),
                Size(setting.size_bytes).to_string(),
                format!("{:.2} M", setting.parameters as f64 / 1e6),
                setting.backend.to_owned(),
                setting.threads.to_string(),
                Size(setting.budget_bytes).to_string(),
                test.test.clone(),
                format!("{mean:.2} ± {deviation:.2}"),
                format!("{:.1} %", 100.0 * test.page_hit_rate),
            ]
        })
        .collect();
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([HEAD[column].len()]).max().unwrap_or(0)
        })
        .collect();
    let mut line = |cells: &[&str]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!(" {cell:>width$} |"));
        writeln!(out, "|{}", padded.collect::<String>())
    };
    line(&HEAD)?;
    let rule: Vec<String> =
        widths.iter().map(|width| format!("{}:", "-".repeat(width - 1))).collect();
    line(&rule.iter().map(String::as_str).collect::<Vec<_>>())?;
    rows.iter().try_for_each(|row| line(&row.each_ref().map(String::as_str)))
}

fn print_json(setting: &Setting, tests: &[Test], out: &mut impl Write) -> std::io::Result<()> {
    #[derive(Serialize)]
    struct Row<'r> {
        #[serde(flatten)]
        setting: &'r Setting,
        #[serde(flatten)]
        test: &'r Test,
        peak_resident_bytes: Option<u64>,
    }
    let peak_resident_bytes = peak_resident();
    let rows: Vec<_> =
        tests.iter().map(|test| Row { setting, test, peak_resident_bytes }).collect();
    serde_json::to_writer_pretty(&mut *out, &rows)?;
    writeln!(out)
}
