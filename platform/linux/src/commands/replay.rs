use std::fs::File;
use std::io::{BufReader, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

use rill::arena::{Arena, PIECE_ALIGN};
use rill::experts::{History, POLICIES, Policy, Shelf};
use rill_linux::crew::crew;
use serde::Serialize;
use serde_json::json;

use super::spare;
use crate::failure::Failure;
use crate::plot::{self, Line, Panel};
use crate::routes::Routes;
use crate::table;
use crate::terminal::stdout;

/// Show how every policy would have done at every budget, from a trace
///
/// Replays what `rill trace` recorded, token by token, through the decisions of the engine: which
/// experts would have been in RAM, and what would have been read. `belady` evicts the expert that
/// is wanted last, which only one who knows the future can: no policy hits more.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The trace
    trace: PathBuf,
    /// Tokens at the beginning that fill the cache and are not counted [default: the prompt]
    #[arg(long, value_name = "N")]
    skip: Option<usize>,
    /// Budgets, in percent of all experts
    #[arg(long, value_name = "PERCENT,...", value_delimiter = ',', default_values_t = BUDGETS,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    budgets: Vec<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Also draw the hit rates and the reads, as SVG
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

const BUDGETS: [u32; 13] = [4, 6, 9, 12, 18, 25, 31, 38, 50, 62, 75, 88, 100];

const EXAMPLES: &str = "\
Examples:
  rill replay text.trace
  rill replay text.trace --skip 200 --budgets 6,12,25,50 --plot text.svg";

/// What a policy did at a budget.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Outcome {
    wanted: u64,
    hits: u64,
}

/// A row of the table: the outcomes of [`policies`], in their order.
struct Row {
    percent: u32,
    slots: usize,
    outcomes: Vec<Outcome>,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    if let Some(plot) = &args.plot {
        spare(plot, [args.trace.as_path()])?;
    }
    let file = File::open(&args.trace).map_err(Failure::file(&args.trace))?;
    let routes = Routes::read(&mut BufReader::new(file)).map_err(Failure::file(&args.trace))?;
    let skip = args.skip.unwrap_or(routes.head.prompt_tokens);
    if skip >= routes.head.tokens {
        let message = format!("the trace has only {} tokens", routes.head.tokens);
        return Err(Failure::Usage(message));
    }
    let oracle = Belady::new(&routes);
    let policies: Vec<&dyn Policy> = POLICIES.into_iter().chain([&oracle as &dyn Policy]).collect();
    let rows = replay_all(&routes, &policies, &args.budgets, skip);
    let names: Vec<&str> = policies.iter().map(|policy| policy.name()).collect();
    let mut out = stdout();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &as_json(&routes, skip, &names, &rows))
            .map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        print(&routes, skip, &names, &rows, &mut out)?;
    }
    match &args.plot {
        Some(path) => plot::write(path, &panels(&routes, skip, &names, &rows)),
        None => Ok(()),
    }
}

/// Replays every policy at every budget, on all cores.
fn replay_all(routes: &Routes, policies: &[&dyn Policy], budgets: &[u32], skip: usize) -> Vec<Row> {
    let pages = routes.head.banks * routes.head.experts;
    let mut rows: Vec<Row> = budgets
        .iter()
        .map(|&percent| Row {
            percent,
            slots: (pages * percent as usize / 100).max(routes.head.top_k),
            outcomes: vec![Outcome::default(); policies.len()],
        })
        .collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let (row, column) = (index / policies.len(), index % policies.len());
            let Some(Row { slots, .. }) = rows.get(row) else { return done };
            done.push((row, column, replay(routes, policies[column], *slots, skip)));
        }
    };
    let threads = available_parallelism().map_or(1, NonZeroUsize::get);
    let done = crew(threads, work);
    for (row, column, outcome) in done.into_iter().flatten() {
        rows[row].outcomes[column] = outcome;
    }
    rows
}

/// Makes the decisions of a cache with `slots` slots for all tokens of a trace.
fn replay(routes: &Routes, policy: &dyn Policy, slots: usize, skip: usize) -> Outcome {
    let head = &routes.head;
    let shape = [head.banks, head.experts, head.top_k].map(|x| x as u32);
    let mut memory = vec![0; Shelf::bytes(head.banks * head.experts, slots, 1) + PIECE_ALIGN];
    let mut shelf = Shelf::new(shape, slots, 1, policy, &mut Arena::new(&mut memory))
        .unwrap_or_else(|_| unreachable!("the memory was sized for it"));
    let mut outcome = Outcome::default();
    let mut missing = Vec::with_capacity(head.top_k);
    for token in 0..head.tokens {
        for bank in 0..head.banks {
            let pages = pages(routes, token, bank);
            missing.clear();
            missing.extend(pages.iter().filter(|&&page| shelf.want(page, 1).is_none()));
            shelf.settle(bank as u32, 1, true);
            for &page in &missing {
                shelf.place(page);
            }
            for page in &pages {
                if let Some(slot) = shelf.slot(*page) {
                    shelf.release(slot);
                }
            }
            if token >= skip {
                outcome.wanted += pages.len() as u64;
                outcome.hits += (pages.len() - missing.len()) as u64;
            }
        }
    }
    outcome
}

