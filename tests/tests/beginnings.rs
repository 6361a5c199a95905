//! What is known of conversations, kept elsewhere and taken back: a restart computes nothing twice, and
//! nobody can tell by what is said. What was kept may be anything.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use rill::engine::{Engine, Step};
use rill::image::Sampling;
use rill::kernels::KV_BLOCK;
use rill::plan::KvFormat;
use rill::saving::SaveError;
use rill::seams::World;
use rill::sequence::Sequence;
use rill_tests::kiosk;
use rill_tests::reseal::Draw;
use rill_tests::rig::{Many, Rig, Setting, open};

/// Contents that are drawn.
const CONTENTS: u64 = 1_000;

/// Tokens in no order that comes twice.
fn text() -> Vec<u32> {
    (1..=2000_u32).map(|n| 20 + n.wrapping_mul(2_654_435_761) % 977).collect()
}

fn setting() -> Setting {
    let sampling = Sampling { temperature: 1.0, min_p: 0.0, ..Sampling::default() };
    let (context, conversations, prefixes, seed) = (640, 2, 8, 7);
    let sampling = Some(sampling.into());
    Setting { context, conversations, prefixes, seed, sampling, ..Setting::default() }
}

fn rig(setting: Setting) -> Rig<Many> {
    Rig::many(kiosk::default_image(), setting).unwrap()
}

/// Answers `prompt` in an empty sequence, by so many tokens at most. Says how many tokens were
/// computed before the first, the bits of the logits after the prompt, and the answer.
fn answer(
    (engine, sequences): &mut Many,
    world: &mut World<'_, 'static>,
    prompt: &[u32],
    most: usize,
) -> (u64, Vec<u32>, Vec<u32>) {
    let sequence: &mut Sequence<'static> = &mut sequences[0];
    let before = engine.stats().prompt.tokens;
    engine.append(sequence, prompt).unwrap();
    let (mut said, mut first, mut computed) = (Vec::new(), None, 0);
    while said.len() < most {
        while !sequence.pending().is_empty() {
            assert!(engine.advance(world, &mut [sequence]).unwrap().rows > 0);
        }
        if first.is_none() {
            let logits = engine.logits(world.parallel, sequence).unwrap();
            first = Some(logits.iter().map(|x| x.to_bits()).collect());
            computed = engine.stats().prompt.tokens - before;
        }
        let id = engine.sample(world, sequence).unwrap();
        said.push(id);
        if !matches!(engine.accept(sequence, id).unwrap(), Step::Token(_)) {
            break;
        }
    }
    engine.remember(sequence);
    engine.reset(sequence);
    (computed, first.unwrap_or_default(), said)
}

fn save(engine: &mut Engine<'static>, most: u64) -> (u64, Vec<u8>) {
    let mut bytes = Vec::new();
    let saved = engine.save_beginnings(most, |part| {
        bytes.extend_from_slice(part);
        Ok::<_, ()>(())
    });
    (saved.unwrap(), bytes)
}

/// What was kept is at its end.
#[derive(Debug, PartialEq, Eq)]
struct Ended;

fn restore(engine: &mut Engine<'static>, mut bytes: &[u8]) -> Result<u64, SaveError<Ended>> {
    engine.restore_beginnings(|part| {
        let (now, later) = bytes.split_at_checked(part.len()).ok_or(Ended)?;
        part.copy_from_slice(now);
        bytes = later;
        Ok(())
    })
}

/// A rig that has answered two prompts with the same instruction, and one with nothing in common.
fn known(setting: Setting) -> Rig<Many> {
    let mut rig = rig(setting);
    let text = text();
    rig.with(|many, world| {
        for question in [600, 700] {
            answer(many, world, &[&text[..200], &text[question..][..30]].concat(), 4);
        }
        answer(many, world, &text[900..1000], 4);
    });
    rig
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn nobody_can_tell_that_it_was_kept(
        instruction in 0..300_usize,
        questions in prop::collection::vec((300..1500_usize, 1..120_usize), 1..4),
        int8 in any::<bool>(),
        most in prop_oneof![Just(u64::MAX), 0..1_000_000_u64],
        later in (96..640_u32, 1..4_u32, 0..9_u32),
        seed in any::<u64>(),
    ) {
        let text = text();
        let kv = if int8 { KvFormat::Int8 } else { KvFormat::F16 };
        let setting = Setting { kv, seed, ..setting() };
        let prompts: Vec<Vec<u32>> = questions
            .iter()
            .map(|&(at, len)| [&text[..instruction], &text[at..][..len]].concat())
            .collect();
        let mut first = rig(setting);
        first.with(|many, world| for prompt in &prompts {
            answer(many, world, prompt, 6);
        });
        let (count, bytes) = save(&mut first.session.0, most);
        prop_assert!(bytes.len() as u64 <= most.max(32), "{} of {most}", bytes.len());
        drop(first);

        // The same engine again, and one of another size.
        let (context, conversations, prefixes) = later;
        let other = Setting { context, conversations, prefixes, ..setting };
        for setting in [setting, other] {
            let mut back = rig(setting);
            let blocks = back.session.0.free_blocks();
            let taken = restore(&mut back.session.0, &bytes).unwrap();
            prop_assert!(taken <= count.min(u64::from(setting.prefixes)));
            if setting.context == 640 {
                prop_assert_eq!(taken, count);
            }
            let mut without = rig(Setting { prefixes: 0, ..setting });
            for prompt in prompts.iter().filter(|prompt| prompt.len() + 12 <= setting.context as usize) {
                let expected = without.with(|many, world| answer(many, world, prompt, 12));
                let found = back.with(|many, world| answer(many, world, prompt, 12));
                prop_assert_eq!(&found.1, &expected.1);
                prop_assert_eq!(&found.2, &expected.2);
                if setting.context == 640 && most == u64::MAX {
                    // Which of the places that are near each other are kept is the store's affair.
                    prop_assert!(found.0 as usize <= KV_BLOCK, "{} of a known prompt", found.0);
                }
            }
            back.session.0.forget();
            prop_assert_eq!(back.session.0.free_blocks(), blocks);
        }
    }
}

