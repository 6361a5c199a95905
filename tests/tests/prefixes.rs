//! What was computed before is not computed again, and nobody can tell by what is said.

use rill::chat::Role;
use rill::engine::{Engine, Step};
use rill::kernels::KV_BLOCK;
use rill::seams::World;
use rill::sequence::Sequence;
use rill_tests::kiosk;
use rill_tests::rig::{Many, Rig, Setting};

/// Tokens in no order that comes twice.
fn text() -> Vec<u32> {
    (1..=2000_u32).map(|n| 20 + n.wrapping_mul(2_654_435_761) % 977).collect()
}

fn rig(setting: Setting) -> Rig<Many> {
    Rig::many(kiosk::default_image(), setting).unwrap()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// The logits after `ids`, of a model that knows nothing.
fn alone(ids: &[u32]) -> Vec<u32> {
    let setting = Setting { context: 1024, ..Setting::default() };
    let mut rig = Rig::new(kiosk::default_image(), setting).unwrap();
    rig.session.append(ids).unwrap();
    rig.with(|session, world| while session.compute(world).unwrap() {});
    bits(rig.session.logits())
}

/// Computes a sequence. Says how many tokens were, and the logits after them.
fn compute(
    engine: &mut Engine<'static>,
    world: &mut World<'_, 'static>,
    sequence: &mut Sequence<'static>,
) -> (u64, Vec<u32>) {
    let before = engine.stats().prompt.tokens;
    while !sequence.pending().is_empty() {
        assert!(engine.advance(world, &mut [sequence]).unwrap().rows > 0);
    }
    let computed = engine.stats().prompt.tokens - before;
    (computed, bits(engine.logits(world.parallel, sequence).unwrap()))
}

/// Answers by the best tokens, at most so many.
fn answer(
    engine: &mut Engine<'static>,
    world: &mut World<'_, 'static>,
    sequence: &mut Sequence<'static>,
    most: usize,
) {
    for _ in 0..most {
        compute(engine, world, sequence);
        let id = engine.sample(world, sequence).unwrap();
        if !matches!(engine.accept(sequence, id).unwrap(), Step::Token(_)) {
            return;
        }
    }
}

#[test]
fn a_second_turn_computes_what_is_new() {
    let setting = Setting { context: 1024, conversations: 2, prefixes: 4, ..Setting::default() };
    rig(setting).with(|(engine, sequences), world| {
        let [first, second] = sequences else { panic!("two sequences") };
        let text = text();
        engine.append(first, &text[..600]).unwrap();
        assert_eq!(compute(engine, world, first), (600, alone(&text[..600])));
        answer(engine, world, first, 20);
        engine.remember(first);
        let (said, computed) = (first.tokens().to_vec(), first.computed());
        engine.reset(first);

        let turn = [&said[..], &text[700..740]].concat();
        engine.append(second, &turn).unwrap();
        let (tokens, logits) = compute(engine, world, second);
        assert_eq!(tokens as usize, turn.len() - computed);
        assert_eq!(logits, alone(&turn));
        assert_eq!(engine.stats().reused as usize, computed);

        // The same prompt again is one token.
        engine.append(first, &text[..600]).unwrap();
        assert_eq!(compute(engine, world, first), (1, alone(&text[..600])));
    });
}

#[test]
fn a_changed_question_computes_from_there() {
    let setting = Setting { context: 1024, prefixes: 6, ..Setting::default() };
    rig(setting).with(|(engine, sequences), world| {
        let sequence = &mut sequences[0];
        let question = "Which birds live on the north shore of the lake in winter? ".repeat(6);
        engine.append_message(sequence, Role::System, "You answer in one sentence.").unwrap();
        engine.append_message(sequence, Role::User, &question).unwrap();
        engine.begin_answer(sequence).unwrap();
        answer(engine, world, sequence, 12);
        let end = engine.chat().stops[0];
        compute(engine, world, sequence);
        engine.accept(sequence, end).unwrap();
        let before = sequence.tokens().len();
        let mut ask = |last: &str| {
            engine.append_message(sequence, Role::User, last).unwrap();
            engine.begin_answer(sequence).unwrap();
            let (computed, logits) = compute(engine, world, sequence);
            assert_eq!(logits, alone(sequence.tokens()));
            let new = sequence.tokens().len() - before;
            engine.cut(sequence, before);
            (computed as usize, new)
        };
        ask("And in summer?");
        // The last token of the answer was sampled and not computed.
        let (computed, new) = ask("And which of them in summer?");
        assert_eq!(computed, new + 1);
    });
}

#[test]
fn what_two_began_with_is_computed_for_no_third() {
    let setting = Setting { context: 1024, prefixes: 8, ..Setting::default() };
    // Where nothing marks an end, within a block and at its border, longer and shorter than a batch.
    for common in [100, 7 * KV_BLOCK, 333] {
        rig(setting).with(|(engine, sequences), world| {
            let sequence = &mut sequences[0];
            let text = text();
            let mut ask = |from: usize| {
                let prompt = [&text[..common], &text[from..from + 21]].concat();
                engine.append(sequence, &prompt).unwrap();
                let (computed, logits) = compute(engine, world, sequence);
                assert_eq!(logits, alone(&prompt));
                engine.reset(sequence);
                computed
            };
            assert_eq!(ask(1000), common as u64 + 21);
            ask(1100);
            assert_eq!([ask(1200), ask(1300)], [21, 21]);
        });
    }
}

#[test]
fn one_instruction_is_computed_once_for_ten_visitors() {
    let text = text();
    let prompts: Vec<Vec<u32>> =
        (0..10).map(|n| [&text[..500], &text[900 + n * 50..][..40]].concat()).collect();
    for at_once in [true, false] {
        let setting =
            Setting { context: 640, conversations: 10, prefixes: 16, ..Setting::default() };
        rig(setting).with(|(engine, sequences), world| {
            for (sequence, prompt) in sequences.iter_mut().zip(&prompts) {
                engine.append(sequence, prompt).unwrap();
                if !at_once {
                    compute(engine, world, sequence);
                }
            }
            let mut all: Vec<_> = sequences.iter_mut().collect();
            while all.iter().any(|sequence| !sequence.pending().is_empty()) {
                let advance = engine.advance(world, &mut all).unwrap();
                assert!(advance.rows > 0 && advance.refused.is_none());
            }
            let computed = engine.stats().prompt.tokens;
            // Where only the first was there, nobody knew where others would differ: it is remembered
            // every 128 tokens.
            let most = if at_once { 500 + 10 * 40 } else { 500 + 10 * 40 + 9 * 128 };
            assert!(computed <= most, "{computed} tokens");
            for (sequence, prompt) in all.into_iter().zip(&prompts) {
                let id = engine.append(sequence, &text[..1]).map(|()| sequence.tokens().to_vec());
                let (_, logits) = compute(engine, world, sequence);
                assert!(logits == alone(&id.unwrap()), "after {}", prompt.len());
            }
        });
    }
}

#[test]
fn what_is_known_gives_way_to_conversations() {
    let setting = Setting { context: 512, conversations: 2, prefixes: 20, ..Setting::default() };
    rig(setting).with(|(engine, sequences), world| {
        let [first, second] = sequences else { panic!("two sequences") };
        let (text, free) = (text(), engine.free_blocks());
        // Beginnings that have nothing in common take all blocks.
        for from in 0..20 {
            engine.append(first, &text[from * 61..][..120]).unwrap();
            compute(engine, world, first);
            engine.reset(first);
        }
        assert!(engine.free_blocks() < 2, "{}", engine.free_blocks());
        for (sequence, from) in [(&mut *first, 700), (&mut *second, 1300)] {
            engine.append(sequence, &text[from..][..512]).unwrap();
            assert_eq!(compute(engine, world, sequence).1, alone(&text[from..][..512]));
        }
        assert_eq!(engine.free_blocks(), 0);
        engine.reset(first);
        engine.reset(second);
        engine.forget();
        assert_eq!(engine.free_blocks(), free);
    });
}

#[test]
fn what_many_begin_with_stays_while_others_come_and_go() {
    let setting = Setting { context: 256, conversations: 3, prefixes: 4, ..Setting::default() };
    rig(setting).with(|(engine, sequences), world| {
        let (text, sequence) = (text(), &mut sequences[0]);
        let instruction = &text[..2 * KV_BLOCK];
        for visitor in 0..30 {
            engine.append(sequence, instruction).unwrap();
            engine.append(sequence, &[visitor % 7 + 20, visitor]).unwrap();
            let (computed, _) = compute(engine, world, sequence);
            assert!(visitor == 0 || computed <= 3, "visitor {visitor}: {computed}");
            engine.reset(sequence);
            // Somebody who is never seen again.
            let start = 200 + 53 * visitor as usize;
            engine.append(sequence, &text[start % 1800..][..150]).unwrap();
            compute(engine, world, sequence);
            engine.reset(sequence);
        }
    });
}