/// The pages of `bank` that `token` wants, in the order in which the engine asks for them.
fn pages(routes: &Routes, token: usize, bank: usize) -> Vec<u32> {
    let first = (bank * routes.head.experts) as u32;
    let mut pages: Vec<u32> =
        routes.of(token, bank).iter().map(|&expert| first + u32::from(expert)).collect();
    pages.sort_unstable();
    pages
}

/// Evicts what is wanted last (<https://doi.org/10.1147/sj.52.0078>). It knows the whole trace.
struct Belady {
    /// The numbers of all uses of each page, ascending.
    uses: Vec<Vec<u64>>,
}

impl Belady {
    fn new(routes: &Routes) -> Self {
        let head = &routes.head;
        let mut uses = vec![Vec::new(); head.banks * head.experts];
        let mut number = 0;
        for token in 0..head.tokens {
            for bank in 0..head.banks {
                for page in pages(routes, token, bank) {
                    number += 1;
                    uses[page as usize].push(number);
                }
            }
        }
        Self { uses }
    }
}

impl Policy for Belady {
    fn name(&self) -> &'static str {
        "belady"
    }

    fn victim(
        &self,
        history: &History<'_>,
        _: u32,
        _: usize,
        candidates: &mut dyn Iterator<Item = u32>,
    ) -> Option<u32> {
        let now = history.uses();
        candidates.max_by_key(|&page| {
            let uses = &self.uses[page as usize];
            uses.get(uses.partition_point(|&use_| use_ <= now)).copied().unwrap_or(u64::MAX)
        })
    }
}

impl Row {
    /// Hits of each policy, in percent.
    fn rates(&self) -> impl Iterator<Item = f64> {
        self.outcomes.iter().map(|o| 100.0 * o.hits as f64 / o.wanted.max(1) as f64)
    }

    /// What each policy reads for a token, in MiB.
    fn reads(&self, routes: &Routes, skip: usize) -> impl Iterator<Item = f64> {
        let tokens = (routes.head.tokens - skip) as f64;
        let page = routes.head.page_bytes as f64 / f64::from(1 << 20);
        self.outcomes.iter().map(move |o| (o.wanted - o.hits) as f64 / tokens * page)
    }

    /// RAM of its slots, in MiB.
    fn ram(&self, routes: &Routes) -> f64 {
        self.slots as f64 * routes.head.page_bytes as f64 / f64::from(1 << 20)
    }
}

fn print(
    routes: &Routes,
    skip: usize,
    names: &[&str],
    rows: &[Row],
    out: &mut impl Write,
) -> std::io::Result<()> {
    let head = &routes.head;
    let cycle = head.banks * head.top_k;
    writeln!(
        out,
        "{}: {} tokens after {skip}; a token uses {cycle} of {} experts",
        head.model,
        head.tokens - skip,
        head.banks * head.experts
    )?;
    let columns: Vec<String> = ["experts", "slots", "MiB"]
        .into_iter()
        .map(str::to_owned)
        .chain(names.iter().map(|name| format!("{name} %")))
        .chain(names.iter().map(|name| format!("{name} MiB/token")))
        .collect();
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let first = [
                format!("{} %", row.percent),
                row.slots.to_string(),
                format!("{:.0}", row.ram(routes)),
            ];
            first
                .into_iter()
                .chain(row.rates().map(|rate| format!("{rate:.1}")))
                .chain(row.reads(routes, skip).map(|read| format!("{read:.1}")))
                .collect()
        })
        .collect();
    table::print(&columns, &rows, out)
}

fn as_json(routes: &Routes, skip: usize, names: &[&str], rows: &[Row]) -> serde_json::Value {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let policies: serde_json::Map<_, _> = names
                .iter()
                .zip(row.rates().zip(row.reads(routes, skip)))
                .map(|(name, (rate, read))| {
                    let value = json!({ "hit_percent": rate, "mib_per_token": read });
                    ((*name).to_owned(), value)
                })
                .collect();
            json!({
                "percent": row.percent,
                "slots": row.slots,
                "slots_mib": row.ram(routes),
                "policies": policies,
            })
        })
        .collect();
    json!({
        "model": routes.head.model,
        "tokens": routes.head.tokens,
        "skipped": skip,
        "experts": routes.head.banks * routes.head.experts,
        "cycle": routes.head.banks * routes.head.top_k,
        "budgets": rows,
    })
}

fn panels(routes: &Routes, skip: usize, names: &[&str], rows: &[Row]) -> [Panel; 2] {
    let lines = |values: &dyn Fn(&Row) -> Vec<f64>| {
        let line = |(index, name): (usize, &&str)| Line {
            name: (*name).to_owned(),
            points: rows.iter().map(|row| (f64::from(row.percent), values(row)[index])).collect(),
        };
        names.iter().enumerate().map(line).collect()
    };
    let below = "slots, % of the experts";
    [
        Panel { title: "hits, %".into(), below, lines: lines(&|row| row.rates().collect()) },
        Panel {
            title: "read, MiB a token".into(),
            below,
            lines: lines(&|row| row.reads(routes, skip).collect()),
        },
    ]
}