#[test]
fn what_beginnings_share_is_kept_once_and_the_least_useful_not_at_all() {
    let mut rig = rig(Setting { prefixes: 16, conversations: 6, ..setting() });
    let text = text();
    let prompt = |n: usize| [&text[..2 * KV_BLOCK + 9], &text[600 + 20 * n..][..12]].concat();
    rig.with(|many, world| {
        for n in 0..8 {
            answer(many, world, &prompt(n), 2);
        }
    });
    let (all, whole) = save(&mut rig.session.0, u64::MAX);
    assert!(all > 8, "{all}");
    // Of each prompt the instruction would be two blocks more.
    let token = KvFormat::F16.token_bytes(&open(kiosk::default_image()).unwrap().manifest);
    let shared = (2 * KV_BLOCK * (token + size_of::<u32>())) as u64;
    assert!((whole.len() as u64) < 2 * shared + all * shared, "{} for {all}", whole.len());

    // In less room the instruction is still known, and not all that was asked.
    let (some, bytes) = save(&mut rig.session.0, whole.len() as u64 / 3);
    assert!(some < all && bytes.len() <= whole.len() / 3);
    let mut back = self::rig(setting());
    restore(&mut back.session.0, &bytes).unwrap();
    let (computed, _, _) = back.with(|many, world| answer(many, world, &prompt(20), 1));
    assert_eq!(computed as usize, prompt(20).len() - 2 * KV_BLOCK);
}

#[test]
fn what_is_cut_is_refused_wherever_it_is_cut() {
    let mut rig = known(setting());
    let (count, bytes) = save(&mut rig.session.0, u64::MAX);
    let mut back = self::rig(setting());
    let blocks = back.session.0.free_blocks();
    for len in (0..bytes.len()).step_by(997).chain(bytes.len() - 40..bytes.len()) {
        let cut = restore(&mut back.session.0, &bytes[..len]);
        assert_eq!(cut, Err(SaveError::Keeper(Ended)), "{len} bytes");
        back.session.0.forget();
        assert_eq!(back.session.0.free_blocks(), blocks, "{len} bytes");
    }
    assert_eq!(restore(&mut back.session.0, &bytes), Ok(count));
}

#[test]
fn any_content_ends_in_an_error_or_an_engine_that_goes_on() {
    let mut rig = known(setting());
    let (_, sound) = save(&mut rig.session.0, u64::MAX);
    let mut back = self::rig(Setting { prefixes: 4, ..setting() });
    let blocks = back.session.0.free_blocks();
    let text = text();
    let (mut errors, mut taken) = (0, 0);
    for seed in 1..=CONTENTS {
        let mut draw = Draw::seeded(seed);
        let mut bytes = sound.clone();
        for _ in 0..1 + draw.below(4) {
            // Numbers that decide come first, and lie on eight bytes.
            let end = if draw.one_in(2) { 64 } else { bytes.len() as u64 };
            let at = draw.below(end / 8) as usize * 8;
            let word: &mut [u8] = &mut bytes[at..at + 8];
            let number = match draw.below(4) {
                0 => draw.below(700),
                1 => u64::MAX - draw.below(3),
                2 => 1 << draw.below(64),
                _ => draw.below(u64::MAX),
            };
            word.copy_from_slice(&number.to_le_bytes());
        }
        let end = catch_unwind(AssertUnwindSafe(|| {
            let restored = restore(&mut back.session.0, &bytes);
            // Whatever it says, it is text that somebody may begin with.
            back.with(|(engine, sequences), world| {
                let sequence = &mut sequences[0];
                engine.append(sequence, &text[..40]).unwrap();
                while !sequence.pending().is_empty() {
                    engine.advance(world, &mut [sequence]).unwrap();
                }
                engine.reset(sequence);
                engine.forget();
            });
            restored
        }));
        match end.unwrap_or_else(|_| panic!("seed {seed}")) {
            Ok(_) => taken += 1,
            Err(_) => errors += 1,
        }
        assert_eq!(back.session.0.free_blocks(), blocks, "seed {seed}");
    }
    println!("{errors} errors, {taken} taken");
    assert!(errors > 100 && taken > 100, "{errors} errors, {taken} taken");
}
