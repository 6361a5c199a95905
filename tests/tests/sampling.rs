//! What a caller may ask of each choice: masks, log-probabilities, biases, tokens of its own, and
//! answers that do not end.

use rill::engine::Wanted;
use rill::engine::{Ask, Engine, Share, Step};
use rill::image::Sampling;
use rill::sampler::{Bias, Logprobs, MOST_BIASES, Settings, contains, insert, set_words};
use rill::seams::World;
use rill::sequence::{Sequence, SequenceError};
use rill_tests::kiosk;
use rill_tests::program::rill;
use rill_tests::reference::cases;
use rill_tests::rig::{Many, Rig, Setting};

const GREEDY: Sampling =
    Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 };
const WILD: Sampling = Sampling { temperature: 1.5, ..GREEDY };

/// Two conversations that choose as `settings` say, the first with a prompt that was computed.
fn rig(settings: impl Into<Settings>) -> Rig<Many> {
    let sampling = Some(settings.into());
    let setting = Setting { conversations: 2, sampling, ..Setting::default() };
    let mut rig = Rig::many(kiosk::default_image(), setting).unwrap();
    rig.with(|(engine, sequences), world| {
        engine.append(&mut sequences[0], &prompt()).unwrap();
        compute(engine, &mut sequences[0], world);
    });
    rig
}

fn prompt() -> Vec<u32> {
    cases().into_iter().map(|case| case.ids).find(|ids| ids.len() > 20).unwrap()
}

/// Takes what is pending through the model.
fn compute(
    engine: &mut Engine<'static>,
    sequence: &mut Sequence<'static>,
    world: &mut World<'_, 'static>,
) {
    while !sequence.pending().is_empty() {
        let tokens = sequence.pending().len().min(engine.batch());
        engine.forward(world, &mut [Share::new(sequence, tokens, Wanted::Last)]).unwrap();
    }
}

/// The set of all tokens but some.
fn all_but(vocab: u32, ids: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let mut set = vec![u32::MAX; set_words(vocab as usize)];
    ids.into_iter().for_each(|id| set[id as usize / 32] &= !(1 << (id % 32)));
    set
}

#[test]
fn a_mask_decides_and_choosing_changes_no_logits() {
    rig(GREEDY).with(|(engine, sequences), world| {
        let sequence = &mut sequences[0];
        let logits = engine.logits(world.parallel, sequence).unwrap().to_vec();
        let mut order: Vec<u32> = (0..engine.vocab()).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        // Again and again the best is forbidden.
        for (place, &best) in order.iter().take(20).enumerate() {
            let allowed = all_but(engine.vocab(), order[..place].iter().copied());
            let ask = Ask { allowed: Some(&allowed), ..Ask::default() };
            assert_eq!(engine.sample_as(world, sequence, &ask).unwrap().id, best);
        }
        assert_eq!(engine.sample(world, sequence), Ok(order[0]));
        assert!(engine.logits(world.parallel, sequence).unwrap() == logits);
    });
}

#[test]
fn random_choices_stay_within_the_mask() {
    rig(WILD).with(|(engine, sequences), world| {
        let sequence = &mut sequences[0];
        let mut allowed = vec![0; set_words(engine.vocab() as usize)];
        for &id in &[3, 31, 32, 400, engine.vocab() - 1] {
            insert(&mut allowed, id);
        }
        let ask = Ask { allowed: Some(&allowed), ..Ask::default() };
        for _ in 0..100 {
            let id = engine.sample_as(world, sequence, &ask).unwrap().id;
            assert!(contains(&allowed, id));
        }
    });
}

#[test]
fn a_mask_that_allows_nothing_is_an_error_and_changes_nothing() {
    let choices = |fails: bool| {
        rig(WILD).with(|(engine, sequences), world| {
            let sequence = &mut sequences[0];
            let choose = |engine: &mut Engine<'static>, sequence: &mut Sequence<'static>| {
                if fails {
                    let ask = Ask { allowed: Some(&[]), logprobs: Some(1) };
                    let error = engine.sample_as(world, sequence, &ask).unwrap_err();
                    assert_eq!(error, SequenceError::Forbidden);
                    assert!(error.to_string().contains("mask"), "{error}");
                }
                engine.sample(world, sequence).unwrap()
            };
            (0..20).map(|_| choose(engine, sequence)).collect::<Vec<_>>()
        })
    };
    assert_eq!(choices(true), choices(false));
}

