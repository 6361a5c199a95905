//! Images and saved conversations of any content under right checksums: what no checksum protects
//! from. Whoever can write a file can seal it.
//!
//! Every choice comes from a [`Draw`], which a seed or a fuzzer's bytes decide.

use std::convert::Infallible;

use rill::chat::Role;
use rill::engine::Options;
use rill::image::{
    Ffn, HEADER_BYTES, Header, Image, Layer, Manifest, Mixer, PAGE_ALIGN, Resident, Section,
    checksum, layout::Format, page_checksum, page_shape,
};
use rill::kernels::{CpuFeatures, best};
use rill::plan::KvFormat;
use rill::plan::{Plan, PlanRequest, Sizes};
use rill::saving::SaveError;
use rill::seams::{ManualClock, RamDisk, Serial, Silent, World};
use rill::session::Session;
use rill::tokenizer::tables::{HEADER_WORDS, NONE};

use crate::kiosk;

/// Larger images are planned for, but not made.
const LARGEST: u64 = 2 << 20;
/// Positions of the sequences that are computed, at most.
const CONTEXT: u64 = 96;
/// Texts that reach what a tokenizer and a chat format tell apart.
const TEXTS: [&str; 6] = [
    "",
    "Where is the café, please?",
    "<|im_start|>assistant\n<|im_end|><|endoftext|>",
    "\u{1f98a}\u{0}\u{fffd} 12345678901234567890\r\n\t ",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "the the the the",
];

/// Where choices come from.
#[derive(Debug, Clone)]
pub struct Draw<'b> {
    bytes: &'b [u8],
    random: u64,
}

impl Draw<'static> {
    /// The choices of a seed.
    pub fn seeded(seed: u64) -> Self {
        Self { bytes: &[], random: seed ^ 0x9e37_79b9_7f4a_7c15 }
    }
}

impl<'b> Draw<'b> {
    /// The choices that these bytes make, then always the same ones.
    pub fn of(bytes: &'b [u8]) -> Self {
        Self { bytes, random: 1 }
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        if n <= 256
            && let Some((&byte, rest)) = self.bytes.split_first()
        {
            self.bytes = rest;
            return u64::from(byte) % n;
        }
        if let Some((word, rest)) = self.bytes.split_first_chunk() {
            self.bytes = rest;
            return u64::from(u32::from_le_bytes(*word)) % n;
        }
        // xorshift64*, <https://doi.org/10.18637/jss.v008.i14>.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % n
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A number at which something may break.
    fn number(&mut self) -> u32 {
        let edge = 1_u32 << self.below(32);
        match self.below(6) {
            0 => edge,
            1 => edge - 1,
            2 => edge + 1,
            3 => self.pick(&[0, 3, 96, 128, u32::MAX, u32::MAX - 31]),
            4 => self.below(512) as u32,
            _ => self.below(1 << 32) as u32,
        }
    }

    fn float(&mut self) -> f32 {
        self.pick(&[0.0, -0.0, 1.0, -1.0, 1e-40, 1e-6, 1e30, f32::MAX, f32::INFINITY, f32::NAN])
    }

    fn format(&mut self) -> Format {
        self.pick(&[Format::Q4, Format::Q8])
    }

    /// Changes some bytes.
    fn spoil(&mut self, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len() as u64) as usize;
            bytes[at] = match self.below(3) {
                0 => self.below(256) as u8,
                1 => bytes[at] ^ 1 << self.below(8),
                _ => self.pick(&[0, 0x7f, 0x80, 0xff]),
            };
        }
    }
}

/// What was drawn.
pub enum Drawn {
    /// An image.
    File(Vec<u8>),
    /// The beginning of one that is too large to be made.
    Large(Header, Box<Manifest>),
}

/// A sound image, in parts.
pub struct Sound {
    sections: Vec<Vec<u8>>,
    manifest: Manifest,
}

