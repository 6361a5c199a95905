//! `rill bench --sweep-ram`: budgets side by side.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rill::size::Size;
use rill_linux::memory::parse_size;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::Value;

use crate::failure::Failure;
use crate::interrupt;
use crate::plot::{self, Line, Panel};
use crate::table;
use crate::terminal::stdout;

/// How many budgets are chosen when none are named.
const BUDGETS: u64 = 7;

/// Sizes as `768MiB,1GiB`; empty for some between the least that works and the most of any use.
pub fn parse(text: &str) -> Result<Vec<u64>, String> {
    text.split(',').filter(|size| !size.is_empty()).map(parse_size).collect()
}

/// Measures each of `budgets` in a process of its own, so that none inherits another's RAM, and
/// shows them together.
pub fn run(
    budgets: &[u64],
    bounds: [u64; 2],
    json: bool,
    plot: Option<&Path>,
) -> Result<(), Failure> {
    let [least, most] = bounds;
    let budgets = match budgets {
        [] => (0..BUDGETS).map(|step| least + (most - least) * step / (BUDGETS - 1)).collect(),
        named => named.to_vec(),
    };
    let mut rows = Vec::new();
    for budget in budgets {
        interrupt::check()?;
        rows.extend(measure(budget)?);
    }
    let mut out = stdout();
    if json {
        serde_json::to_writer_pretty(&mut out, &rows).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        print(&rows, &mut out)?;
    }
    match plot {
        Some(path) => plot::write(path, &panels(&rows)),
        None => Ok(()),
    }
}

/// The rows of one budget: what this program says when it is asked for that one only.
fn measure(budget: u64) -> Result<Vec<Value>, Failure> {
    let failed = |error| Failure::System { what: "cannot run the measurement", error };
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(arguments(std::env::args_os().skip(1)));
    command.args(["--json", "--ram", &budget.to_string()]).stderr(Stdio::inherit());
    let follow = || Ok(set_parent_process_death_signal(Some(Signal::TERM))?);
    // SAFETY: between fork and exec it makes one system call: a sweep that ends takes the
    // measurement with it.
    unsafe { command.pre_exec(follow) };
    let run = command.output().map_err(failed)?;
    if !run.status.success() {
        let message = format!("no measurement with {}", Size(budget));
        return Err(failed(std::io::Error::other(message)));
    }
    serde_json::from_slice(&run.stdout).map_err(|error| failed(error.into()))
}

/// The arguments of this process without those of the sweep.
fn arguments(given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut value_follows = false;
    for argument in given {
        if std::mem::take(&mut value_follows) {
            continue;
        }
        let text = argument.to_string_lossy();
        value_follows = text == "--plot";
        let ours = ["--sweep-ram", "--plot", "--json"];
        let name = text.split('=').next().unwrap_or_default();
        if !ours.contains(&name) {
            kept.push(argument);
        }
    }
    kept
}

fn number(row: &Value, field: &str) -> f64 {
    row[field].as_f64().unwrap_or(0.0)
}

const MIB: f64 = (1 << 20) as f64;

fn print(rows: &[Value], out: &mut impl Write) -> std::io::Result<()> {
    const HEAD: [&str; 9] =
        ["ram", "slots", "test", "t/s", "hits", "MiB/token", "compute", "flash", "checks"];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let account = &row["account"];
            let share =
                |field| 100.0 * number(account, field) / number(account, "seconds").max(1e-9);
            vec![
                Size(number(row, "budget_bytes") as u64).to_string(),
                format!("{}/{}", row["slots"], row["pages"]),
                row["test"].as_str().unwrap_or_default().to_owned(),
                format!("{:.2}", number(row, "mean_tokens_per_second")),
                format!("{:.1} %", 100.0 * number(row, "page_hit_rate")),
                format!("{:.1}", number(row, "read_bytes_per_token") / MIB),
                format!("{:.0} %", share("compute_seconds")),
                format!("{:.0} %", share("read_wait_seconds")),
                format!("{:.1} %", share("checksum_seconds")),
            ]
        })
        .collect();
    table::print(&HEAD, &rows, out)
}

fn panels(rows: &[Value]) -> [Panel; 3] {
    let panel = |title: &str, value: &dyn Fn(&Value) -> f64| {
        let mut lines: Vec<Line> = Vec::new();
        for row in rows {
            let name = row["test"].as_str().unwrap_or_default();
            let point = (number(row, "budget_bytes") / MIB / 1024.0, value(row));
            match lines.iter_mut().find(|line| line.name == name) {
                Some(line) => line.points.push(point),
                None => lines.push(Line { name: name.to_owned(), points: vec![point] }),
            }
        }
        Panel { title: title.to_owned(), below: "RAM, GiB", lines }
    };
    [
        panel("tokens/s", &|row| number(row, "mean_tokens_per_second")),
        panel("hits, %", &|row| 100.0 * number(row, "page_hit_rate")),
        panel("read, MiB a token", &|row| number(row, "read_bytes_per_token") / MIB),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_has_the_arguments_of_the_sweep_but_its_own() {
        let given = "bench -m a.rill --sweep-ram=1GiB --json -n 4 --plot x.svg --plot=y.svg -t 2";
        let kept = arguments(given.split(' ').map(Into::into));
        let expected: Vec<OsString> =
            "bench -m a.rill -n 4 -t 2".split(' ').map(Into::into).collect();
        assert_eq!(kept, expected);
        assert!(parse("").unwrap().is_empty());
        assert_eq!(parse("1KiB,2MiB").unwrap(), [1024, 2 << 20]);
        assert!(parse("1KiB,x").is_err());
    }
}
