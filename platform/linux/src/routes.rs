//! What the routers chose, token by token.

use std::io::{self, BufRead, Read, Write};

use rill::image::{Image, checksum};
use rill::seams::{Event, Events};
use serde::{Deserialize, Serialize};

/// The routing of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes {
    /// Of what model.
    pub head: Head,
    /// Experts, best first, (tokens, banks, top_k).
    chosen: Vec<u8>,
    /// How many are known of the token that is being heard, by bank.
    known: Vec<usize>,
}

/// The first line of a trace file, as JSON; then follow the experts, a byte each, best first:
/// (tokens, banks, top_k).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Version of this structure.
    rill_trace: u32,
    /// What the model is called.
    pub model: String,
    /// MoE layers.
    pub banks: usize,
    /// Experts of a layer.
    pub experts: usize,
    /// Experts that a token uses.
    pub top_k: usize,
    /// Bytes of an expert.
    pub page_bytes: u64,
    /// Tokens of the run.
    pub tokens: usize,
    /// Of them, those of the prompt.
    pub prompt_tokens: usize,
    /// Checksum of the experts.
    checksum: u64,
}

const VERSION: u32 = 1;

impl Routes {
    /// Of a run that is about to begin.
    pub fn new(image: &Image) -> Self {
        let manifest = &image.manifest;
        let banks = manifest.banks();
        let head = Head {
            rill_trace: VERSION,
            model: manifest.name.to_string(),
            banks,
            experts: manifest.shape.experts as usize,
            top_k: manifest.shape.top_k as usize,
            page_bytes: image.header.page_len,
            tokens: 0,
            prompt_tokens: 0,
            checksum: 0,
        };
        Self { head, chosen: Vec::new(), known: Vec::new() }
    }

    /// The experts, best first, that `token` used of `bank`.
    pub fn of(&self, token: usize, bank: usize) -> &[u8] {
        &self.chosen[self.place(token, bank)..][..self.head.top_k]
    }

    /// Writes a trace file.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let head = Head { checksum: checksum(&self.chosen), ..self.head.clone() };
        serde_json::to_writer(&mut *out, &head)?;
        out.write_all(b"\n")?;
        out.write_all(&self.chosen)?;
        out.flush()
    }

    /// Reads a trace file.
    pub fn read(from: &mut impl BufRead) -> io::Result<Self> {
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut line = Vec::new();
        let mut body = Vec::new();
        // A first line that is longer is no head.
        Read::take(&mut *from, 4096).read_until(b'\n', &mut line)?;
        let head: Head = serde_json::from_slice(&line)
            .map_err(|_| wrong("not a trace; make one with `rill trace`"))?;
        if head.rill_trace != VERSION {
            return Err(wrong("a trace of another version; make it again with `rill trace`"));
        }
        let lens = [head.tokens, head.banks, head.top_k];
        let len = lens.iter().try_fold(1_usize, |product, len| product.checked_mul(*len));
        let most = len.map_or(0, |len| len as u64).saturating_add(1);
        Read::take(&mut *from, most).read_to_end(&mut body)?;
        let limits = (1..=96).contains(&head.banks)
            && (1..=128).contains(&head.experts)
            && (1..=head.experts.min(16)).contains(&head.top_k)
            && head.prompt_tokens <= head.tokens;
        let known = body.iter().all(|&expert| usize::from(expert) < head.experts);
        if len != Some(body.len()) || !limits || !known || checksum(&body) != head.checksum {
            return Err(wrong("the trace is damaged; make it again with `rill trace`"));
        }
        Ok(Self { head, chosen: body, known: Vec::new() })
    }

    fn place(&self, token: usize, bank: usize) -> usize {
        (token * self.head.banks + bank) * self.head.top_k
    }
}

impl Events for Routes {
    fn hear(&mut self, event: Event) {
        let Event::Routed { position, bank, expert, .. } = event else { return };
        let (token, bank) = (position as usize, usize::from(bank));
        self.head.tokens = self.head.tokens.max(token + 1);
        let places = self.head.tokens * self.head.banks;
        self.known.resize(places, 0);
        self.chosen.resize(places * self.head.top_k, 0);
        let at = self.place(token, bank);
        let known = &mut self.known[token * self.head.banks + bank];
        // An image has at most 128 experts in a layer.
        self.chosen[at + *known] = expert as u8;
        *known += 1;
    }
}
