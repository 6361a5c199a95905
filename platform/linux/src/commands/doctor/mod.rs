//! What this machine gives, and what to expect of it.
//!
//! In reading order: `device` and `cores` measure, `forecast` computes what to expect of an image,
//! `advice` says what is not as it should be.

mod advice;
mod cores;
mod device;
mod forecast;

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use rill::kernels::{self, CpuFeatures};
use rill::plan::Use;
use rill::size::Size;
use rill_linux::engine::{Budget, BudgetOptions, kept};
use rill_linux::memory::Ram;
use rill_linux::model::Model;
use rill_linux::storage::Via;
use rill_linux::system::{Flags, Power, System};
use serde::Serialize;

use super::least_to_serve;
use crate::args::{BudgetArgs, threads};
use crate::failure::Failure;
use crate::terminal::stdout;
use device::{Flash, Ring};
use forecast::{Forecast, Token};

/// Show what this machine gives, and what to expect of an image on it
///
/// With -m also how the budget would be divided, how fast the image's device is, and a range of tokens
/// per second. What a device is found to like is remembered in the image's .probe file, as every run
/// does; nothing else is written.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Image of the model, made by `rill pack`; without it, the machine alone
    #[arg(short, long, value_name = "IMAGE")]
    model: Option<PathBuf>,
    #[command(flatten)]
    budget: BudgetArgs,
    /// Cores to use [default: all]
    #[arg(short, long, value_name = "N", value_parser = threads())]
    threads: Option<NonZeroUsize>,
    /// Folder for what runs find out about an image and its device [default: that of the image]
    #[arg(long, value_name = "DIR", env = "RILL_STATE", hide_short_help = true)]
    state: Option<PathBuf>,
    /// Folder with the proc and sys to read
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    system: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  rill doctor
  rill doctor -m model.rill
  rill doctor -m model.rill --ram 1.5GiB --json

How tokens per second are computed: a token reads all resident weights and the experts that it uses from
RAM, which takes as long as the cores were measured to take for as many weights; experts that are not in
RAM it reads from the device, at the speed that was measured. The least speed takes both times one after
the other and every expert as equally wanted; the most takes the longer one alone, and the experts in RAM
as those that are wanted. `rill bench` measures what it is.";

/// All that is found out.
#[derive(Debug, Serialize)]
struct Report {
    system: System,
    io_uring: Ring,
    kernels: Kernels,
    image: Option<Choice>,
    warnings: Vec<String>,
}

/// What the CPU can do.
#[derive(Debug, Serialize)]
struct Kernels {
    features: Vec<&'static str>,
    /// Tables that it can run, the chosen one first.
    tables: Vec<&'static str>,
}

/// What would be chosen for an image.
#[derive(Debug, Serialize)]
struct Choice {
    model: String,
    /// Whether the budget was named.
    named: bool,
    budget_bytes: u64,
    total_bytes: u64,
    least_bytes: u64,
    /// The least to serve.
    serve_least_bytes: Option<u64>,
    most_bytes: u64,
    context: u32,
    conversations: u32,
    batch: u32,
    slots: u32,
    pages: u32,
    flash: Flash,
    forecast: Forecast,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let ram = Ram::read(&args.system)
        .map_err(|error| Failure::System { what: "cannot tell how much RAM there is", error })?;
    let system = System::read(&args.system, ram.clone());
    let features = CpuFeatures::detect();
    let kernels = Kernels {
        features: features.names().collect(),
        tables: kernels::all(features).map(|table| table.name).collect(),
    };
    let image = args.model.as_deref().map(|path| args.choose(path, &ram)).transpose()?;
    let io_uring = Ring::try_out();
    let warnings = advice::warnings(&system, &io_uring, image.as_ref());
    let report = Report { system, io_uring, kernels, image, warnings };
    let mut out = stdout();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        report.print(&mut out)?;
    }
    Ok(())
}

impl Args {
    /// What would be chosen for an image.
    fn choose(&self, path: &Path, ram: &Ram) -> Result<Choice, Failure> {
        let mut model = Model::open(Some(path), Via::Best)?;
        let named = self.budget.ram;
        let options =
            BudgetOptions { ram: Some(named.unwrap_or(ram.budget())), ..self.budget.options() };
        let budget = options.plan(&model, self.threads)?;
        let kept = kept(Some(path), self.state.as_deref())?.unwrap_or_else(|| path.to_owned());
        let flash = Flash::measure(&mut model, &kept)?;
        let weights = cores::weights_per_second(budget.threads, ram.available)?;
        let token = Token::of(&model, &budget, &kept);
        let [least_bytes, most_bytes] = budget.bounds(&model.image);
        let Budget { total, plan, .. } = budget;
        Ok(Choice {
            model: model.image.manifest.name.to_string(),
            named: named.is_some(),
            budget_bytes: total,
            total_bytes: budget.used(),
            least_bytes,
            serve_least_bytes: least_to_serve(&self.budget, &model, self.threads)?,
            most_bytes,
            context: plan.sizes.context,
            conversations: plan.sizes.conversations,
            batch: plan.sizes.batch,
            slots: plan.slots,
            pages: plan.pages,
            forecast: Forecast::new(&token, weights, flash.speed()),
            flash,
        })
    }
}