#[test]
fn log_probabilities_are_the_models_own() {
    let settings = Settings { presence_penalty: 2.0, ..WILD.into() };
    rig(settings).with(|(engine, sequences), world| {
        let sequence = &mut sequences[0];
        let logits = engine.logits(world.parallel, sequence).unwrap().to_vec();
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let logprob = |id: u32| f64::from(logits[id as usize]) - sum.ln();
        let best = (0..engine.vocab()).max_by(|&a, &b| logprob(a).total_cmp(&logprob(b))).unwrap();
        // They know of no mask and no bias.
        let allowed = all_but(engine.vocab(), [best]);
        engine.set_biases(sequence, &[Bias { id: best, bias: -5.0 }]).unwrap();
        let ask = Ask { allowed: Some(&allowed), logprobs: Some(4) };
        for _ in 0..10 {
            let sample = engine.sample_as(world, sequence, &ask).unwrap();
            assert_ne!(sample.id, best);
            let logprobs = sample.logprobs.unwrap();
            assert!((f64::from(logprobs.chosen) - logprob(sample.id)).abs() < 1e-4);
            assert_eq!((logprobs.best.len(), logprobs.best[0].id), (4, best));
            for of in &logprobs.best {
                assert!((f64::from(of.logprob) - logprob(of.id)).abs() < 1e-4);
            }
            // The same can be had of a token of the caller's own.
            assert_eq!(Logprobs::of(&logits, sample.id, 4), logprobs);
        }
        assert_eq!(engine.sample_as(world, sequence, &Ask::default()).unwrap().logprobs, None);
    });
}

#[test]
fn biases_are_of_one_sequence_and_of_its_forks() {
    rig(GREEDY).with(|(engine, sequences), world| {
        let [one, other] = sequences else { panic!("two sequences") };
        let plain = engine.sample(world, one).unwrap();
        let wanted = (plain + 1) % engine.vocab();
        let biases = [Bias { id: wanted, bias: 60.0 }, Bias { id: wanted, bias: 40.0 }];
        engine.set_biases(one, &biases).unwrap();
        assert_eq!(engine.sample(world, one), Ok(wanted));
        engine.fork(one, other);
        engine.set_biases(one, &[]).unwrap();
        assert_eq!(engine.sample(world, one), Ok(plain));
        engine.uncompute_last(other);
        compute(engine, other, world);
        assert_eq!(engine.sample(world, other), Ok(wanted));

        let unknown = Bias { id: engine.vocab(), bias: 0.0 };
        let refused = engine.set_biases(other, &[unknown]);
        assert_eq!(refused, Err(SequenceError::Token(engine.vocab())));
        let many = [Bias { id: 0, bias: 1.0 }; MOST_BIASES + 1];
        assert_eq!(engine.set_biases(other, &many), Err(SequenceError::Biases));
        let infinite = Bias { id: 0, bias: f32::INFINITY };
        assert_eq!(engine.set_biases(other, &[infinite]), Err(SequenceError::Biases));
        assert_eq!(engine.sample(world, other), Ok(wanted), "what was refused changed nothing");
        assert_eq!(engine.set_biases(other, &many[1..]), Ok(()));
    });
}

#[test]
fn an_answer_is_what_was_accepted_since_the_prompt() {
    rig(GREEDY).with(|(engine, sequences), _| {
        let sequence = &mut sequences[0];
        assert!(sequence.answer().is_empty());
        for id in [5, 6, 5] {
            engine.accept(sequence, id).unwrap();
        }
        assert_eq!(sequence.answer(), [5, 6, 5]);
        engine.append_to_answer(sequence, "fox").unwrap();
        assert!(sequence.answer().len() > 3 && sequence.answer().starts_with(&[5, 6, 5]));
        engine.cut(sequence, prompt().len() + 2);
        engine.accept(sequence, 9).unwrap();
        assert_eq!(sequence.answer(), [5, 6, 9]);
        engine.append(sequence, &[7]).unwrap();
        assert!(sequence.answer().is_empty());
        engine.accept(sequence, 8).unwrap();
        assert_eq!(sequence.answer(), [8]);
        engine.reset(sequence);
        assert!(sequence.answer().is_empty());
    });
}

#[test]
fn penalties_count_the_answer_and_not_the_prompt() {
    let settings =
        Settings { presence_penalty: 2.0, frequency_penalty: 2.0, ..Settings::from(GREEDY) };
    rig(settings).with(|(engine, sequences), world| {
        let sequence = &mut sequences[0];
        let best = |logits: &[f32], answer: &[u32]| {
            let penalised = |id: u32| {
                let count = answer.iter().filter(|&&said| said == id).count() as f32;
                logits[id as usize] - 2.0 * count - 2.0 * count.min(1.0)
            };
            let ids = 0..logits.len() as u32;
            ids.rev().max_by(|&a, &b| penalised(a).total_cmp(&penalised(b))).unwrap()
        };
        let mut changed = 0;
        for _ in 0..60 {
            let logits = engine.logits(world.parallel, sequence).unwrap().to_vec();
            let expected = best(&logits, sequence.answer());
            changed += usize::from(expected != best(&logits, &[]));
            assert_eq!(engine.sample(world, sequence), Ok(expected));
            engine.accept(sequence, expected).unwrap();
            compute(engine, sequence, world);
        }
        assert!(changed > 0, "penalties changed something");
    });
}

