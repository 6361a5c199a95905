//! The `quality` command.

mod figures;

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rill::image::{MAGIC, Section};
use rill::seams::Silent;
use rill_linux::engine::{Engine, Memory};
use rill_linux::model::Model;
use rill_linux::storage::image_in;
use rill_pack::texts::{Reader, Text, TextsError};
use rill_pack::{Hidden, PackError, Reference};
use serde_json::json;

use self::figures::{Figures, Point, ascending, percentile};
use super::spare;
use crate::args::EngineArgs;
use crate::failure::Failure;
use crate::interrupt;
use crate::plot::{self, Line, Panel};
use crate::table;
use crate::terminal::{stdout, tell};

/// Measure how far a packed model is from what it was made of
///
/// Both models hear the same texts, and what they expect after each token is compared. The table has the
/// KL divergence of the image from the reference in nats (0: no difference), the share of tokens
/// after which both have the same first choice, and both perplexities: over all, by file, by position.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// What it is compared with: an image with more bits, loaded beside it with a budget of its own, or
    /// the GGUF file or Hugging Face folder itself, which is computed in 32-bit floats
    #[arg(long, value_name = "REFERENCE")]
    against: PathBuf,
    /// Texts: a file that ends in .jsonl has a conversation or a text on each line (a list of messages,
    /// an object with `messages` or `text`, or a string), any other is one text. They are cut into
    /// windows of the context (512 tokens unless -c says otherwise)
    #[arg(required = true)]
    texts: Vec<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Draw the divergence over positions, and its distribution
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  rill quality -m lfm2.rill --against LFM2-8B-A1B chats.jsonl
  rill quality -m lfm2.rill --against lfm2-q8.rill chats.jsonl prose.txt --plot quality.svg";

const WINDOW: u32 = 512;
/// Tokens whose logits are held at a time: with fewer, pages that do not stay in RAM are read more often.
const STEP: usize = 128;

pub fn run(args: &Args) -> Result<(), Failure> {
    let sources = || args.texts.iter().map(PathBuf::as_path).chain([&*args.against]);
    if let Some(path) = &args.plot {
        spare(path, sources().chain(args.engine.image()))?;
    }
    let window = args.engine.budget.context.unwrap_or(WINDOW);
    let mut model = args.engine.open()?;
    let texts = hear(&mut model, &args.texts, window)?;
    let tokens: usize = texts.iter().map(|text| text.ids.len()).sum();
    if tokens == 0 {
        return Err(Failure::Usage("the texts have too few tokens to measure".into()));
    }
    let (mut ours, mut theirs) = (Memory::new(), Memory::new());
    let mut reference = if is_image(&args.against) {
        let engine = args.engine.of_image(&args.against);
        same_tokens(&texts, &hear(&mut engine.open()?, &args.texts, window)?)?;
        Against::Image(Box::new(engine.load(Some(window), &mut theirs)?))
    } else {
        let source = Reference::open(&args.against).map_err(pack_failure)?;
        let chat = &model.image.manifest.chat;
        let vocab = u32::try_from(source.vocab()).unwrap_or(u32::MAX);
        let reader =
            Reader::new(source.tokenizer(), vocab, chat, source.template(), window as usize)
                .map_err(texts_failure)?;
        same_tokens(&texts, &reader.read(&args.texts).map_err(texts_failure)?)?;
        Against::Source(pass(&source, &texts)?)
    };
    drop(model);
    let mut engine = args.engine.load(Some(window), &mut ours)?;
    let mut points = Vec::with_capacity(tokens);
    for (number, text) in texts.iter().enumerate() {
        for first in (0..text.ids.len()).step_by(STEP) {
            let some = first..text.ids.len().min(first + STEP);
            let ours = logits(&mut engine, &text.ids, &some)?;
            let theirs = match &mut reference {
                Against::Image(engine) => logits(engine, &text.ids, &some)?,
                Against::Source(hidden) => hidden.logits(number, some.clone()),
            };
            compare(number, text, some, &ours, &theirs, &mut points)?;
        }
    }
    if let Some(path) = &args.plot {
        plot::write(path, &panels(&points))?;
    }
    if args.json { write_json(&texts, &points) } else { write_table(&texts, &points) }
}

