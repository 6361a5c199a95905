//! Guesses change no word: tokens, their logits, log-probabilities and the random state are those
//! without, bit for bit.

use proptest::prelude::*;
use rill::engine::{Ask, Sample, Step};
use rill::image::Sampling;
use rill::plan::KvFormat;
use rill::sampler::Settings;
use rill::sequence::SequenceError;
use rill_tests::kiosk;
use rill_tests::reference::cases;
use rill_tests::rig::{Rig, Setting};

/// Text that says some of what it says twice.
fn prompt(repeated: usize) -> Vec<u32> {
    let ids = cases().into_iter().map(|case| case.ids).max_by_key(Vec::len).unwrap();
    [&ids[..], &ids[..repeated.min(ids.len())]].concat()
}

/// Every token of an answer, whatever it is, with the logits that it was chosen from; `mask` forbids
/// some, others for each.
fn answer(rig: &mut Rig, prompt: &[u32], count: usize, mask: u32) -> Vec<(Step, Sample, Vec<u32>)> {
    rig.session.append(prompt).unwrap();
    let step = |rig: &mut Rig, number: usize| {
        rig.with(|session, world| {
            while session.compute(world)? {}
            let logits = session.logits().iter().map(|x| x.to_bits()).collect();
            let allowed =
                vec![mask.rotate_left(number as u32); session.logits().len().div_ceil(32)];
            let ask = Ask { allowed: Some(&allowed), logprobs: Some(3) };
            let sample = session.choose(world, &ask)?.unwrap();
            Ok::<_, SequenceError>((session.accept(sample.id)?, sample, logits))
        })
    };
    (0..count).map(|number| step(rig, number).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn an_answer_is_the_same_with_guesses_and_without(
        (repeated, seed) in (0..60_usize, any::<u64>()),
        temperature in prop::sample::select(&[0.0_f32, 0.3, 1.0][..]),
        penalty in prop::sample::select(&[1.0_f32, 1.3][..]),
        (frequency_penalty, top_n_sigma) in (0.0..0.5_f32, 0.0..4.0_f32),
        (min_tokens, mask) in (0..80_u32, prop_oneof![Just(u32::MAX), 1..u32::MAX]),
        slots in prop_oneof![Just(None), (4..200_u32).prop_map(Some)],
        (batch, threads, int8) in (1..40_u32, 1..3_usize, any::<bool>()),
    ) {
        let kv = if int8 { KvFormat::Int8 } else { KvFormat::F16 };
        let sampling = Sampling {
            temperature,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: penalty,
        };
        let settings =
            Settings { frequency_penalty, top_n_sigma, min_tokens, ..sampling.into() };
        let sampling = Some(settings);
        let setting = Setting { slots, batch, threads, kv, seed, sampling, ..Setting::default() };
        let prompt = prompt(repeated);
        let [without, with] = [false, true].map(|draft| {
            let mut rig = Rig::new(kiosk::default_image(), Setting { draft, ..setting }).unwrap();
            let answer = answer(&mut rig, &prompt, 60, mask);
            // What was guessed and not said leaves no trace.
            rig.session.append(&prompt[..5]).unwrap();
            let later = self::answer(&mut rig, &prompt[..3], 5, mask);
            (answer, later)
        });
        prop_assert!(without == with);
    }
}

#[test]
fn text_that_repeats_is_guessed_and_not_computed_token_by_token() {
    let mut rig = Rig::new(kiosk::default_image(), Setting::default()).unwrap();
    let ids = prompt(0);
    rig.session.append(&ids).unwrap();
    rig.with(|session, world| while session.compute(world).unwrap() {});
    let mut batches = 0;
    for &id in ids.iter().cycle().take(2 * ids.len()) {
        rig.session.accept(id).unwrap();
        let before = rig.session.stats().drafted;
        rig.with(|session, world| while session.compute(world).unwrap() {});
        batches += u64::from(rig.session.stats().drafted > before);
    }
    let stats = rig.session.stats();
    assert!(stats.accepted as usize > ids.len(), "{stats:?}");
    assert!(batches < ids.len() as u64, "{batches} batches for {} tokens", 2 * ids.len());
}

#[test]
fn an_append_that_fails_leaves_no_guess_that_it_wrote_over() {
    let mut rig = Rig::new(kiosk::default_image(), Setting::default()).unwrap();
    let compute = |rig: &mut Rig| {
        rig.with(|session, world| while session.compute(world).unwrap() {});
        rig.session.logits().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    let ids = prompt(0);
    let mut said = ids.clone();
    rig.session.append(&ids).unwrap();
    compute(&mut rig);
    let drafted = |rig: &Rig| rig.session.stats().drafted;
    for &id in ids.iter().cycle() {
        let before = drafted(&rig);
        rig.session.accept(id).unwrap();
        said.push(id);
        compute(&mut rig);
        if drafted(&rig) > before {
            break;
        }
    }
    let text = "Elsewhere, at another time. ".repeat(1000);
    assert!(matches!(rig.session.append_text(&text), Err(SequenceError::ContextFull { .. })));

    let mut other = Rig::new(kiosk::default_image(), Setting::default()).unwrap();
    other.session.append(&said).unwrap();
    other.session.append_text(&text[..20]).unwrap();
    let next = other.session.tokens()[said.len()];
    other.session.cut(said.len() + 1);
    // What the failed call wrote where the guess was is no guess that came true.
    rig.session.accept(next).unwrap();
    assert_eq!(compute(&mut rig), compute(&mut other));
}

#[test]
fn a_token_that_the_model_does_not_have_changes_nothing() {
    let mut rig = Rig::new(kiosk::default_image(), Setting::default()).unwrap();
    rig.session.append(&prompt(0)).unwrap();
    rig.with(|session, world| while session.compute(world).unwrap() {});
    let before = rig.session.logits().to_vec();
    assert_eq!(rig.session.accept(u32::MAX), Err(SequenceError::Token(u32::MAX)));
    assert_eq!(rig.session.logits(), before);
}
