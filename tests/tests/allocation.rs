//! Nothing is allocated after load: not by the engine, its storage or its cores.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rill::engine::{Ask, Options, Step};
use rill::image::{Image, PAGE_ALIGN};
use rill::kernels::{CpuFeatures, best};
use rill::plan::KvFormat;
use rill::plan::{Plan, PlanRequest, Sizes};
use rill::sampler::{Bias, Settings};
use rill::seams::{InMemory, Silent, Storage, World};
use rill::session::Session;
use rill_linux::arena::Arena;
use rill_linux::clock::Monotonic;
use rill_linux::pool::Pool;
use rill_linux::storage::{Disk, OpenError, Via};
use rill_tests::kiosk;

/// Counts, in every thread, while it is told to.
struct Counting;

static WATCHING: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: it hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if WATCHING.load(Ordering::Relaxed) {
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; it came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations while `body` runs, in all threads.
fn allocations(body: impl FnOnce()) -> usize {
    COUNT.store(0, Ordering::Relaxed);
    WATCHING.store(true, Ordering::SeqCst);
    body();
    WATCHING.store(false, Ordering::SeqCst);
    COUNT.load(Ordering::Relaxed)
}

/// Allocations of a prompt and an answer, with the fewest slots so that pages come and go.
fn allocations_of_a_generation(storage: &mut dyn Storage<'static>, kv: KvFormat) -> usize {
    let mut scratch = Arena::new(PAGE_ALIGN, 1).unwrap();
    let image = Image::open(storage, &mut scratch).unwrap();
    let sizes =
        Sizes { context: 256, batch: 16, kv, conversations: 1, kv_tokens: None, prefixes: 2 };
    let arena = Plan::least(&image, sizes);
    let request = PlanRequest {
        context: Some(256),
        batch: Some(16),
        kv,
        prefixes: Some(2),
        ..PlanRequest::new(arena)
    };
    let plan = Plan::new(&image, &request).unwrap();
    let arena = Arena::new(plan.total() as usize, 1).unwrap().leak();
    let pool = Pool::new(3);
    let clock = Monotonic::start();
    let mut events = Silent;
    let mut world = World { storage, parallel: &pool, clock: &clock, events: &mut events };
    let settings = Settings {
        presence_penalty: 0.1,
        frequency_penalty: 0.1,
        top_n_sigma: 4.0,
        min_tokens: 9,
        ..image.manifest.sampling.into()
    };
    let mut options = Options::new(best(CpuFeatures::detect()));
    options.sampling = Some(settings);
    let mut session = Session::load(&image, &plan, options, arena, &mut world).unwrap();
    let mut tokens = 0;
    let allowed = vec![0xffff_fffe; image.manifest.shape.vocab as usize / 32];
    let ask = Ask { allowed: Some(&allowed), logprobs: Some(20) };
    let count = allocations(|| {
        session.set_biases(&[Bias { id: 7, bias: 1.0 }]).unwrap();
        session.append_text("Once there was a happy fox named Greta. ").unwrap();
        while tokens < 40 {
            let sample = session.choose(&mut world, &ask).unwrap().unwrap();
            match session.accept(sample.id).unwrap() {
                Step::Full => break,
                // An end is a token like any other here: the sequence goes on.
                Step::Token(_) | Step::End(_) => tokens += 1,
            }
        }
    });
    assert_eq!(tokens, 40);
    assert!(session.stats().prompt.cache.evictions > 0, "pages came and went");
    count
}

/// One test only: the count is of the whole process.
#[test]
fn a_generation_allocates_nothing() {
    let bytes = kiosk::default_image();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    assert!(allocations(|| drop(std::hint::black_box(Box::new(7)))) > 0, "the count works");

    for kv in KvFormat::ALL {
        assert_eq!(allocations_of_a_generation(&mut InMemory::new(bytes), kv), 0, "{kv:?}");
    }
    for via in [Via::Threads, Via::Uring] {
        match Disk::open(file.path(), via) {
            // Containers often forbid io_uring.
            Err(OpenError::Queue(_)) if via == Via::Uring => {}
            disk => {
                let count = allocations_of_a_generation(&mut disk.unwrap(), KvFormat::F16);
                assert_eq!(count, 0, "{via:?}");
            }
        }
    }
}
