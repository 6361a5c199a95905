//! Answers a question with a model image that lies in memory:
//! `cargo run --release -p rill --example answer -- MODEL.rill "Why is the sky blue?"`
use std::error::Error;
use std::time::Instant;

use rill::answer::Answer;
use rill::chat::Role;
use rill::engine::Options;
use rill::generate::{Free, generate};
use rill::image::{Image, PAGE_ALIGN};
use rill::kernels::{CpuFeatures, best};
use rill::plan::{Plan, PlanRequest};
use rill::seams::{Clock, InMemory, Micros, Serial, Silent, World};
use rill::session::Session;

struct Stopwatch(Instant);

impl Clock for Stopwatch {
    fn now(&self) -> Micros {
        self.0.elapsed().as_micros() as Micros
    }
}

/// The answer to `question`, of at most 200 tokens, within an arena of `budget` bytes.
pub fn answer(image: &[u8], budget: usize, question: &str) -> Result<String, Box<dyn Error>> {
    // All memory there will ever be. It begins at a multiple of 16 KiB.
    let mut memory = vec![0; budget + PAGE_ALIGN];
    let start = memory.as_ptr().align_offset(PAGE_ALIGN);
    let arena = &mut memory[start..][..budget];

    let mut storage = InMemory::new(image);
    let opened = Image::open(&mut storage, &mut arena[..PAGE_ALIGN])?;
    let plan = Plan::new(&opened, &PlanRequest::new(budget as u64))?;
    let clock = Stopwatch(Instant::now());
    let (parallel, events) = (&Serial, &mut Silent);
    let mut world = World { storage: &mut storage, parallel, clock: &clock, events };
    let options = Options::new(best(CpuFeatures::detect()));
    let mut session = Session::load(&opened, &plan, options, arena, &mut world)?;

    session.append_message(Role::User, question)?;
    session.begin_answer()?;
    let (mut answer, mut text) = (Answer::default(), String::new());
    let never = || false;
    generate(&mut session, &mut world, &mut answer, 200, &mut Free, never, |_, part| {
        text.push_str(part);
    })?;
    Ok(text)
}

fn main() -> Result<(), Box<dyn Error>> {
    let [image, question] = std::env::args().skip(1).collect::<Vec<_>>().try_into().unwrap();
    println!("{}", answer(&std::fs::read(image)?, 1 << 30, &question)?);
    Ok(())
}