/// What an image is compared with.
enum Against<'m> {
    /// Another image.
    Image(Box<Engine<'m>>),
    /// What it was made of, after its pass over the texts.
    Source(Hidden),
}

/// Whether a path is an image, or an ExecuTorch program: opening one says why it holds none.
fn is_image(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let mut magic = [0; MAGIC.len()];
    match file.metadata().and_then(|found| image_in(&file, found.len())) {
        Ok(place) => file.read_exact_at(&mut magic, place.start).is_ok() && magic == MAGIC,
        Err(error) => error.kind() == ErrorKind::InvalidData,
    }
}

/// What a model hears of the texts.
fn hear(model: &mut Model, paths: &[PathBuf], window: u32) -> Result<Vec<Text>, Failure> {
    let (tables, template) =
        (model.section(Section::Tokenizer)?, model.section(Section::Template)?);
    let manifest = &model.image.manifest;
    let vocab = manifest.shape.vocab;
    let reader = Reader::new(&tables, vocab, &manifest.chat, &template, window as usize);
    reader.and_then(|reader| reader.read(paths)).map_err(texts_failure)
}

fn same_tokens(ours: &[Text], theirs: &[Text]) -> Result<(), Failure> {
    if ours.iter().map(|text| &text.ids).eq(theirs.iter().map(|text| &text.ids)) {
        return Ok(());
    }
    let message = "the two models have other tokens for these texts: compare an image with what it \
                   was made of, or with another image of that";
    Err(Failure::Usage(message.into()))
}

fn texts_failure(error: TextsError) -> Failure {
    Failure::Usage(error.to_string())
}

fn pack_failure(error: PackError) -> Failure {
    Failure::Pack(error.into())
}

/// Takes the texts through the reference.
fn pass(source: &Reference, texts: &[Text]) -> Result<Hidden, Failure> {
    let ids: Vec<&[u32]> = texts.iter().map(|text| &*text.ids).collect();
    let mut interrupted = None;
    let hidden = source.run(&ids, &mut |_, _| match interrupt::check() {
        Ok(()) => ControlFlow::Continue(()),
        Err(failure) => {
            interrupted = Some(failure);
            ControlFlow::Break(())
        }
    });
    match interrupted {
        Some(failure) => Err(failure),
        None => hidden.map_err(pack_failure),
    }
}

/// The logits after some tokens of a text, which follow those that were asked for last.
fn logits(
    engine: &mut Engine<'_>,
    ids: &[u32],
    tokens: &Range<usize>,
) -> Result<Vec<Vec<f32>>, Failure> {
    let Engine { session, machine, .. } = engine;
    if tokens.start == 0 {
        session.reset();
    }
    session.append(&ids[tokens.clone()])?;
    let mut all = Vec::with_capacity(tokens.len());
    session.each_logits(&mut machine.world(&mut Silent), |logits| {
        all.push(logits.to_vec());
        interrupt::check()
    })?;
    Ok(all)
}

/// Compares the logits after some tokens of a text.
fn compare(
    number: usize,
    text: &Text,
    tokens: Range<usize>,
    ours: &[Vec<f32>],
    theirs: &[Vec<f32>],
    points: &mut Vec<Point>,
) -> Result<(), Failure> {
    for (position, (ours, theirs)) in tokens.zip(ours.iter().zip(theirs)) {
        if ours.len() != theirs.len() {
            let message = format!(
                "the image has {} tokens and the reference {}: they are not of one model",
                ours.len(),
                theirs.len()
            );
            return Err(Failure::Usage(message));
        }
        let next = text.ids.get(position + 1).copied();
        points.push(Point::new(number, position, [ours, theirs], next));
    }
    Ok(())
}

