//! A loaded model that is dropped leaves nothing behind.

use std::fs;

use rill_linux::answer::AnswerOptions;
use rill_linux::engine::{BudgetOptions, Engine, Memory, Options};
use rill_linux::storage::Via;
use rill_linux::talk::Talk;
use rill_tests::kiosk;
use rill_tests::process::status_bytes;
use rill_tests::server::soon;

const ROUNDS: u32 = 50;
/// What is set up once for the process is there after so many.
const FIRST: u32 = 10;

/// Bytes of this process in RAM.
fn resident() -> u64 {
    status_bytes("self", "VmRSS")
}

/// Threads and open files of this process.
fn held() -> [usize; 2] {
    ["/proc/self/task", "/proc/self/fd"].map(|folder| fs::read_dir(folder).unwrap().count())
}

/// One test only: what is counted is the whole process's.
#[test]
fn a_model_is_loaded_and_unloaded_again_and_again_in_the_same_memory() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("kiosk.rill");
    fs::write(&image, kiosk::default_image()).unwrap();
    let (mut first, mut early) = (None, None);
    for round in 0..ROUNDS {
        let budget = BudgetOptions {
            ram: Some(18 << 20),
            context: Some(512),
            conversations: 1 + round % 3,
            ..BudgetOptions::default()
        };
        // What is found out of one way to read is of no use to the other.
        let (via, state) = [(Via::Best, "best"), (Via::Threads, "threads")][round as usize % 2];
        let (model, state) = (Some(image.clone()), folder.path().join(state));
        fs::create_dir_all(&state).unwrap();
        let options = Options { model, via, budget, state: Some(state), ..Options::default() };
        let mut memory = Memory::new();
        let mut engine = Engine::load(&options, &mut memory, &mut |_| {}).unwrap();
        engine.recall().unwrap();
        let mut talk = Talk::begin(&mut engine, None).unwrap();
        talk.ask(&mut engine, "Tell me a story about a fox and a kite.").unwrap();
        let (mut text, answer) = (String::new(), AnswerOptions::default());
        engine.answer(Some(&mut talk), &answer, |_, piece| text.push_str(piece)).unwrap();
        assert_eq!(first.get_or_insert_with(|| text.clone()), &text);
        engine.keep().unwrap();
        drop(engine);
        drop(memory);
        if round == FIRST {
            early = Some((resident(), held()));
        }
    }
    let (early, held_early) = early.unwrap();
    let late = resident();
    // An arena has 10 MiB, all of it in RAM: of all rounds since not one may have stayed.
    assert!(late < early + (8 << 20), "{early} bytes grew to {late}");
    // A thread that was waited for may be on the system's list a moment longer.
    soon(|| held().iter().zip(&held_early).all(|(now, then)| now <= then).then_some(()));
}
