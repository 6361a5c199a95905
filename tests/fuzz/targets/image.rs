//! Opens, plans, loads and runs images whose structure was damaged and then made to fit again, so
//! that no checksum and no length hides the damage from the code behind it. Nothing may panic or
//! read out of bounds.

#![no_main]

use std::cell::RefCell;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rill::image::{
    HEADER_BYTES, Header, Image, Manifest, PAGE_ALIGN, Resident, SECTIONS, Section, TEMPLATE_MAX, checksum, page_checksum,
    page_shape,
};
use rill::kernels::{CpuFeatures, best};
use rill::plan::KvFormat;
use rill::engine::Options;
use rill::plan::{Plan, PlanRequest};
use rill::seams::{ManualClock, RamDisk, Serial, Silent, World};
use rill::session::Session;
use rill_fuzz::{Edit, common::hub_folder, tiny};
use rill_pack::{Quiet, pack};
use rill_tests::rig::arena;

/// An arena that runs the sound model with a few experts in RAM.
const ARENA: u64 = 2 << 20;
/// Larger images are not made: they only take longer.
const LARGEST: u64 = 2 << 20;

#[derive(Debug, Arbitrary)]
struct Damage {
    manifest: Vec<Edit>,
    tokenizer: Vec<Edit>,
    template: Vec<Edit>,
    resident: Vec<Edit>,
    pages: Vec<Edit>,
    /// After everything was made to fit.
    whole: Vec<Edit>,
    cut: Option<u32>,
    text: String,
    batch: u8,
}

/// The sections of the sound image, in file order.
fn sound() -> [Vec<u8>; SECTIONS] {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let (source, image) = (folder.path().join("tiny"), folder.path().join("tiny.rill"));
    hub_folder::write(&source, &tiny().config(), &tiny().tensors());
    pack(&source, &image, &Default::default(), &Quiet).expect("the tiny model packs");
    let bytes = std::fs::read(image).expect("it was just written");
    let header = Header::parse(&bytes).expect("it was just written");
    Section::ALL.map(|section| {
        let span = header.span(section);
        bytes[span.offset as usize..span.end() as usize].to_vec()
    })
}

thread_local! {
    static SOUND: [Vec<u8>; SECTIONS] = sound();
    static MEMORY: RefCell<&'static mut [u8]> = RefCell::new(arena(ARENA));
}

/// An image of these sections whose lengths and checksums are what the manifest asks for, if it
/// can be read at all.
fn fit(mut sections: [Vec<u8>; SECTIONS]) -> Option<Vec<u8>> {
    let [manifest, tokenizer, template, resident, sums, pages] = &mut sections;
    template.truncate(TEMPLATE_MAX);
    let decoded = Manifest::decode(manifest).ok()?;
    let (_, resident_len) = Resident::of(&decoded, |_, _| {});
    let shape = page_shape(&decoded);
    let page_len = shape.map_or(0, |shape| shape.bytes());
    let pages_len = decoded.pages().checked_mul(page_len)?;
    let [words, prompts] = [tokenizer.len(), template.len()];
    let lens = [manifest.len(), words, prompts, resident_len, decoded.pages() * 16, pages_len];
    let mut header = Header::new(lens.map(|len| len as u64), page_len as u64);
    if header.file_len > LARGEST {
        return None;
    }
    resident.resize(resident_len, 0);
    sums.clear();
    pages.resize(pages_len, 0);
    if let Some(shape) = shape {
        for page in pages.chunks_exact(page_len) {
            let (front, rest) = page.split_at(shape.down_at());
            sums.extend([front, rest].map(page_checksum).iter().flat_map(|sum| sum.to_le_bytes()));
        }
    }
    let mut image = vec![0; header.file_len as usize];
    for (section, bytes) in Section::ALL.into_iter().zip(&sections) {
        let span = &mut header.spans[section as usize];
        image[span.offset as usize..][..bytes.len()].copy_from_slice(bytes);
        if section != Section::Pages {
            span.checksum = checksum(bytes);
        }
    }
    image[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    Some(image)
}

/// Does everything with an image that the program does. Any answer and any error will do.
fn run(image: &[u8], damage: &Damage, memory: &mut [u8]) -> Option<()> {
    let mut disk = RamDisk::new(image, 0);
    let image = Image::open(&mut disk, &mut vec![0; PAGE_ALIGN]).ok()?;
    let batch = Some(1 + u32::from(damage.batch % 8));
    let arena = memory.len() as u64;
    let request = PlanRequest { context: Some(16), batch, ..PlanRequest::new(arena) };
    let plan = Plan::new(&image, &request).ok()?;
    let clock = ManualClock::new(1);
    let mut world =
        World { storage: &mut disk, parallel: &Serial, clock: &clock, events: &mut Silent };
    let options = Options::new(best(CpuFeatures::detect()));
    let mut session = Session::load(&image, &plan, options, memory, &mut world).ok()?;
    session.append_text(&damage.text).ok()?;
    while session.compute(&mut world).ok()? {}
    for _ in 0..2 {
        session.step(&mut world).ok()?;
    }
    Some(())
}

fuzz_target!(|damage: Damage| {
    let mut sections = SOUND.with(Clone::clone);
    let Damage { manifest, tokenizer, template, resident, pages, .. } = &damage;
    let edits = [manifest, tokenizer, template, resident, &vec![], pages];
    for (section, edits) in sections.iter_mut().zip(edits) {
        edits.iter().for_each(|edit| edit.apply(section));
    }
    let Some(mut image) = fit(sections) else { return };
    damage.whole.iter().for_each(|edit| edit.apply(&mut image));
    if let Some(cut) = damage.cut {
        image.truncate(cut as usize);
    }
    MEMORY.with_borrow_mut(|memory| run(&image, &damage, memory));
});
