use std::io::{IsTerminal, Write, stderr};
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rill::image::{Header, PAGE_ALIGN, Section, page_checksum_on};
use rill::seams::{Completion, Parallel, Read, Urgency};
use rill_linux::arena::Arena;
use rill_linux::engine::LoadError;
use rill_linux::model::Model;
use rill_linux::pool::Pool;
use xxhash_rust::xxh3::Xxh3;

use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::interrupt;
use crate::terminal::stdout;

/// Read all of an image and check every checksum
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
}

/// Bytes of a section that are read at once.
const STRIDE: usize = 4 << 20;
/// Pages that are read at once: one is checked while others arrive.
const PAGES_AHEAD: usize = 3;

pub fn run(args: &Args) -> Result<(), Failure> {
    let mut model = args.model.open()?;
    let header = model.image.header;
    let bar = progress_bar(header.file_len);
    let mut damaged = Vec::new();
    for section in [Section::Manifest, Section::Tokenizer, Section::Template, Section::Resident] {
        if !section_is_intact(&mut model, section, &bar)? {
            damaged.push(format!("the {} section", section.name()));
        }
    }
    if header.span(Section::Pages).len > 0 {
        match model.section(Section::PageSums) {
            Ok(sums) => {
                let threads = available_parallelism().map_or(1, NonZeroUsize::get);
                let pool = Pool::new(threads);
                check_pages(&mut model, &sums, &pool, &bar, &mut damaged)?;
            }
            Err(LoadError::Image { .. }) => {
                damaged.push(format!("the {} section", Section::PageSums.name()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    bar.finish_and_clear();
    if damaged.is_empty() {
        writeln!(stdout(), "{}: every checksum is right", model.name)?;
        return Ok(());
    }
    let mut out = stdout();
    let list = |part| writeln!(out, "{}: {part} is damaged", model.name);
    // Whoever reads none of it still learns that the image is damaged.
    let _ = damaged.iter().try_for_each(list);
    let parts = if damaged.len() == 1 { "part is" } else { "parts are" };
    Err(Failure::Damaged(format!("{}: {} {parts}", model.name, damaged.len())))
}

/// Checks a section piece by piece, whatever its size.
fn section_is_intact(
    model: &mut Model,
    section: Section,
    bar: &ProgressBar,
) -> Result<bool, Failure> {
    let span = model.image.header.span(section);
    let buffer = buffer(STRIDE)?;
    let mut sum = Xxh3::new();
    let mut done = 0;
    while done < span.len {
        interrupt::check()?;
        let len = (span.len - done).min(STRIDE as u64) as usize;
        // A section ends with zeros up to a multiple of what reads are aligned to.
        let padded = &mut buffer[..len.next_multiple_of(PAGE_ALIGN)];
        if model.device.storage().read_patiently(span.offset + done, padded).is_err() {
            return Ok(false);
        }
        sum.update(&padded[..len]);
        done += len as u64;
        bar.inc(len as u64);
    }
    Ok(sum.digest() == span.checksum)
}

/// Checks both parts of every page.
fn check_pages(
    model: &mut Model,
    sums: &[u8],
    parallel: &dyn Parallel,
    bar: &ProgressBar,
    damaged: &mut Vec<String>,
) -> Result<(), Failure> {
    let Some(shape) = model.image.page_shape() else { return Ok(()) };
    let Header { page_len, .. } = model.image.header;
    let pages = model.image.manifest.pages() as u32;
    let experts = model.image.manifest.shape.experts;
    let image = &model.image;
    let storage = model.device.storage();
    let read = |tag, into| Read {
        tag,
        offset: image.page_offset(tag),
        into,
        urgency: Urgency::Demand,
        attempt: 0,
    };
    let mut next = 0;
    for into in buffer(page_len as usize * PAGES_AHEAD)?.chunks_exact_mut(page_len as usize) {
        if next < pages && storage.submit(read(next, into)).is_ok() {
            next += 1;
        }
    }
    while let Some(Completion { tag, into, result }) = storage.wait() {
        let (first, rest) = into.split_at(shape.down_at());
        let found = [first, rest].map(|part| page_checksum_on(parallel, part));
        let expected = sums.chunks_exact(16).nth(tag as usize);
        let right = expected.is_some_and(|bytes| bytes == found.map(u64::to_le_bytes).concat());
        if result.is_err() || !right {
            let (bank, expert) = (tag / experts, tag % experts);
            let offset = image.page_offset(tag);
            damaged.push(format!("expert {expert} of bank {bank} (at byte {offset})"));
        }
        bar.inc(page_len);
        if next < pages && !interrupt::asked() && storage.submit(read(next, into)).is_ok() {
            next += 1;
        }
    }
    interrupt::check()
}

fn buffer(bytes: usize) -> Result<&'static mut [u8], Failure> {
    let ram = |error| LoadError::Ram { bytes: bytes as u64, error };
    Ok(Arena::new(bytes, 1).map_err(ram)?.leak())
}

/// A bar where somebody watches.
fn progress_bar(bytes: u64) -> ProgressBar {
    let target = if stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(bytes), target);
    let template = "checking {wide_bar} {binary_bytes}/{binary_total_bytes} \
                    {binary_bytes_per_sec} {eta}";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
