//! `rill pull`.

use std::cell::{Cell, RefCell};
use std::env;
use std::io::{IsTerminal, Write, stderr};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rill::size::Size;
use rill_pack::cli::Formats;
use rill_pack::{Origin, Progress, Summary, pack_from};

use crate::failure::Failure;
use crate::interrupt;
use crate::pull::{Hub, Name, Repository, Settings, Web, choose};
use crate::terminal::{stdout, tell};

/// Fetches a model from the Hugging Face hub straight into an image.
///
/// Only what the packer asks for is fetched, in its order, so that there must be room for the image
/// alone. What was made is kept when the connection, the process or the power ends: the same
/// command goes on from there. All requests are for one commit.
///
/// HF_TOKEN holds the token that gated models need; it is sent to the hub and to nobody else.
/// HF_ENDPOINT names another hub than https://huggingface.co.
#[derive(Debug, clap::Args)]
#[command(after_help = CHECKS)]
pub struct Args {
    /// The repository and, when it has several, the quant or the file:
    /// LiquidAI/LFM2-8B-A1B-GGUF:Q4_0
    name: Name,
    /// The image to write [default: the file's or repository's name with `.rill`, in the current
    /// folder]
    #[arg(short, long, value_name = "IMAGE")]
    output: Option<PathBuf>,
    /// Replace an image that is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    formats: Formats,
    /// A branch, a tag or a commit
    #[arg(long, value_name = "NAME", default_value = "main")]
    revision: String,
    /// Read the weights a second time, from start to end, and compare their SHA-256 with the hub's
    #[arg(long)]
    verify: bool,
    /// How often in a row to try again before giving up
    #[arg(long, value_name = "N", default_value_t = 8)]
    retries: u32,
    /// Seconds of silence after which a connection counts as dead
    #[arg(long, value_name = "SECONDS", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

const CHECKS: &str = "\
What is checked: small files have the checksum that the hub lists. Weights are read in pieces, of \
which the hub lists no checksums: each answer must be of the same commit, size and entity tag, \
and be just the bytes asked for; --verify adds the checksum of the whole, for a second download.";

/// Where models come from when nothing else is said.
const HUB: &str = "https://huggingface.co";
/// How soon Ctrl-C is noticed.
const LOOK: Duration = Duration::from_millis(100);

/// Runs the command: a bar when somebody watches, then the summary.
pub fn run(args: Args) -> Result<(), Failure> {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    if stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::stderr());
    }
    // What waits for a network cannot be told to stop. It needs not be: whatever moment the process
    // ends at, the next one goes on.
    let (sender, result) = channel();
    let its_bar = bar.clone();
    thread::spawn(move || {
        // Nobody listens any more after Ctrl-C.
        let _ = sender.send(pull(&args, its_bar));
    });
    let done = loop {
        match result.recv_timeout(LOOK) {
            Ok(done) => break done,
            Err(RecvTimeoutError::Timeout) if !interrupt::asked() => {}
            Err(RecvTimeoutError::Timeout) => {
                bar.finish_and_clear();
                tell("stopped; the same command goes on from here");
                return Err(Failure::Interrupted);
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::Pull("the download ended without a result".into()));
            }
        }
    };
    bar.finish_and_clear();
    let (summary, output) = done.map_err(|error| match error {
        Wrong::Asked(message) => Failure::Usage(message),
        Wrong::Other(message) => Failure::Pull(message),
    })?;
    let mut out = stdout();
    writeln!(out, "{summary}\nwrote {}", output.display())?;
    Ok(out.flush()?)
}

/// Why nothing was pulled, in words: errors of the packer stay in their thread.
enum Wrong {
    /// The command line names nothing that is there.
    Asked(String),
    /// Anything else.
    Other(String),
}

