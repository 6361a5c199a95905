//! Ten thousand damaged images: each gives an error or the right answer, never a panic, never a
//! wrong answer.

use rill::engine::Options;
use rill::image::{HEADER_BYTES, Header, Image, PAGE_ALIGN, Section, checksum};
use rill::kernels::{CpuFeatures, best};
use rill::plan::KvFormat;
use rill::plan::{Plan, PlanRequest, Sizes};
use rill::seams::{
    Completion, Geometry, ManualClock, Read, Serial, Silent, Storage, StorageError,
    StorageErrorKind, World,
};
use rill::session::Session;
use rill_tests::kiosk;
use rill_tests::rig::arena;

/// Images that are tried.
const IMAGES: u64 = 10_000;
/// What each is asked.
const PROMPT: [u32; 3] = [1, 6, 386];

/// What was done to an image.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// This bit is flipped.
    Flip { at: u64, bit: u8 },
    /// The file ends here.
    Cut { at: u64 },
    /// Bytes of another place stand here.
    Splice { from: u64, to: u64, len: u64 },
}

/// An image with damage, applied as it is read.
struct Damaged<'d, 'a> {
    data: &'d [u8],
    damage: Damage,
    done: Option<Completion<'a>>,
}

impl Damaged<'_, '_> {
    fn len(&self) -> u64 {
        match self.damage {
            Damage::Cut { at } => at,
            _ => self.data.len() as u64,
        }
    }

    /// The byte at `at`.
    fn byte(&self, at: u64) -> u8 {
        match self.damage {
            Damage::Splice { from, to, len } if (to..to + len).contains(&at) => {
                self.data[(from + at - to) as usize]
            }
            _ => self.data[at as usize],
        }
    }

    fn fill(&self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let end = offset + into.len() as u64;
        if end > self.len() {
            return Err(StorageError { kind: StorageErrorKind::PastEnd, code: 0 });
        }
        into.copy_from_slice(&self.data[offset as usize..end as usize]);
        match self.damage {
            Damage::Flip { at, bit } if (offset..end).contains(&at) => {
                into[(at - offset) as usize] ^= 1 << bit;
            }
            Damage::Splice { to, len, .. } => {
                for at in to.max(offset)..(to + len).min(end) {
                    into[(at - offset) as usize] = self.byte(at);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Storage<'a> for Damaged<'_, 'a> {
    fn geometry(&self) -> Geometry {
        Geometry { len: self.len(), alignment: 1, depth: 1 }
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        self.fill(offset, into)
    }

    fn submit(&mut self, read: Read<'a>) -> Result<(), Read<'a>> {
        if self.done.is_some() {
            return Err(read);
        }
        let result = self.fill(read.offset, read.into);
        self.done = Some(Completion { tag: read.tag, into: read.into, result });
        Ok(())
    }

    fn poll(&mut self) -> Option<Completion<'a>> {
        self.done.take()
    }

    fn wait(&mut self) -> Option<Completion<'a>> {
        self.done.take()
    }
}

/// xorshift64*, <https://doi.org/10.18637/jss.v008.i14>.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % n
    }
}

/// The last logits after the prompt, or what went wrong.
fn answer(data: &[u8], damage: Damage, memory: &mut [u8]) -> Result<Vec<u32>, String> {
    let mut storage = Damaged { data, damage, done: None };
    let mut scratch = vec![0; PAGE_ALIGN];
    let image = Image::open(&mut storage, &mut scratch).map_err(|error| error.to_string())?;
    let arena = memory.len() as u64;
    let request = PlanRequest { context: Some(16), batch: Some(4), ..PlanRequest::new(arena) };
    let plan = Plan::new(&image, &request).map_err(|error| error.to_string())?;
    let clock = ManualClock::new(1);
    let mut world =
        World { storage: &mut storage, parallel: &Serial, clock: &clock, events: &mut Silent };
    let options = Options::new(best(CpuFeatures::detect()));
    let mut session = Session::load(&image, &plan, options, memory, &mut world)
        .map_err(|error| error.to_string())?;
    session.append(&PROMPT).map_err(|error| error.to_string())?;
    while session.compute(&mut world).map_err(|error| error.to_string())? {}
    Ok(session.logits().iter().map(|x| x.to_bits()).collect())
}

/// An arena that runs the kiosk model with few experts in RAM.
fn memory(data: &[u8]) -> &'static mut [u8] {
    let mut whole = Damaged { data, damage: Damage::Cut { at: data.len() as u64 }, done: None };
    let image = Image::open(&mut whole, &mut vec![0; PAGE_ALIGN]).unwrap();
    let sizes = Sizes {
        context: 16,
        batch: 4,
        kv: KvFormat::F16,
        conversations: 1,
        kv_tokens: None,
        prefixes: 0,
    };
    arena(Plan::with_slots(&image, sizes, 8))
}

#[test]
fn a_damaged_image_gives_an_error_or_the_right_answer() {
    let data = kiosk::default_image();
    let memory = memory(data);
    let len = data.len() as u64;
    let sound = Damage::Cut { at: len };
    let expected = answer(data, sound, memory).unwrap();
    let mut random = Random(1);
    let (mut errors, mut right) = (0, 0);
    for _ in 0..IMAGES {
        // Half of the damage goes where the structure is.
        let end = if random.below(2) == 0 { len } else { 256 << 10 };
        let damage = match random.below(3) {
            0 => Damage::Flip { at: random.below(end), bit: random.below(8) as u8 },
            1 => Damage::Cut { at: random.below(end) },
            _ => {
                let count = 1 + random.below(4096);
                let (from, to) = (random.below(len - count), random.below(end - count));
                Damage::Splice { from, to, len: count }
            }
        };
        match answer(data, damage, memory) {
            Ok(logits) => {
                assert!(logits == expected, "{damage:?} gives another answer and no error");
                right += 1;
            }
            Err(error) => {
                assert!(!error.is_empty());
                errors += 1;
            }
        }
    }
    println!("{errors} errors, {right} right answers");
    assert!(errors > IMAGES / 2 && right > 0);
}

#[test]
fn structure_that_is_damaged_and_sealed_again_never_panics() {
    let data = kiosk::default_image();
    let memory = memory(data);
    let sound = Header::parse(&data[..HEADER_BYTES]).unwrap();
    let mut copy = data.to_vec();
    let mut random = Random(2);
    let sections = [Section::Manifest, Section::Tokenizer, Section::PageSums];
    for _ in 0..2_000 {
        let mut header = sound;
        let section = sections[random.below(3) as usize];
        let span = sound.span(section);
        let place = span.offset as usize..span.end() as usize;
        for _ in 0..1 + random.below(4) {
            let at = place.start + random.below(span.len) as usize;
            copy[at] = match random.below(3) {
                0 => random.below(256) as u8,
                1 => copy[at] ^ (1 << random.below(8)),
                _ => [0, 0x7f, 0x80, 0xff][random.below(4) as usize],
            };
        }
        header.spans[section as usize].checksum = checksum(&copy[place.clone()]);
        copy[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        // Any answer will do, and any error; a panic would end the test.
        let _ = answer(&copy, Damage::Cut { at: copy.len() as u64 }, memory);
        copy[place.clone()].copy_from_slice(&data[place]);
    }
}
