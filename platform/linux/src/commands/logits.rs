use std::io::Write;
use std::path::{Path, PathBuf};

use rill_linux::engine::{Engine, Memory};
use rill_linux::replace::NewFile;

use super::{apart, read_ids, spare};
use crate::args::EngineArgs;
use crate::failure::Failure;
use crate::interrupt;
use crate::npy::write_header;
use crate::routes::{Head, Routes};

/// Write the logits of every token of a prompt to a NumPy file
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// Text file with the token ids of the prompt, separated by white space
    #[arg(long, value_name = "FILE")]
    ids: PathBuf,
    /// Where to write the logits: float32, (tokens, vocabulary)
    #[arg(long, value_name = "FILE.npy")]
    out: PathBuf,
    /// Where to write the experts that the router chose, in ascending order: uint8, (MoE layers,
    /// tokens, experts a token)
    #[arg(long, value_name = "FILE.npy")]
    experts: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  rill logits -m model.rill --ids prompt.txt --out logits.npy
  rill logits -m model.rill --ids prompt.txt --out logits.npy --experts experts.npy --batch 1";

pub fn run(args: &Args) -> Result<(), Failure> {
    let inputs = || args.engine.image().into_iter().chain([args.ids.as_path()]);
    spare(&args.out, inputs())?;
    if let Some(path) = &args.experts {
        spare(path, inputs())?;
        apart(&args.out, path)?;
    }
    let ids = read_ids(&args.ids)?;
    let tokens = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    let mut memory = Memory::new();
    let Engine { image, mut session, mut machine, .. } =
        args.engine.load(Some(tokens), &mut memory)?;
    let shape = image.manifest.shape;
    session.append(&ids)?;

    let mut routes = Routes::new(&image);
    let of = Failure::file;
    let mut out = NewFile::output(&args.out).map_err(of(&args.out))?;
    write_header(&mut out, "<f4", &[ids.len(), shape.vocab as usize]).map_err(of(&args.out))?;
    session.each_logits(&mut machine.world(&mut routes), |row| {
        let written = row.iter().try_for_each(|logit| out.write_all(&logit.to_le_bytes()));
        written.map_err(of(&args.out))?;
        interrupt::check()
    })?;
    out.finish().map_err(of(&args.out))?;
    match &args.experts {
        Some(path) => write_experts(&routes, path).map_err(of(path)),
        None => Ok(()),
    }
}

/// Writes the experts of every token, (banks, tokens, top_k).
fn write_experts(routes: &Routes, path: &Path) -> std::io::Result<()> {
    let mut out = NewFile::output(path)?;
    let Head { banks, tokens, top_k, .. } = routes.head;
    write_header(&mut out, "|u1", &[banks, tokens, top_k])?;
    for bank in 0..banks {
        for token in 0..tokens {
            let mut experts = routes.of(token, bank).to_vec();
            experts.sort_unstable();
            out.write_all(&experts)?;
        }
    }
    out.finish()
}
