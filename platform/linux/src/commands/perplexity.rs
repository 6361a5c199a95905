use std::io::Write;
use std::path::PathBuf;

use rill::seams::Silent;
use rill_linux::engine::{Engine, Memory};
use rill_pack::softmax::Softmax;
use rill_pack::texts::encode;
use serde_json::json;

use super::read_file;
use crate::args::EngineArgs;
use crate::failure::Failure;
use crate::interrupt;
use crate::terminal::stdout;

/// Measure how well a model predicts a text
///
/// The text is cut into windows of the context (512 tokens unless -c says otherwise). Each begins
/// with the model's begin token; every other token of it is predicted from those before it in the
/// window. The result is exp(mean of -ln p), with its standard error.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// The text
    file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const WINDOW: u32 = 512;

pub fn run(args: &Args) -> Result<(), Failure> {
    let text = read_file(&args.file)?;
    let mut memory = Memory::new();
    let Engine { mut session, mut machine, .. } = args.engine.load(Some(WINDOW), &mut memory)?;
    let ids = encode(session.tokenizer(), &text, false);
    let begin: Vec<u32> = session.chat().begin.into_iter().collect();
    let window = session.context() - begin.len();
    let mut losses = Losses::default();
    for window in ids.chunks(window.max(1)) {
        session.reset();
        session.append(&begin)?;
        session.append(window)?;
        // Row i of the logits predicts token i + 1.
        let targets = [&begin[..], window].concat();
        let mut targets = targets.iter().skip(1);
        session.each_logits(&mut machine.world(&mut Silent), |logits| {
            if let Some(&target) = targets.next() {
                losses.add(Softmax::new(logits).loss(target));
            }
            interrupt::check()
        })?;
    }
    let Some((perplexity, error)) = losses.perplexity() else {
        let message = format!("{} has too few tokens to measure", args.file.display());
        return Err(Failure::Usage(message));
    };
    let tokens = losses.count;
    let mut out = stdout();
    if args.json {
        let value = json!({ "perplexity": perplexity, "error": error, "tokens": tokens });
        writeln!(out, "{value}")?;
    } else {
        writeln!(out, "perplexity {perplexity:.4} ± {error:.4} over {tokens} tokens")?;
    }
    Ok(())
}

/// Sums of losses.
#[derive(Debug, Clone, Copy, Default)]
struct Losses {
    count: u64,
    mean: f64,
    /// Sum of the squared distances from the mean.
    spread: f64,
}

impl Losses {
    fn add(&mut self, loss: f64) {
        // Welford's update (https://doi.org/10.1080/00401706.1962.10490022): nothing cancels.
        self.count += 1;
        let distance = loss - self.mean;
        self.mean += distance / self.count as f64;
        self.spread += distance * (loss - self.mean);
    }

    /// The perplexity and its standard error (the mean's, carried through exp).
    fn perplexity(&self) -> Option<(f64, f64)> {
        let n = self.count as f64;
        if self.count < 2 {
            return None;
        }
        let variance = self.spread / n / (n - 1.0);
        let perplexity = self.mean.exp();
        Some((perplexity, perplexity * variance.sqrt()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_give_the_vocabulary_as_perplexity() {
        let mut losses = Losses::default();
        (0..10).for_each(|target| losses.add(Softmax::new(&[1.5; 64]).loss(target)));
        let (perplexity, error) = losses.perplexity().unwrap();
        assert!((perplexity - 64.0).abs() < 1e-9 && error < 1e-6);
        assert!(Losses::default().perplexity().is_none());
    }
}
