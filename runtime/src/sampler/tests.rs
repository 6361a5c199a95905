//! Choices against their definitions.

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::image::Sampling;

const PLAIN: Sampling =
    Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 };

/// All that a choice depends on.
#[derive(Debug, Clone)]
struct Case {
    logits: Vec<f32>,
    settings: Settings,
    allowed: Option<Vec<u32>>,
    stops: Vec<u32>,
    biases: Vec<Bias>,
    prompt: Vec<u32>,
    answer: Vec<u32>,
}

impl Case {
    fn new(logits: &[f32], settings: impl Into<Settings>) -> Self {
        let (logits, settings) = (logits.to_vec(), settings.into());
        let [stops, prompt, answer] = [(); 3].map(|()| Vec::new());
        Self { logits, settings, allowed: None, stops, biases: Vec::new(), prompt, answer }
    }

    /// Calls `body` with what it needs to choose.
    fn with<R>(&self, body: impl FnOnce(&mut [f32], &mut [u32], &Situation<'_>) -> R) -> R {
        let set = |ids: &[u32]| {
            let mut set = std::vec![0; set_words(self.logits.len())];
            for &id in ids {
                insert(&mut set, id);
            }
            set
        };
        let allowed = self.allowed.as_deref().map(set);
        let seen = set(&[&self.prompt[..], &self.answer].concat());
        let situation = Situation {
            allowed: allowed.as_deref(),
            stops: &self.stops,
            biases: &self.biases,
            seen: &seen,
            answer: &self.answer,
        };
        body(&mut self.logits.clone(), &mut set(&[]), &situation)
    }

    fn choose(&self, sampler: &mut Sampler) -> Result<u32, NoChoice> {
        self.with(|logits, marks, situation| sampler.sample(logits, marks, situation))
    }

    /// The best token and the weights by id.
    fn weights(&self) -> Result<(u32, Vec<f32>), NoChoice> {
        let sampler = Sampler::new(self.settings, 0);
        self.with(|logits, marks, situation| {
            let best = sampler.change(logits, marks, situation)?;
            sampler.weigh(logits, best);
            Ok((best, logits.to_vec()))
        })
    }

    /// What may be chosen, by sorting: weights by id, that of the best is 1. Where a step cuts
    /// close to a value, rounding decides: then there are none.
    fn by_definition(&self) -> Result<Option<Vec<f64>>, NoChoice> {
        let s = &self.settings;
        let p = &s.sampling;
        let may_end = !s.ignore_eos && self.answer.len() >= s.min_tokens as usize;
        let may = |id: &u32| {
            self.allowed.as_ref().is_none_or(|allowed| allowed.contains(id))
                && (may_end || !self.stops.contains(id))
        };
        let logit = |id: u32| {
            let biases = self.biases.iter().filter(|bias| bias.id == id);
            let mut logit = f64::from(self.logits[id as usize])
                + biases.map(|bias| f64::from(bias.bias)).sum::<f64>();
            if self.prompt.contains(&id) || self.answer.contains(&id) {
                let penalty = f64::from(p.repetition_penalty);
                logit = if logit < 0.0 { logit * penalty } else { logit / penalty };
            }
            let count = self.answer.iter().filter(|&&said| said == id).count();
            let once = if count > 0 { f64::from(s.presence_penalty) } else { 0.0 };
            logit - count as f64 * f64::from(s.frequency_penalty) - once
        };
        let ids = 0..self.logits.len() as u32;
        let mut order: Vec<(u32, f64)> = ids.filter(may).map(|id| (id, logit(id))).collect();
        if order.is_empty() {
            return Err(NoChoice::Forbidden);
        }
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let top = order[0].1;
        let mut is_close = false;
        // Whether a value is below a cut.
        let mut is_below = |value: f64, cut: f64| {
            is_close |= (value - cut).abs() < 1e-4 * cut.abs();
            value < cut
        };
        if s.top_n_sigma > 0.0 {
            let count = order.len() as f64;
            let mean = order.iter().map(|token| token.1).sum::<f64>() / count;
            let squares = order.iter().map(|token| (token.1 - mean) * (token.1 - mean));
            let deviation = libm::sqrt(squares.sum::<f64>() / count);
            let cut = f64::from(s.top_n_sigma) * deviation;
            order.retain(|token| top == token.1 || !is_below(token.1 - top, -cut));
        }
        order
            .iter_mut()
            .for_each(|token| token.1 = libm::exp((token.1 - top) / f64::from(p.temperature)));
        if p.top_k > 0 {
            if let [.., last, first] = &order[..order.len().min(p.top_k as usize + 1)] {
                is_below(last.1, first.1);
            }
            order.truncate(p.top_k as usize);
        }
        if p.top_p < 1.0 {
            let total: f64 = order.iter().map(|token| token.1).sum();
            let mut sum = 0.0;
            order.retain(|token| {
                let stays = is_below(sum, total * f64::from(p.top_p));
                sum += token.1;
                stays
            });
        }
        order.retain(|token| !is_below(token.1, f64::from(p.min_p)));
        let mut weights = std::vec![0.0; self.logits.len()];
        order.iter().for_each(|&(id, weight)| weights[id as usize] = weight);
        Ok((!is_close).then_some(weights))
    }
}

/// Draws often and compares with the expected shares: chi-square, far beyond its mean.
fn check_distribution(case: &Case) {
    const DRAWS: usize = 20_000;
    let expected = case.by_definition().unwrap().unwrap();
    let total: f64 = expected.iter().sum();
    let mut counts = std::vec![0_usize; expected.len()];
    let mut sampler = Sampler::new(case.settings, 7);
    for _ in 0..DRAWS {
        counts[case.choose(&mut sampler).unwrap() as usize] += 1;
    }
    let mut chi_square = 0.0;
    let mut free = 0.0;
    for (&count, &share) in counts.iter().zip(&expected) {
        let mean = share / total * DRAWS as f64;
        assert!(share > 0.0 || count == 0, "chosen but impossible: {case:?}");
        if mean > 0.0 {
            chi_square += (count as f64 - mean) * (count as f64 - mean) / mean.max(1.0);
            free += 1.0;
        }
    }
    assert!(chi_square < free + 6.0 * libm::sqrt(2.0 * free), "{chi_square} for {free}");
}

#[test]
fn shares_are_as_defined() {
    let logits: Vec<f32> = (0..40).map(|i| libm::sinf(i as f32 * 1.7) * 3.0).collect();
    for sampling in [
        PLAIN,
        Sampling { temperature: 0.3, min_p: 0.15, ..PLAIN },
        Sampling { temperature: 2.0, top_k: 7, ..PLAIN },
        Sampling { top_p: 0.8, ..PLAIN },
        Sampling { temperature: 1.5, top_k: 20, top_p: 0.9, min_p: 0.05, ..PLAIN },
    ] {
        let mut case = Case::new(&logits, sampling);
        check_distribution(&case);
        case.settings.top_n_sigma = 1.1;
        case.settings.presence_penalty = 0.7;
        case.answer = std::vec![1, 5, 5, 9];
        case.allowed = Some((0..30).collect());
        check_distribution(&case);
    }
}

#[test]
fn temperature_0_takes_the_best_and_the_first_of_equals() {
    let greedy = Sampling { temperature: 0.0, ..PLAIN };
    let choose = |case: &Case| case.choose(&mut Sampler::new(case.settings, 1));
    assert_eq!(choose(&Case::new(&[1.0, 3.0, -2.0, 3.0], greedy)), Ok(1));
    let penalty = Sampling { repetition_penalty: 2.0, ..greedy };
    let prompt = std::vec![1, 32];
    let case = Case { prompt, ..Case::new(&[1.0, 3.0, -2.0, 3.0], penalty) };
    assert_eq!(choose(&case), Ok(3));
    // Negative logits get worse, too.
    let logits = std::vec![-1.5, -1.0, -3.0, -3.0];
    assert_eq!(choose(&Case { logits, ..case.clone() }), Ok(0));
    let allowed = Some(std::vec![0, 2]);
    assert_eq!(choose(&Case { allowed, ..case.clone() }), Ok(0));
    let biases = std::vec![Bias { id: 2, bias: 9.0 }, Bias { id: 77, bias: 99.0 }];
    assert_eq!(choose(&Case { biases, ..case }), Ok(2));
}

#[test]
fn an_answer_that_may_not_end_goes_on() {
    let greedy = Sampling { temperature: 0.0, ..PLAIN };
    let mut case = Case::new(&[5.0, 1.0, 4.0, 2.0], greedy);
    case.stops = std::vec![0, 2];
    let choose = |case: &Case| case.choose(&mut Sampler::new(case.settings, 1));
    assert_eq!(choose(&case), Ok(0));
    case.settings.min_tokens = 2;
    case.answer = std::vec![3];
    assert_eq!(choose(&case), Ok(3));
    case.answer = std::vec![3, 3];
    assert_eq!(choose(&case), Ok(0));
    case.settings.ignore_eos = true;
    assert_eq!(choose(&case), Ok(3));
    case.allowed = Some(std::vec![0]);
    assert_eq!(choose(&case), Err(NoChoice::Forbidden));
}

#[test]
fn what_is_not_a_number_is_never_chosen() {
    for temperature in [0.0, 0.3] {
        let sampling = Sampling { temperature, top_k: 2, top_p: 0.9, ..PLAIN };
        let settings = Settings { top_n_sigma: 2.0, ..sampling.into() };
        let mut sampler = Sampler::new(settings, 3);
        let mut choose = |logits: &[f32]| Case::new(logits, settings).choose(&mut sampler);
        let nan = f32::NAN;
        assert_eq!(choose(&[]), Err(NoChoice::NoNumbers));
        assert_eq!(choose(&[nan, f32::NEG_INFINITY]), Err(NoChoice::NoNumbers));
        for _ in 0..50 {
            assert_eq!(choose(&[nan, -5.0, nan, nan]), Ok(1));
            assert_eq!(choose(&[0.0, f32::MAX, f32::MIN]), Ok(1));
            assert_eq!(choose(&[0.0, nan, f32::INFINITY]), Ok(2));
        }
    }
}

#[test]
fn an_error_changes_neither_logits_nor_random_numbers() {
    let mut sampler = Sampler::new(PLAIN.into(), 5);
    let mut logits = [1.0, 2.0, 3.0];
    let forbidden = Situation { allowed: Some(&[]), ..Situation::default() };
    let seen = Situation { seen: &[0b111], ..forbidden };
    assert_eq!(sampler.sample(&mut logits, &mut [0], &seen), Err(NoChoice::Forbidden));
    assert_eq!(logits, [1.0, 2.0, 3.0]);
    let mut other = Sampler::new(PLAIN.into(), 5);
    let case = Case::new(&[0.0; 500], PLAIN);
    assert_eq!(case.choose(&mut sampler), case.choose(&mut other));
}

fn settings() -> impl Strategy<Value = Settings> {
    let or = |off: f32, on: core::ops::Range<f32>| prop_oneof![Just(off), on];
    let sampling = (
        prop::sample::select(std::vec![0.3, 1.0, 2.0]),
        0..30_u32,
        or(1.0, 0.01..1.0),
        or(0.0, 0.0..0.5),
        or(1.0, 0.5..2.0),
    );
    let sampling = sampling.prop_map(|(temperature, top_k, top_p, min_p, repetition_penalty)| {
        Sampling { temperature, top_k, top_p, min_p, repetition_penalty }
    });
    let more = (or(0.0, -2.0..2.0), or(0.0, -2.0..2.0), or(0.0, 0.1..3.0), any::<bool>(), 0..9_u32);
    (sampling, more).prop_map(|(sampling, (presence, frequency, sigma, ignore, least))| Settings {
        sampling,
        presence_penalty: presence,
        frequency_penalty: frequency,
        top_n_sigma: sigma,
        ignore_eos: ignore,
        min_tokens: least,
    })
}

fn case() -> impl Strategy<Value = Case> {
    let ids = |most| prop::collection::vec(0..80_u32, 0..most);
    let bias = (0..80_u32, -9.0..9.0_f32).prop_map(|(id, bias)| Bias { id, bias });
    (
        prop::collection::vec(-8.0..8.0_f32, 1..80),
        settings(),
        prop::option::of(ids(60)),
        ids(3),
        prop::collection::vec(bias, 0..5),
        ids(20),
        ids(20),
    )
        .prop_map(|(logits, settings, allowed, stops, biases, prompt, answer)| Case {
            logits,
            settings,
            allowed,
            stops,
            biases,
            prompt,
            answer,
        })
}

proptest! {
    #[test]
    fn weights_are_as_defined(case in case()) {
        match (case.weights(), case.by_definition()) {
            (Err(error), Err(expected)) => prop_assert_eq!(error, expected),
            (Ok((best, weights)), Ok(Some(expected))) => {
                prop_assert_eq!(weights[best as usize], 1.0);
                for (weight, expected) in weights.iter().zip(&expected) {
                    let error = (f64::from(*weight) - expected).abs();
                    prop_assert!(error <= 1e-4 * expected, "{weight} for {expected}");
                }
                let greedy = Sampling { temperature: 0.0, ..case.settings.sampling };
                let settings = Settings { sampling: greedy, ..case.settings };
                let choice = case.choose(&mut Sampler::new(settings, 0));
                prop_assert_eq!(choice, Ok(best));
            }
            // Too close to say.
            (Ok(_), Ok(None)) => {}
            (ours, expected) => prop_assert!(false, "{ours:?} for {expected:?}"),
        }
    }

    #[test]
    fn any_bits_choose_something_possible(
        bits in prop::collection::vec(any::<u32>(), 1..70),
        seen in prop::collection::vec(any::<u32>(), 0..4),
        allowed in prop::option::of(prop::collection::vec(any::<u32>(), 0..4)),
        answer in prop::collection::vec(0..80_u32, 0..9),
        temperature in prop::sample::select(std::vec![0.0, 1e-30, 0.3, 1.0, 1e30]),
        top_k in 0..9_u32,
        top_p in 0.01..=1.0_f32,
        min_p in 0.0..1.0_f32,
        top_n_sigma in 0.0..3.0_f32,
        seed in any::<u64>(),
    ) {
        let logits: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let sampling = Sampling { temperature, top_k, top_p, min_p, repetition_penalty: 1.05 };
        let settings = Settings { top_n_sigma, presence_penalty: 1.0, ..sampling.into() };
        let allowed = allowed.as_deref();
        let biases = &[Bias { id: 3, bias: -50.0 }];
        let situation =
            Situation { allowed, stops: &[], biases, seen: &seen, answer: &answer };
        let choose =
            || Sampler::new(settings, seed).sample(&mut logits.clone(), &mut [0; 3], &situation);
        let possible = |id: &usize| logits[*id] > f32::NEG_INFINITY;
        let may = |id: &usize| allowed.is_none_or(|set| contains(set, *id as u32));
        let mut numbers = (0..logits.len()).filter(possible);
        match choose() {
            Ok(id) => prop_assert!(possible(&(id as usize)) && may(&(id as usize))),
            Err(NoChoice::Forbidden) => {
                prop_assert!(numbers.clone().next().is_some() && !numbers.any(|id| may(&id)));
            }
            Err(NoChoice::NoNumbers) => prop_assert!(numbers.next().is_none()),
        }
        prop_assert_eq!(choose(), choose());
    }
}