/// Positions that are counted together: the first 16 tokens, the next 16, then twice as many each
/// time.
fn positions(points: &[Point]) -> Vec<Range<usize>> {
    let end = points.iter().map(|point| point.position + 1).max().unwrap_or(0);
    let (mut ranges, mut first, mut len) = (Vec::new(), 0, 16);
    while first < end {
        ranges.push(first..end.min(first + len));
        first += len;
        len = first;
    }
    ranges
}

fn at_positions<'p>(
    points: &'p [Point],
    positions: &Range<usize>,
) -> impl Iterator<Item = &'p Point> + Clone {
    points.iter().filter({
        let positions = positions.clone();
        move |point| positions.contains(&point.position)
    })
}

/// Positions as people count them.
fn said(positions: &Range<usize>) -> String {
    format!("tokens {} to {}", positions.start + 1, positions.end)
}

const HEAD: [&str; 8] =
    ["", "tokens", "mean KL", "median", "99th %", "same first", "perplexity", "reference's"];

fn write_table(texts: &[Text], points: &[Point]) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut row = |name: String, figures: Option<Figures>| {
        let Some(figures) = figures else { return };
        let perplexity = |value: Option<f64>| value.map_or("-".into(), |x| format!("{x:.4}"));
        rows.push(vec![
            name,
            figures.tokens.to_string(),
            format!("{:.2e}", figures.mean),
            format!("{:.2e}", figures.median),
            format!("{:.2e}", figures.p99),
            format!("{:.2} %", 100.0 * figures.same),
            perplexity(figures.perplexity),
            perplexity(figures.reference_perplexity),
        ]);
    };
    row("all".into(), Figures::of(points.iter()));
    let file = |point: &Point| &texts[point.text].file;
    let by_file: Vec<&[Point]> = points.chunk_by(|a, b| file(a) == file(b)).collect();
    if by_file.len() > 1 {
        for points in by_file {
            row(file(&points[0]).clone(), Figures::of(points.iter()));
        }
    }
    for positions in positions(points) {
        row(said(&positions), Figures::of(at_positions(points, &positions)));
    }
    table::print(&HEAD, &rows, &mut stdout())?;
    tell(format_args!(
        "KL divergence in nats from the reference; --json has each text, --plot draws the distribution"
    ));
    Ok(())
}

fn write_json(texts: &[Text], points: &[Point]) -> Result<(), Failure> {
    let by_text = points.chunk_by(|a, b| a.text == b.text).map(|points| {
        let text = &texts[points[0].text];
        json!({ "text": text.name, "figures": Figures::of(points.iter()) })
    });
    let by_position = positions(points).into_iter().map(|positions| {
        let figures = Figures::of(at_positions(points, &positions));
        json!({ "first": positions.start, "end": positions.end, "figures": figures })
    });
    let value = json!({
        "all": Figures::of(points.iter()),
        "texts": by_text.collect::<Vec<_>>(),
        "positions": by_position.collect::<Vec<_>>(),
    });
    writeln!(stdout(), "{value}")?;
    Ok(())
}

fn panels(points: &[Point]) -> [Panel; 2] {
    let by_position = |name: &str, of: fn(&Figures) -> f64| Line {
        name: name.into(),
        points: positions(points)
            .iter()
            .filter_map(|range| {
                let middle = (range.start + range.end) as f64 / 2.0;
                Some((middle, of(&Figures::of(at_positions(points, range))?)))
            })
            .collect(),
    };
    let kls = ascending(points.iter());
    let distribution = (0..1000).map(|permille| f64::from(permille) / 10.0);
    let distribution =
        distribution.map(|percent| (percent, percentile(&kls, percent).max(f64::MIN_POSITIVE)));
    [
        Panel {
            title: "KL divergence by position, nats".into(),
            below: "tokens into the text",
            lines: vec![by_position("mean", |f| f.mean), by_position("median", |f| f.median)],
        },
        Panel {
            title: "KL divergence at most, log10 nats above 1e-9".into(),
            below: "% of tokens",
            lines: vec![Line {
                name: "distribution".into(),
                // The plot begins at 0: what is below a billionth is none.
                points: distribution.map(|(x, y)| (x, (y.log10() + 9.0).max(0.0))).collect(),
            }],
        },
    ]
}