fn pull(args: &Args, bar: ProgressBar) -> Result<(Summary, PathBuf), Wrong> {
    let variable = |name| env::var(name).ok().filter(|value| !value.trim().is_empty());
    let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| HUB.into());
    let settings = Settings {
        endpoint: endpoint.trim().trim_end_matches('/').into(),
        token: variable("HF_TOKEN").map(|token| token.trim().into()),
        retries: args.retries,
        silence: Duration::from_secs(args.timeout),
    };
    let watcher = Rc::new(Watcher::new(bar));
    let heard = watcher.clone();
    let web = Web::new(settings, Box::new(move |note| heard.say(note))).map_err(Wrong::Asked)?;
    let name = &args.name;
    let repository = Repository::look_up(&web, name, &args.revision)
        .map_err(|error| Wrong::Other(error.to_string()))?;
    let choice = choose(name, &repository).map_err(Wrong::Asked)?;
    let output = args.output.clone().unwrap_or_else(|| choice.image(name));
    if !args.force && output.symlink_metadata().is_ok() {
        let message = format!("{} is there already; replace it with --force", output.display());
        return Err(Wrong::Asked(message));
    }
    let commit = repository.commit.clone();
    watcher.say(&format!(
        "pulling {}, {} at {}, to {}",
        name.path(),
        choice.quant,
        commit.get(..8).unwrap_or_default(),
        output.display()
    ));
    let counted = watcher.clone();
    let arrived = Rc::new(move |bytes| counted.arrived(bytes));
    let hub = Hub::new(Rc::new(web), name, repository, arrived);
    let check = || {
        if !args.verify {
            return Ok(());
        }
        watcher.verify(choice.bytes());
        hub.verify(&choice.files)
    };
    let identity = choice.identity(&commit);
    let origin = Origin { store: &hub, identity: &identity, check: &check };
    let options = args.formats.options();
    let summary = pack_from(&origin, &choice.path(name), &output, &options, &*watcher)
        .map_err(|error| Wrong::Other(error.to_string()))?;
    let (fetched, kept) = (Size(watcher.fetched.get()), Size(watcher.kept.get()));
    watcher.say(&format!("fetched {fetched}; {kept} of the image were there already"));
    Ok((summary, output))
}

/// Tells the user how far it is.
struct Watcher {
    bar: ProgressBar,
    /// Bytes of the image that were there already.
    kept: Cell<u64>,
    /// Bytes of weights that arrived.
    fetched: Cell<u64>,
    /// Whether arriving bytes are the progress; else it is the image that grows.
    verifying: Cell<bool>,
    rate: RefCell<Rate>,
}

/// Bytes a second, smoothed.
struct Rate {
    since: Instant,
    bytes: u64,
    smooth: Option<f64>,
}

impl Watcher {
    fn new(bar: ProgressBar) -> Self {
        if let Ok(style) = ProgressStyle::with_template(
            "{prefix} {wide_bar} {binary_bytes}/{binary_total_bytes} {msg} {eta}",
        ) {
            bar.set_style(style);
        }
        bar.set_prefix("pulling");
        let rate = Rate { since: Instant::now(), bytes: 0, smooth: None };
        let (kept, fetched, verifying) = Default::default();
        Self { bar, kept, fetched, verifying, rate: RefCell::new(rate) }
    }

    /// A line that stays.
    fn say(&self, line: &str) {
        self.bar.suspend(|| {
            // Whoever does not listen wants no line.
            let _ = writeln!(stderr(), "{line}");
        });
    }

    fn arrived(&self, bytes: u64) {
        self.fetched.set(self.fetched.get() + bytes);
        if self.verifying.get() {
            self.bar.inc(bytes);
        }
        if let Some(rate) = self.rate.borrow_mut().count(bytes) {
            self.bar.set_message(format!("{}/s", Size(rate)));
        }
    }

    /// From now on files of so many bytes are verified.
    fn verify(&self, bytes: u64) {
        self.verifying.set(true);
        self.bar.set_prefix("verifying");
        self.bar.set_length(bytes);
        self.bar.set_position(0);
        self.bar.reset_eta();
    }
}

impl Rate {
    /// More bytes; a new figure about once a second.
    fn count(&mut self, bytes: u64) -> Option<u64> {
        self.bytes += bytes;
        let seconds = self.since.elapsed().as_secs_f64();
        if seconds < 1.0 {
            return None;
        }
        let rate = self.bytes as f64 / seconds;
        let smooth = self.smooth.map_or(rate, |before| 0.7 * before + 0.3 * rate);
        *self = Self { since: Instant::now(), bytes: 0, smooth: Some(smooth) };
        Some(smooth as u64)
    }
}

impl Progress for Watcher {
    fn start(&self, bytes: u64) {
        self.bar.set_length(bytes);
    }

    fn advance(&self, bytes: u64) -> ControlFlow<()> {
        self.bar.inc(bytes);
        ControlFlow::Continue(())
    }

    fn pass(&self, bytes: u64) -> ControlFlow<()> {
        self.kept.set(self.kept.get() + bytes);
        self.bar.inc(bytes);
        // What was there says nothing of how long the rest takes.
        self.bar.reset_eta();
        ControlFlow::Continue(())
    }
}
