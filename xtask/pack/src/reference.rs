//! A checkpoint's own answers, in f32, to compare an image with.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use crate::checkpoint::{Checkpoint, Swiglu};
use crate::forward::{Net, Routed, Supply, Tiles, gated};
use crate::matrix::{ExpertParts, Joint, MatrixError};
use crate::pack::PackError;
use crate::{manifest, vocabulary};

use rill::image::MatrixExtent;

/// A checkpoint that computes logits in f32 with its weights as they are.
#[derive(Debug)]
pub struct Reference {
    checkpoint: Checkpoint,
    manifest: rill::image::Manifest,
    tables: Vec<u8>,
    template: Vec<u8>,
}

/// The last rows of texts, from which logits follow.
#[derive(Debug)]
pub struct Hidden {
    rows: Vec<f32>,
    head: Tiles,
    texts: Vec<Range<usize>>,
    vocab: usize,
}

impl Reference {
    /// Opens a GGUF file or a Hugging Face folder.
    pub fn open(source: &Path) -> Result<Self, PackError> {
        let checkpoint = Checkpoint::open(source)?;
        let words = vocabulary::of(&checkpoint)?;
        let (manifest, _) = manifest::smallest(&checkpoint, words.chat)?;
        Ok(Self { checkpoint, manifest, tables: words.tables, template: words.template })
    }

    /// How many tokens it has logits for.
    pub fn vocab(&self) -> usize {
        self.manifest.shape.vocab as usize
    }

    /// Its tokenizer's section of an image.
    pub fn tokenizer(&self) -> &[u8] {
        &self.tables
    }

    /// The template section of an image of it.
    pub fn template(&self) -> &[u8] {
        &self.template
    }

    /// Takes texts through all layers. `progress` hears of layers that are done, of how many.
    pub fn run(
        &self,
        texts: &[&[u32]],
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Hidden, PackError> {
        let vocab = self.vocab();
        let ids = texts.concat();
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(PackError::Token { id, vocab });
        }
        let net = Net::new(&self.checkpoint, &self.manifest);
        let texts = ranges(texts.iter().map(|text| text.len()));
        let hidden = Hidden::of(&net, &ids, texts, progress).map_err(PackError::of_matrix)?;
        hidden.ok_or(PackError::Cancelled)
    }
}

impl Hidden {
    /// Takes tokens, those of one text after the other, through all layers of a net. `None` when `progress`
    /// stopped it.
    pub(crate) fn of(
        net: &Net<'_>,
        ids: &[u32],
        texts: Vec<Range<usize>>,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<Self>, MatrixError> {
        let mut rows = net.embed(ids)?;
        let mut supply = Exact { net };
        let layers = net.layers.len();
        for layer in 0..layers {
            if progress(layer, layers).is_break() {
                return Ok(None);
            }
            net.layer(layer, &mut rows, &texts, &mut supply)?;
        }
        let head = net.head().joint().floats(&net.checkpoint.files)?;
        let (rows, vocab) = (net.finish(&rows)?, net.shape.vocab as usize);
        Ok(Some(Self { rows, head, texts, vocab }))
    }

    /// The logits after some tokens of text number `text`: (tokens, vocab).
    pub fn logits(&self, text: usize, tokens: Range<usize>) -> Vec<Vec<f32>> {
        let text = &self.texts[text];
        let (first, last) = (text.start + tokens.start, text.start + tokens.end);
        let cols = self.head.cols();
        let all = self.head.apply(&self.rows[first * cols..last * cols]);
        all.chunks_exact(self.head.rows()).map(|row| row[..self.vocab].to_vec()).collect()
    }
}

/// Runs of these lengths, one after the other.
pub(crate) fn ranges(lens: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut at = 0;
    lens.map(|len| {
        at += len;
        at - len..at
    })
    .collect()
}

/// Matrices as the source has them.
pub(crate) struct Exact<'n> {
    /// The source.
    pub net: &'n Net<'n>,
}

impl Supply for Exact<'_> {
    type Error = MatrixError;

    fn dense(
        &mut self,
        joint: &Joint<'_>,
        _: &MatrixExtent,
        _: &[f32],
    ) -> Result<Tiles, MatrixError> {
        joint.floats(&self.net.checkpoint.files)
    }

    fn together(&self) -> usize {
        1
    }

    fn experts(
        &mut self,
        _: usize,
        _: usize,
        experts: &[Swiglu],
        routed: &[Routed],
        inputs: &[f32],
    ) -> Result<Vec<Vec<f32>>, MatrixError> {
        let files = &self.net.checkpoint.files;
        outputs(self.net, experts, routed, inputs, |_, joint| joint.floats(files))
    }
}

/// A matrix of an expert: which of the two of its page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    /// Gate and up.
    GateUp,
    /// Down.
    Down,
}

/// The outputs of experts whose matrices `tiles` makes.
pub(crate) fn outputs(
    net: &Net<'_>,
    experts: &[Swiglu],
    routed: &[Routed],
    inputs: &[f32],
    tiles: impl Fn(Half, &Joint<'_>) -> Result<Tiles, MatrixError>,
) -> Result<Vec<Vec<f32>>, MatrixError> {
    let Some(page) = &net.page else { return Ok(Vec::new()) };
    let of_expert = |(expert, routed): (_, &Routed)| {
        let parts = ExpertParts::new(expert);
        let [gate_up, down] = parts.joints(page);
        let inputs = routed.gather(inputs, page.gate_up.cols);
        let inner = gated(&tiles(Half::GateUp, &gate_up)?, &inputs);
        Ok(tiles(Half::Down, &down)?.apply(&inner))
    };
    experts.iter().zip(routed).map(of_expert).collect()
}
