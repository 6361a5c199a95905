//! The `pack` command.

use std::io::{self, IsTerminal, Write, stderr};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rill::image::layout::Format;
use rill::size::Size;

use crate::{
    Calibration, Options, PackError, Progress, image_name, pack, pack_calibrated, pack_new,
    pack_new_calibrated, target,
};

/// Packs a checkpoint into an image.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A GGUF file (any part of a split one, any usual encoding), or a Hugging Face folder with 32-,
    /// 16- or 8-bit floats
    source: PathBuf,
    /// The image to write [default: the name of the source, or of the hub's repository or file that it
    /// links to, with `.rill`, in the current folder]
    #[arg(short, long, value_name = "IMAGE")]
    output: Option<PathBuf>,
    /// Replace the image even if it is of another model, or no image
    #[arg(short, long)]
    force: bool,
    /// Choose int4 values by what they do to the model's outputs over these texts, not by how near each is
    /// to its weight: half of what Q4_0 loses on the kiosk model, at the same size. A file that ends in
    /// .jsonl has a conversation or a text on each line (a list of messages, an object with `messages` or
    /// `text`, or a string); any other is one text. Some thousand tokens of what the model will be used
    /// for are enough, 32768 at most are used. Takes two passes over the model; after a cut the same
    /// command goes on
    #[arg(long, value_name = "TEXTS", num_args = 1..)]
    calibrate: Vec<PathBuf>,
    /// Most bytes of the image, such as 4.5GiB: chooses int4 or int8 for each matrix by what int4 alone would
    /// lose there, measured on the texts, so that this size loses least; the summary and `inspect` show
    /// the mix
    #[arg(long, value_name = "SIZE", requires = "calibrate",
        conflicts_with_all = ["experts", "dense", "embedding"])]
    target_size: Option<Size>,
    #[command(flatten)]
    formats: Formats,
}

/// How weights are stored.
#[derive(Debug, Clone, clap::Args)]
pub struct Formats {
    /// Format of experts that cannot be carried over exactly
    #[arg(long, value_enum, default_value = "q4")]
    experts: FormatName,
    /// Format of projections and dense layers that cannot be carried over exactly
    #[arg(long, value_enum, default_value = "q8")]
    dense: FormatName,
    /// Format of an embedding that cannot be carried over exactly
    #[arg(long, value_enum, default_value = "q8")]
    embedding: FormatName,
}

impl Formats {
    /// As the packer understands them.
    pub fn options(&self) -> Options {
        Options {
            experts: self.experts.into(),
            dense: self.dense.into(),
            embedding: self.embedding.into(),
        }
    }
}

/// A format as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatName {
    /// 4-bit integers, 4.5 bits a weight with scales
    Q4,
    /// 8-bit integers, 8.5 bits a weight with scales
    Q8,
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Q4 => Self::Q4,
            FormatName::Q8 => Self::Q8,
        }
    }
}

/// Why the command did not do all that it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The checkpoint was not packed.
    #[error(transparent)]
    Pack(PackError),
    /// A signal asked to stop.
    #[error("stopped; nothing was written")]
    Stopped,
    /// The image is written, but not what is said about it.
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
    /// The source has no name that the image could have.
    #[error("{} has no name; name the image with -o", .0.display())]
    Nameless(PathBuf),
    /// The system does not let signals be watched.
    #[error("cannot watch for Ctrl-C: {0}")]
    Signals(#[from] ctrlc::Error),
}

impl From<PackError> for Failure {
    fn from(error: PackError) -> Self {
        if matches!(error, PackError::Cancelled) { Self::Stopped } else { Self::Pack(error) }
    }
}

/// The exit status of a command that a signal ended.
pub const STOPPED: u8 = 130;

/// Runs the command: a progress bar when somebody watches, then a summary to `out`. It has names from the
/// checkpoint: a terminal must not get their control characters.
///
/// An interrupt (Ctrl-C, or a request to terminate) stops it cleanly. Where it cannot stop by itself
/// in time, because a device or a network does not answer, and at a second interrupt, the process
/// ends with [`STOPPED`]. Nothing half-written is left in either case.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Failure> {
    let named = || image_name(&args.source).ok_or_else(|| Failure::Nameless(args.source.clone()));
    let output = args.output.clone().map_or_else(named, Ok)?;
    ctrlc::set_handler(stop)?;
    let bar = Bar::new();
    let (source, options) = (&args.source, args.formats.options());
    let summary = if args.calibrate.is_empty() {
        let write = if args.force { pack } else { pack_new };
        write(source, &output, &options, &bar)
    } else {
        let write = if args.force { pack_calibrated } else { pack_new_calibrated };
        let target_size = args.target_size.map(|Size(bytes)| bytes);
        let calibration = Calibration { texts: &args.calibrate, target_size };
        write(source, &output, &options, &calibration, &bar)
    };
    bar.0.finish_and_clear();
    writeln!(out, "{}", summary?)?;
    writeln!(out, "wrote {}", output.display())?;
    out.flush()?;
    Ok(())
}

/// Whether the user asked to stop.
static STOP: AtomicBool = AtomicBool::new(false);

/// How long it may take to stop.
const GRACE: Duration = Duration::from_millis(1500);

/// A signal arrived.
fn stop() {
    let end = || {
        target::abandon();
        exit(STOPPED.into())
    };
    if STOP.swap(true, Ordering::Relaxed) {
        end();
    }
    let later = thread::Builder::new().spawn(move || {
        thread::sleep(GRACE);
        end()
    });
    if later.is_err() {
        end();
    }
}

struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = if stderr().is_terminal() {
            ProgressBar::no_length()
        } else {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
        };
        Self(bar)
    }

    fn set_style(&self, template: &str) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style);
        }
    }

    /// So much of something is done.
    fn count(&self, what: &str, done: usize, of: usize) -> ControlFlow<()> {
        if done == 0 || self.0.length() != Some(of as u64) {
            self.set_style(&format!("{what} {{wide_bar}} {{percent}} %, {{eta}} left"));
            self.0.set_length(of as u64);
            self.0.reset();
            // What an earlier attempt did says nothing of the time that is left.
            self.0.set_position(done as u64);
            self.0.reset_eta();
        }
        self.0.set_position(done as u64);
        go_on()
    }
}

impl Progress for Bar {
    fn choose(&self, done: usize, of: usize) -> ControlFlow<()> {
        self.count("choosing formats", done, of)
    }

    fn calibrate(&self, done: usize, of: usize) -> ControlFlow<()> {
        self.count("calibrating", done, of)
    }

    fn start(&self, bytes: u64) {
        self.set_style(
            "packing {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
        );
        self.0.reset();
        self.0.set_length(bytes);
    }

    fn advance(&self, bytes: u64) -> ControlFlow<()> {
        self.0.inc(bytes);
        go_on()
    }
}

fn go_on() -> ControlFlow<()> {
    if STOP.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