impl Default for Sound {
    /// The kiosk model's.
    fn default() -> Self {
        let image = kiosk::default_image();
        let header = Header::parse(image).expect("it was just packed");
        let part = |section| {
            let span = header.span(section);
            image[span.offset as usize..span.end() as usize].to_vec()
        };
        let sections: Vec<_> = Section::ALL.into_iter().map(part).collect();
        let manifest = Manifest::decode(&sections[Section::Manifest as usize]);
        Self { manifest: manifest.expect("it was just packed"), sections }
    }
}

impl Sound {
    /// An image with any content and right checksums.
    pub fn draw(&self, draw: &mut Draw<'_>) -> Drawn {
        let mut manifest = self.manifest.clone();
        small(&mut manifest, draw);
        if draw.one_in(3) {
            for _ in 0..1 + draw.below(2) {
                spoil_manifest(&mut manifest, draw);
            }
        }
        let mut buffer = vec![0; 8 << 10];
        let used = manifest.encode(&mut buffer).expect("it is small").len();
        buffer.truncate(used);
        if draw.one_in(8) {
            draw.spoil(&mut buffer);
        }
        let legal = Manifest::decode(&buffer).ok();
        let shape = legal.as_ref().and_then(page_shape);
        let page_len = shape.map_or(0, |shape| shape.bytes());
        let pages = legal.as_ref().map_or(0, Manifest::pages);
        let resident = legal.as_ref().map_or(0, |legal| Resident::of(legal, |_, _| {}).1);
        let mut sections = self.sections.clone();
        sections[Section::Manifest as usize] = buffer;
        let tables = &mut sections[Section::Tokenizer as usize];
        if draw.one_in(3) {
            spoil_tables(tables, draw);
        }
        let lens = Section::ALL.map(|section| match section {
            Section::Resident => resident as u64,
            Section::PageSums => pages as u64 * 16,
            Section::Pages => pages as u64 * page_len as u64,
            _ => sections[section as usize].len() as u64,
        });
        if let Some(manifest) = legal
            && lens.iter().sum::<u64>() > LARGEST
        {
            return Drawn::Large(Header::new(lens, page_len as u64), Box::new(manifest));
        }
        for section in [Section::Resident, Section::Pages] {
            sections[section as usize] = weights(lens[section as usize] as usize, draw);
        }
        let mut sums = Vec::new();
        if let Some(shape) = shape {
            for page in sections[Section::Pages as usize].chunks_exact(page_len) {
                let (front, rest) = page.split_at(shape.down_at());
                sums.extend([front, rest].map(page_checksum).map(u64::to_le_bytes).as_flattened());
            }
        }
        if draw.one_in(8) {
            draw.spoil(&mut sums);
        }
        sections[Section::PageSums as usize] = sums;
        if draw.one_in(8) {
            let section = draw.below(sections.len() as u64) as usize;
            let len = sections[section].len() + draw.pick(&[0, 1, 16, 4096, PAGE_ALIGN]);
            let shorter = draw.pick(&[0, 1, 16, 4096, PAGE_ALIGN]);
            sections[section].resize(len.saturating_sub(shorter), 0);
        }
        let page_len = if draw.one_in(16) { u64::from(draw.number()) } else { page_len as u64 };
        Drawn::File(seal(&sections, page_len, draw))
    }
}

