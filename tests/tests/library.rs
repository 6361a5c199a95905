//! A loaded model as a library: `rill_linux::engine`.

use std::fs;
use std::path::PathBuf;

use rill::generate::{Ending, Free};
use rill::sampler::Settings;
use rill::seams::Silent;
use rill_linux::answer::{AnswerOptions, Speech};
use rill_linux::engine::{BudgetOptions, Engine, LoadError, Memory, Options};
use rill_linux::talk::Talk;
use rill_tests::kiosk;

const QUESTIONS: [&str; 4] = [
    "Where is the lift?",
    "Tell me a story about a fox and a kite.",
    "What time does the museum open?",
    "Who are you?",
];

/// The kiosk image in a folder of its own, with so few experts in RAM that they come and go.
struct Kiosk {
    folder: tempfile::TempDir,
}

impl Kiosk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("kiosk.rill"), kiosk::default_image()).unwrap();
        Self { folder }
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("kiosk.rill")
    }

    fn options(&self, conversations: u32) -> Options {
        let budget = BudgetOptions {
            ram: Some(18 << 20),
            context: Some(512),
            conversations,
            ..BudgetOptions::default()
        };
        Options { model: Some(self.image()), budget, ..Options::default() }
    }
}

/// The text of an answer, and how it ended.
fn ask(engine: &mut Engine<'_>, talk: &mut Talk, question: &str) -> (String, Ending) {
    talk.ask(engine, question).unwrap();
    let mut text = String::new();
    let options = AnswerOptions { max_tokens: Some(48), ..AnswerOptions::default() };
    let ending = engine.answer(Some(talk), &options, |_, piece| text.push_str(piece)).unwrap();
    (text, ending)
}

#[test]
fn memory_can_be_used_again_after_its_model() {
    let kiosk = Kiosk::new();
    let mut memory = Memory::new();
    let mut answers = Vec::new();
    for ram in [18 << 20, 40 << 20] {
        let mut options = kiosk.options(1);
        options.budget.ram = Some(ram);
        let mut engine = Engine::load(&options, &mut memory, &mut |_| {}).unwrap();
        let mut talk = Talk::begin(&mut engine, None).unwrap();
        answers.push(ask(&mut engine, &mut talk, QUESTIONS[0]));
    }
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn a_model_that_is_never_dropped_keeps_what_it_reads_into() {
    let kiosk = Kiosk::new();
    let mut memory = Memory::new();
    let mut engine = Engine::load(&kiosk.options(1), &mut memory, &mut |_| {}).unwrap();
    // Reads are under way.
    engine.warm();
    std::mem::forget(engine);
    drop(memory);
    let mut memory = Memory::new();
    let mut engine = Engine::load(&kiosk.options(1), &mut memory, &mut |_| {}).unwrap();
    let mut talk = Talk::begin(&mut engine, None).unwrap();
    let (text, _) = ask(&mut engine, &mut talk, QUESTIONS[0]);
    assert!(!text.is_empty());
}

#[test]
fn conversations_side_by_side_are_what_they_are_alone() {
    let kiosk = Kiosk::new();
    let sampling = |engine: &mut Engine<'_>, seed| {
        let settings = Settings { min_tokens: 8, ..engine.image.manifest.sampling.into() };
        engine.session.set_sampling(settings, seed);
    };
    let alone: Vec<_> = (0..QUESTIONS.len())
        .map(|number| {
            let mut memory = Memory::new();
            let mut engine = Engine::load(&kiosk.options(1), &mut memory, &mut |_| {}).unwrap();
            sampling(&mut engine, number as u64);
            let mut talk = Talk::begin(&mut engine, None).unwrap();
            ask(&mut engine, &mut talk, QUESTIONS[number])
        })
        .collect();

    for conversations in [2, 4] {
        let mut memory = Memory::new();
        let options = kiosk.options(conversations);
        let mut engine = Engine::load(&options, &mut memory, &mut |_| {}).unwrap();
        let mut results = Vec::new();
        let count = conversations as usize;
        let mut speeches: Vec<Option<(Speech, Talk)>> = (0..count)
            .map(|number| {
                assert!(engine.session.select(number));
                sampling(&mut engine, number as u64);
                let mut talk = Talk::begin(&mut engine, None).unwrap();
                talk.ask(&mut engine, QUESTIONS[number]).unwrap();
                let options = AnswerOptions { max_tokens: Some(48), ..AnswerOptions::default() };
                Some((Speech::begin(&engine, Some(&talk), &options).unwrap(), talk))
            })
            .collect();
        let mut texts = vec![String::new(); count];
        let order: Vec<usize> = (0..count).collect();
        while speeches.iter().any(Option::is_some) {
            for (place, text) in speeches.iter_mut().zip(&mut texts) {
                let Some((speech, _)) = place else { continue };
                let number = speech.number();
                let mut say = |_, piece: &str| text.push_str(piece);
                let ending = speech.go_on(&mut engine, &mut Free, &mut say).unwrap();
                if let Some(ending) = ending {
                    let (speech, mut talk) = place.take().unwrap();
                    speech.finish(&mut engine, Some(&mut talk), &mut say);
                    results.push((number, (text.clone(), ending)));
                }
            }
            let advance = engine.advance(&mut Silent, &order).unwrap();
            assert_eq!(advance.refused, None);
        }
        results.sort_by_key(|(number, _)| *number);
        let results: Vec<_> = results.into_iter().map(|(_, result)| result).collect();
        assert_eq!(results, alone[..count], "{conversations} conversations");
    }
}

#[test]
fn what_cannot_be_loaded_says_why() {
    let kiosk = Kiosk::new();
    let load = |options: &Options| {
        let mut memory = Memory::new();
        Engine::load(options, &mut memory, &mut |_| {}).err().unwrap()
    };
    let mut options = kiosk.options(1);
    options.budget.ram = Some(1 << 20);
    assert!(matches!(load(&options), LoadError::Budget { budget, least, .. } if budget < least));
    let kernels = Some("abacus".to_owned());
    let error = load(&Options { kernels, ..kiosk.options(1) });
    assert!(matches!(&error, LoadError::Kernels { known, .. } if known.contains(&"scalar")));
    let error = load(&Options { model: Some("/nowhere.rill".into()), ..kiosk.options(1) });
    assert!(error.to_string().contains("/nowhere.rill"), "{error}");
    let error = load(&Options { state: Some("/nowhere".into()), ..kiosk.options(1) });
    assert!(matches!(error, LoadError::State(_)));
    assert!(matches!(load(&kiosk.options(0)), LoadError::Plan(_)));
}
