use std::io::Write;
use std::num::NonZeroUsize;

use rill::plan::Use;
use rill::size::Size;
use rill_linux::engine::Budget;
use rill_linux::model::Model;
use serde_json::{Map, Value, json};

use super::least_to_serve;
use crate::args::{BudgetArgs, ModelArgs, threads};
use crate::failure::Failure;
use crate::terminal::stdout;

/// Show how a budget would be divided, byte by byte
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    budget: BudgetArgs,
    /// Cores to plan for [default: all]
    #[arg(short, long, value_name = "N", value_parser = threads())]
    threads: Option<NonZeroUsize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  rill plan -m model.rill --ram 900MiB
  rill plan -m model.rill --ram 1GiB -c 8192 --kv int8 --json
  rill plan -m model.rill --ram 2GiB --conversations 4";

pub fn run(args: &Args) -> Result<(), Failure> {
    let model = args.model.open()?;
    let budget = args.budget.options().plan(&model, args.threads)?;
    let serve = least_to_serve(&args.budget, &model, args.threads)?;
    let mut out = stdout();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &as_json(&model, &budget, serve))
            .map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        print(&model, &budget, serve, &mut out)?;
    }
    Ok(())
}

/// `serve` is the least to serve.
fn print(
    model: &Model,
    budget: &Budget,
    serve: Option<u64>,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let plan = &budget.plan;
    let (name, kv) = (&model.image.manifest.name, plan.sizes.kv.name());
    let room = plan.sizes.kv_positions();
    let many = match plan.sizes.conversations {
        1 => String::new(),
        many => format!(" for each of {many} conversations, {room} for all together"),
    };
    writeln!(
        out,
        "{name} with a context of {} tokens{many}, keys and values in {kv}",
        plan.sizes.context
    )?;
    let mut line =
        |name: &str, bytes: u64| writeln!(out, "{name:<20} {bytes:>14}  {:>10}", Size(bytes));
    for part in Use::ALL {
        line(part.name(), plan.bytes(part))?;
    }
    for (name, bytes) in budget.beside.into_iter().filter(|(_, bytes)| *bytes > 0) {
        line(name, bytes)?;
    }
    line("total", budget.used())?;
    line("budget", budget.total)?;
    let [least, most] = budget.bounds(&model.image);
    line("least that works", least)?;
    serve.map_or(Ok(()), |least| line("least to serve", least))?;
    line("most of any use", most)?;
    writeln!(out, "batch of a prompt    {:>14}  tokens", plan.sizes.batch)?;
    if plan.pages > 0 {
        writeln!(out, "expert slots         {:>14}  of {} experts", plan.slots, plan.pages)?;
        let cycle = u64::from(plan.cycle) * plan.page_len;
        writeln!(
            out,
            "a token uses         {:>14}  experts ({}){}",
            plan.cycle,
            Size(cycle),
            if plan.slots < plan.cycle { "; fewer slots: every token reads flash" } else { "" }
        )?;
    }
    Ok(())
}

fn as_json(model: &Model, budget: &Budget, serve: Option<u64>) -> Value {
    let plan = &budget.plan;
    let parts: Map<String, Value> =
        Use::ALL.iter().map(|&part| (part.name().into(), plan.bytes(part).into())).collect();
    let overhead: Map<String, Value> =
        budget.beside.into_iter().map(|(name, bytes)| (name.into(), bytes.into())).collect();
    let [least, most] = budget.bounds(&model.image);
    json!({
        "model": model.image.manifest.name.as_str(),
        "budget_bytes": budget.total,
        "total_bytes": budget.used(),
        "arena_bytes": plan.total(),
        "overhead_bytes": budget.overhead.beside(plan.total()),
        "least_bytes": least,
        "serve_least_bytes": serve,
        "most_bytes": most,
        "parts": parts,
        "overhead": overhead,
        "context": plan.sizes.context,
        "conversations": plan.sizes.conversations,
        "kv_tokens": plan.sizes.kv_positions(),
        "batch": plan.sizes.batch,
        "kv": plan.sizes.kv.name(),
        "slots": plan.slots,
        "pages": plan.pages,
        "page_bytes": plan.page_len,
        "cycle_pages": plan.cycle,
        "cycle_bytes": u64::from(plan.cycle) * plan.page_len,
    })
}
