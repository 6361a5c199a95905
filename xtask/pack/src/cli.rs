//! The `pack` command.

use std::error::Error;
use std::io::{IsTerminal, stderr};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rill::image::layout::Format;

use crate::{Options, Progress, pack};

/// Packs a checkpoint into an image.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A GGUF file (any part of a split one) or a Hugging Face folder
    source: PathBuf,
    /// The image to write [default: the source's name with `.rill`, in the current folder]
    #[arg(short, long, value_name = "IMAGE")]
    output: Option<PathBuf>,
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

/// Runs the command: a progress bar when somebody watches, then a summary. An interrupt (Ctrl-C,
/// or a request to terminate) stops it cleanly.
pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let output = args.output.clone().unwrap_or_else(|| {
        let whole = args.source.canonicalize().unwrap_or_else(|_| args.source.clone());
        PathBuf::from(whole.file_name().unwrap_or_default()).with_extension("rill")
    });
    let options = Options {
        experts: args.experts.into(),
        dense: args.dense.into(),
        embedding: args.embedding.into(),
    };
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed))?;
    let bar = Bar::new();
    let summary = pack(&args.source, &output, &options, &bar);
    bar.0.finish_and_clear();
    println!("{}", summary?);
    println!("wrote {}", output.display());
    Ok(())
}

/// Whether the user asked to stop.
static STOP: AtomicBool = AtomicBool::new(false);

struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = if stderr().is_terminal() {
            ProgressBar::no_length()
        } else {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
        };
        if let Ok(style) = ProgressStyle::with_template(
            "packing {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
        ) {
            bar.set_style(style);
        }
        Self(bar)
    }
}

impl Progress for Bar {
    fn start(&self, bytes: u64) {
        self.0.set_length(bytes);
    }

    fn advance(&self, bytes: u64) -> ControlFlow<()> {
        self.0.inc(bytes);
        if STOP.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}
