use std::io::Write;

use rill::image::{ImageError, Section};
use rill::tokenizer::Tokenizer;
use rill_linux::engine::LoadError;
use rill_linux::model::Model;
use rill_pack::texts::encode;

use super::{TEXT_BYTES, text_or_stdin};
use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::terminal::stdout;

/// Print the token ids of a text, as JSON
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text; `-` reads it from standard input
    text: Option<String>,
    /// Take names of control tokens in the text, such as <|im_start|>, for those tokens
    #[arg(long)]
    special: bool,
}

const EXAMPLES: &str = "\
Examples:
  rill tokenize \"Hello, world\"
  rill tokenize -m model.rill --special \"<|im_start|>user\"";

pub fn run(args: &Args) -> Result<(), Failure> {
    let text = text_or_stdin(args.text.as_deref(), "a text", TEXT_BYTES)?;
    let mut model = args.model.open()?;
    let tables = model.section(Section::Tokenizer)?;
    let ids = encode(&tokenizer(&model, &tables)?, &text, args.special);
    let mut out = stdout();
    serde_json::to_writer(&mut out, &ids).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// The tokenizer of an image, without the rest of the model.
fn tokenizer<'t>(model: &Model, tables: &'t [u8]) -> Result<Tokenizer<'t>, LoadError> {
    Tokenizer::parse(tables, model.image.manifest.shape.vocab)
        .map_err(|_| LoadError::Image { model: model.name.clone(), error: ImageError::Tokenizer })
}