#[test]
fn an_answer_ends_no_sooner_than_it_may() {
    /// Tokens of a greedy answer, with the one that ends it; at most 150.
    fn len(settings: Settings) -> usize {
        rig(settings).with(|(engine, sequences), world| {
            let sequence = &mut sequences[0];
            for len in 1..=150 {
                let id = engine.sample(world, sequence).unwrap();
                if let Step::End(_) = engine.accept(sequence, id).unwrap() {
                    return len;
                }
                compute(engine, sequence, world);
            }
            150
        })
    }
    let plain = len(GREEDY.into());
    assert!(plain < 120, "{plain}");
    let min_tokens = plain as u32 + 20;
    let longer = len(Settings { min_tokens, ..GREEDY.into() });
    assert!(longer > plain + 20, "{longer}");
    assert_eq!(len(Settings { min_tokens: plain as u32 - 1, ..GREEDY.into() }), plain);
    assert_eq!(len(Settings { ignore_eos: true, ..GREEDY.into() }), 150);

    // A mask that wants the end has no choice left.
    rig(Settings { min_tokens: 1, ..GREEDY.into() }).with(|(engine, sequences), world| {
        let sequence = &mut sequences[0];
        let mut allowed = vec![0; set_words(engine.vocab() as usize)];
        for &id in &engine.chat().stops {
            insert(&mut allowed, id);
        }
        let ask = Ask { allowed: Some(&allowed), ..Ask::default() };
        let refused = engine.sample_as(world, sequence, &ask);
        assert_eq!(refused, Err(SequenceError::Forbidden));
        engine.accept(sequence, 5).unwrap();
        compute(engine, sequence, world);
        assert!(engine.sample_as(world, sequence, &ask).is_ok());
    });
}

/// A prompt that the model answers at once.
const PROMPT: &str = "Tell me a story about a fox and a kite.";

#[test]
fn the_program_says_how_likely_each_token_was() {
    let args = ["run", "--greedy", "-n", "12", "--json", PROMPT];
    let run = |more: &[&str]| rill(&[&args[..], more].concat()).json();
    let plain = run(&[]);
    assert!(plain.get("logprobs").is_none());
    let likely = run(&["--logprobs", "3"]);
    assert_eq!(likely["text"], plain["text"]);
    let choices = likely["logprobs"].as_array().unwrap();
    assert_eq!(choices.len(), 12);
    let text: String = choices.iter().map(|choice| choice["token"].as_str().unwrap()).collect();
    assert_eq!(text, plain["text"].as_str().unwrap());
    for choice in choices {
        let top = choice["top"].as_array().unwrap();
        let logprobs: Vec<f64> = top.iter().map(|top| top["logprob"].as_f64().unwrap()).collect();
        assert!(logprobs.len() == 3 && logprobs.is_sorted_by(|a, b| a >= b), "{choice}");
        let probability: f64 = logprobs.iter().map(|logprob| logprob.exp()).sum();
        assert!(probability <= 1.0 + 1e-5, "{choice}");
        // The image advises a repetition penalty, so another than the best may be chosen.
        let chosen = choice["logprob"].as_f64().unwrap();
        assert!(chosen <= logprobs[0] && (chosen < logprobs[2] || logprobs.contains(&chosen)));
    }
    assert_eq!(run(&["--logprobs", "0"])["logprobs"][0]["top"], serde_json::json!([]));
}

#[test]
fn the_program_chooses_as_it_is_told() {
    let args = ["run", "--greedy", "--repeat-penalty", "1", "--json", "--logprobs", "0", PROMPT];
    let run = |more: &[&str]| rill(&[&args[..], more].concat());
    let ids = |more: &[&str]| -> Vec<u64> {
        let choices = run(more).json()["logprobs"].clone();
        choices.as_array().unwrap().iter().map(|choice| choice["id"].as_u64().unwrap()).collect()
    };
    let plain = ids(&[]);
    let most = (plain.len() + 10).to_string();
    assert_eq!(ids(&["--ignore-eos", "-n", &most]).len(), plain.len() + 10);
    let longer = ids(&["--min-tokens", &plain.len().to_string(), "-n", &most]);
    assert!(longer.len() > plain.len() && longer[..plain.len() - 1] == plain[..plain.len() - 1]);
    let banned = format!("{}=-100", plain[1]);
    assert!(!ids(&["--logit-bias", &banned]).contains(&plain[1]));
    let forced = ids(&["--logit-bias", "77=100", "--logit-bias", &banned, "-n", "3"]);
    assert_eq!(forced, [77, 77, 77]);
    let varied = ids(&["--logit-bias", "77=6", "--frequency-penalty", "2", "-n", "60"]);
    assert_ne!(varied, ids(&["--logit-bias", "77=6", "-n", "60"]));
    assert_ne!(ids(&["--presence-penalty", "2", "-n", "60"]), plain[..plain.len().min(60)]);

    run(&["--logit-bias", "999999=1"]).fails(1, &["999999", "vocabulary"]);
    let many: Vec<&str> = ["--logit-bias", "5=1"].repeat(301);
    run(&many).fails(1, &["at most 300 logit biases"]);
    // Wild choices, and those of them that are near the best.
    let wild = ["run", "--temp", "5", "--min-p", "0", "-n", "24", PROMPT];
    let near = |sigma| rill(&[&wild[..], &["--top-n-sigma", sigma]].concat()).ok();
    assert_eq!(near("0"), rill(&wild).ok());
    assert_ne!(near("0.5"), near("0"));
}