impl Report {
    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        for (name, value) in of_system(&self.system) {
            line(out, name, &value)?;
        }
        line(out, "io_uring", &self.io_uring)?;
        let Kernels { features, tables } = &self.kernels;
        let features =
            if features.is_empty() { "none that helps".into() } else { features.join(", ") };
        line(out, "CPU features", &features)?;
        let chosen = tables.first().copied().unwrap_or_default();
        line(out, "kernels", &format!("{chosen}: the best of {}", tables.join(", ")))?;
        if let Some(choice) = &self.image {
            writeln!(out)?;
            choice.print(out)?;
        }
        if !self.warnings.is_empty() {
            writeln!(out)?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(out, "warning: {warning}"))
    }
}

impl Choice {
    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        line(out, "model", &self.model)?;
        let whose =
            if self.named { "as asked for" } else { "what is free, less a little for others" };
        let [budget, used, least, most] =
            [self.budget_bytes, self.total_bytes, self.least_bytes, self.most_bytes].map(Size);
        line(out, "budget", &format!("{budget}: {whose}; {used} of it would be used"))?;
        line(out, "", &format!("{least} is the least that works, {most} the most of any use"))?;
        if let Some(least) = self.serve_least_bytes.map(Size) {
            line(out, "", &format!("{least} is the least that works to serve"))?;
        }
        let (context, many) = (self.context, self.conversations);
        line(out, "context", &format!("{context} tokens for each of {many} conversations"))?;
        line(out, "batch of a prompt", &format!("{} tokens", self.batch))?;
        if self.pages > 0 {
            let why = if self.slots == self.pages { "all fit" } else { "what the rest leaves" };
            line(
                out,
                Use::Slots.name(),
                &format!("{} of {} experts: {why}", self.slots, self.pages),
            )?;
        }
        line(out, "flash", &self.flash)?;
        for (name, value) in self.forecast.lines() {
            line(out, name, &value)?;
        }
        Ok(())
    }
}

fn line(out: &mut impl Write, name: &str, value: &impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(out, "{name:<20} {value}")
}

/// What the kernel tells, as text.
fn of_system(system: &System) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    lines.extend(system.board.clone().map(|board| ("board", board)));
    let cpu = system.cpu.as_deref().unwrap_or("of a kind that the kernel does not tell");
    lines.push(("CPU", format!("{} cores, {cpu}", system.cores)));
    let [all, free, budget] =
        [system.ram_bytes, system.available_bytes, system.default_budget_bytes].map(Size);
    lines.push(("RAM", format!("{all}, {free} free; Rill would take {budget} unless told")));
    let limit = match (&system.group_limit_bytes, &system.group) {
        (Some(bytes), Some(group)) => format!("{} by {}", Size(*bytes), group.display()),
        _ => "none".into(),
    };
    lines.push(("control group", limit));
    let locked = match system.lock_limit_bytes {
        None => "any number of bytes".into(),
        Some(bytes) => Size(bytes).to_string(),
    };
    lines.push(("may be locked", locked));
    let swap = system.swap.iter().map(|swap| {
        format!("{} of {} used in {}", Size(swap.used_bytes), Size(swap.bytes), swap.name)
    });
    lines.push(("swap", listed(swap, "none")));
    let frequency = system.frequency.iter().map(|cores| {
        let most = cores.most_khz.map_or(String::new(), |khz| format!(" up to {} MHz", khz / 1000));
        format!("{}{most} (cores {})", cores.governor, cores.cores)
    });
    lines.push(("governor", listed(frequency, "the kernel does not tell")));
    let heat = system.temperatures.iter().map(|t| format!("{:.0} °C {}", t.celsius, t.sensor));
    lines.push(("temperature", listed(heat, "the kernel does not tell")));
    if let Some(Power { now, since_start }) = &system.power {
        let said = |flags: &Flags| listed(flags.names().map(str::to_owned), "fine");
        let power = format!("now {}; since it started {}", said(now), said(since_start));
        lines.push(("power and heat", power));
    }
    lines
}

fn listed(parts: impl Iterator<Item = String>, none: &str) -> String {
    let all = parts.collect::<Vec<_>>().join(", ");
    if all.is_empty() { none.to_owned() } else { all }
}
