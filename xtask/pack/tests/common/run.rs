//! Runs an image in RAM.

use rill::engine::Options;
use rill::image::{Image, PAGE_ALIGN};
use rill::kernels::{CpuFeatures, best};
use rill::plan::KvFormat;
use rill::plan::{Plan, PlanRequest, Sizes};
use rill::seams::{ManualClock, RamDisk, Serial, Silent, World};
use rill::sequence::SequenceError;
use rill::session::Session;

/// Logits after each of `ids`, with room for `slots` experts, or for all.
pub fn logits(bytes: &[u8], slots: Option<u32>, ids: &[u32]) -> Vec<Vec<f32>> {
    let mut disk = RamDisk::new(bytes, 0);
    let image = Image::open(&mut disk, &mut vec![0; PAGE_ALIGN]).unwrap();
    let (context, batch, kv, conversations) = (64, 4, KvFormat::F16, 1);
    let sizes = Sizes { context, batch, kv, conversations, kv_tokens: None, prefixes: 0 };
    let arena = slots
        .map_or_else(|| Plan::most(&image, sizes), |slots| Plan::with_slots(&image, sizes, slots));
    let (context, batch) = (Some(context), Some(batch));
    let request = PlanRequest { context, batch, kv, prefixes: Some(0), ..PlanRequest::new(arena) };
    let plan = Plan::new(&image, &request);
    let plan = plan.unwrap();
    let len = plan.total() as usize;
    // Some tests run a few small models: their arenas are not given back.
    let memory = vec![0; len + PAGE_ALIGN].leak();
    let start = memory.as_ptr().align_offset(PAGE_ALIGN);
    let arena = &mut memory[start..][..len];
    let mut world = World {
        storage: &mut disk,
        parallel: &Serial,
        clock: &ManualClock::new(1),
        events: &mut Silent,
    };
    let options = Options::new(best(CpuFeatures::detect()));
    let mut session = Session::load(&image, &plan, options, arena, &mut world).unwrap();
    session.append(ids).unwrap();
    let mut all = Vec::new();
    let computed = session.each_logits(&mut world, |logits| {
        all.push(logits.to_vec());
        Ok::<_, SequenceError>(())
    });
    computed.unwrap();
    all
}