/// The file of these sections, each with its checksum.
fn seal(sections: &[Vec<u8>], page_len: u64, draw: &mut Draw<'_>) -> Vec<u8> {
    let lens = Section::ALL.map(|section| sections[section as usize].len() as u64);
    let mut header = Header::new(lens, page_len);
    let mut file = vec![0; header.file_len as usize];
    for (section, bytes) in Section::ALL.into_iter().zip(sections) {
        let span = &mut header.spans[section as usize];
        file[span.offset as usize..][..bytes.len()].copy_from_slice(bytes);
        if section != Section::Pages {
            span.checksum = checksum(bytes);
        }
    }
    if draw.one_in(16) {
        let value = u64::from(draw.number()) << draw.pick(&[0, 14, 32]);
        let span = draw.below(header.spans.len() as u64) as usize;
        match draw.below(3) {
            0 => header.file_len = value,
            1 => header.spans[span].offset = value,
            _ => header.spans[span].len = value,
        }
    }
    file[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    file
}

/// Makes a model of a few layers out of another.
fn small(manifest: &mut Manifest, draw: &mut Draw<'_>) {
    let shape = &mut manifest.shape;
    shape.hidden = 32 * (1 + draw.below(3) as u32);
    shape.kv_heads = 1 + draw.below(2) as u32;
    shape.heads = shape.kv_heads * (1 + draw.below(2) as u32);
    shape.head_dim = draw.pick(&[32, 64, 96]);
    shape.conv_width = 2 + draw.below(4) as u32;
    shape.max_context = CONTEXT as u32 - draw.below(32) as u32;
    shape.experts = 1 + draw.below(6) as u32;
    shape.top_k = 1 + draw.below(u64::from(shape.experts)) as u32;
    shape.expert_ff = 32 * (1 + draw.below(2) as u32);
    shape.dense_ff = 32 * (1 + draw.below(3) as u32);
    shape.expert_bias = draw.one_in(2);
    shape.norm_top_k = draw.one_in(2);
    manifest.embedding = draw.format();
    manifest.head = draw.one_in(2).then(|| draw.format());
    manifest.page_gate_up = draw.format();
    manifest.page_down = draw.format();
    manifest.layers.clear();
    for _ in 0..1 + draw.below(4) {
        let _ = manifest.layers.push(layer(draw));
    }
    let dense = manifest.layers.iter().any(|layer| layer.ffn != Ffn::Moe);
    let shape = &mut manifest.shape;
    if !dense {
        shape.dense_ff = 0;
    }
    if !manifest.layers.iter().any(|layer| layer.ffn == Ffn::Moe) {
        (shape.experts, shape.top_k, shape.expert_ff) = (0, 0, 0);
    }
}

fn layer(draw: &mut Draw<'_>) -> Layer {
    let out_proj = draw.format();
    let mixer = match draw.one_in(2) {
        true => Mixer::Attention { qkv: draw.format(), out_proj },
        false => Mixer::Conv { in_proj: draw.format(), out_proj },
    };
    let ffn = match draw.one_in(3) {
        true => Ffn::Dense { gate_up: draw.format(), down: draw.format() },
        false => Ffn::Moe,
    };
    Layer { mixer, ffn }
}

/// Gives one field a value that it may or may not have.
fn spoil_manifest(manifest: &mut Manifest, draw: &mut Draw<'_>) {
    let (number, float) = (draw.number(), draw.float());
    let (shape, chat, sampling) = (&mut manifest.shape, &mut manifest.chat, &mut manifest.sampling);
    match draw.below(28) {
        0 => shape.vocab = number,
        1 => shape.hidden = number,
        2 => shape.heads = number,
        3 => shape.kv_heads = number,
        4 => shape.head_dim = number,
        5 => shape.dense_ff = number,
        6 => shape.expert_ff = number,
        7 => shape.experts = number,
        8 => shape.top_k = number,
        9 => shape.conv_width = number,
        10 => shape.max_context = number,
        11 => shape.rope_theta = float,
        12 => shape.norm_eps = float,
        13 => shape.routed_scale = float,
        14 => chat.begin = Some(number),
        15 => chat.open = Some(number),
        16 => chat.close = Some(number),
        17 => chat.stops.iter_mut().for_each(|stop| *stop = number),
        18 => chat.stops.clear(),
        19 => chat.open = None,
        20 => chat.user.clear(),
        21 => sampling.temperature = float,
        22 => sampling.top_k = number,
        23 => sampling.top_p = float,
        24 => sampling.min_p = float,
        25 => sampling.repetition_penalty = float,
        26 => while manifest.layers.push(layer(draw)).is_ok() {},
        // Large in every way that is legal.
        _ => {
            (shape.vocab, shape.hidden, shape.head_dim) = (1 << 20, 1 << 14, 256);
            (shape.heads, shape.kv_heads, shape.max_context) = (256, 256, 1 << 20);
            if shape.experts > 0 {
                (shape.experts, shape.top_k, shape.expert_ff) = (128, 16, 1 << 16);
            }
            if shape.dense_ff > 0 {
                shape.dense_ff = 1 << 16;
            }
        }
    }
}

/// Gives words of the tokenizer's tables values that they may or may not have.
fn spoil_tables(tables: &mut Vec<u8>, draw: &mut Draw<'_>) {
    let words = tables.len() as u64 / 4;
    let set = |tables: &mut Vec<u8>, word: u64, value: u32| {
        tables[4 * word as usize..][..4].copy_from_slice(&value.to_le_bytes());
    };
    match draw.below(8) {
        0 => crowd(tables),
        1 => tables.truncate(draw.below(words * 4) as usize),
        2 => tables.extend([0; 5]),
        3 => draw.spoil(tables),
        _ => {
            for _ in 0..1 + draw.below(4) {
                let word = match draw.one_in(2) {
                    true => draw.below(HEADER_WORDS as u64),
                    false => draw.below(words),
                };
                let value = if draw.one_in(4) { NONE } else { draw.number() };
                set(tables, word, value);
            }
        }
    }
}

/// Fills every empty slot of the tables of tokens but one: each look for a token that is not there
/// would go through them all.
fn crowd(tables: &mut [u8]) {
    let (words, _) = tables.as_chunks_mut::<4>();
    let [tokens, slots] = [3, 4].map(|word: usize| u32::from_le_bytes(words[word]) as usize);
    let first = HEADER_WORDS + 256 + tokens + 1 + tokens.div_ceil(32);
    let empty = words[first..][..slots].iter_mut().filter(|slot| **slot == NONE.to_le_bytes());
    empty.skip(1).for_each(|slot| *slot = 0_u32.to_le_bytes());
}

/// Weights of any kind: zeros, numbers of a moderate size in every format, or anything.
fn weights(len: usize, draw: &mut Draw<'_>) -> Vec<u8> {
    match draw.below(3) {
        0 => vec![0; len],
        1 => {
            let mut bytes = vec![0x3c; len];
            draw.spoil(&mut bytes);
            bytes
        }
        _ => {
            let mut random = Draw::seeded(draw.below(1 << 16));
            (0..len).map(|_| random.below(256) as u8).collect()
        }
    }
}

/// Does with an image all that a program does: opens, plans, loads, asks, answers, saves, restores.
/// Says how it ended. `memory` is an arena for small models.
pub fn run(drawn: &Drawn, draw: &mut Draw<'_>, memory: &mut [u8]) -> String {
    let ended = match drawn {
        Drawn::Large(header, manifest) => plan_large(*header, manifest, memory.len() as u64),
        Drawn::File(file) => use_file(file, draw, memory),
    };
    ended.unwrap_or_else(|refused| refused)
}

/// The step that an error ended, and its kind.
fn refused<E: core::fmt::Debug + core::fmt::Display>(step: &str) -> impl Fn(E) -> String {
    let step = step.to_owned();
    move |error| {
        assert!(!error.to_string().is_empty());
        let kind = format!("{error:?}");
        let kind: String = kind.chars().take_while(|c| c.is_alphanumeric() || *c == '(').collect();
        format!("{step}: {}", kind.replace('(', " ").trim_end())
    }
}

fn plan_large(header: Header, manifest: &Manifest, arena: u64) -> Result<String, String> {
    let image = Image::check(header, manifest.clone()).map_err(refused("open"))?;
    let most = manifest.shape.max_context;
    for kv in KvFormat::ALL {
        for (context, batch) in [(1, 1), (most, 1), (most, most)] {
            let sizes =
                Sizes { context, batch, kv, conversations: 1, kv_tokens: None, prefixes: 3 };
            assert!(Plan::least(&image, sizes) <= Plan::most(&image, sizes));
        }
    }
    Plan::new(&image, &PlanRequest::new(arena)).map_err(refused("plan"))?;
    Ok("planned".to_owned())
}

fn use_file(file: &[u8], draw: &mut Draw<'_>, memory: &mut [u8]) -> Result<String, String> {
    let mut disk = RamDisk::new(file, draw.below(1 << 16));
    let image = Image::open(&mut disk, &mut vec![0; PAGE_ALIGN]).map_err(refused("open"))?;
    let kv = draw.pick(&KvFormat::ALL);
    let batch = draw.one_in(2).then(|| 1 + draw.below(8) as u32);
    let context = draw.one_in(3).then(|| draw.below(CONTEXT) as u32);
    let request = PlanRequest { context, batch, kv, ..PlanRequest::new(memory.len() as u64) };
    let plan = Plan::new(&image, &request).map_err(refused("plan"))?;
    let clock = ManualClock::new(1);
    let mut world =
        World { storage: &mut disk, parallel: &Serial, clock: &clock, events: &mut Silent };
    let options = Options::new(best(CpuFeatures::detect()));
    let session = Session::load(&image, &plan, options, memory, &mut world);
    let mut session = session.map_err(refused("load"))?;
    let mut answered = answer(&mut session, draw, &mut world);
    let mut saved = Vec::new();
    let write = |bytes: &[u8]| {
        saved.extend_from_slice(bytes);
        Ok::<(), Infallible>(())
    };
    let Ok(()) = session.save(write);
    for _ in 0..4 {
        let mut saved = saved.clone();
        // What decides over the rest comes first.
        let end = if draw.one_in(2) { saved.len().min(56) } else { saved.len() };
        draw.spoil(&mut saved[..end]);
        if answered.is_ok() && restore(&mut session, &saved)? {
            answered = answer(&mut session, draw, &mut world);
        }
    }
    answered
}

/// Restores a conversation; whether it was taken.
fn restore(session: &mut Session<'_>, saved: &[u8]) -> Result<bool, String> {
    let promised = session.check_saved(reader(saved)).is_ok();
    match session.restore(reader(saved)) {
        Ok(()) if promised => Ok(true),
        Ok(()) => panic!("taken, against what was said before"),
        Err(SaveError::Damaged | SaveError::Sequence(_)) if promised => {
            panic!("not taken, against what was said before")
        }
        Err(_) => {
            assert!(session.tokens().is_empty(), "half a conversation is left");
            Ok(false)
        }
    }
}

/// Gives the bytes piece by piece.
fn reader(mut rest: &[u8]) -> impl FnMut(&mut [u8]) -> Result<(), &'static str> {
    move |into| {
        let (bytes, after) = rest.split_at_checked(into.len()).ok_or("it is cut")?;
        into.copy_from_slice(bytes);
        rest = after;
        Ok(())
    }
}

fn answer<'a>(
    session: &mut Session<'a>,
    draw: &mut Draw<'_>,
    world: &mut World<'_, 'a>,
) -> Result<String, String> {
    let text = draw.pick(&TEXTS);
    if draw.one_in(2) {
        session.append_text(text).map_err(refused("text"))?;
    } else {
        let role = draw.pick(&[Role::System, Role::User]);
        session.append_message(role, text).map_err(refused("message"))?;
        session.begin_answer().map_err(refused("message"))?;
    }
    for _ in 0..CONTEXT {
        if !session.compute(world).map_err(refused("compute"))? {
            break;
        }
    }
    for _ in 0..3 {
        session.step(world).map_err(refused("step"))?;
    }
    assert!(session.tokens().len() <= session.context());
    Ok("answered".to_owned())
}
