//! What a choice costs beside a token's arithmetic: `cargo bench -p rill --bench sampler`.
//!
//! A vocabulary of 128k, as large models have it; the advised settings unless the name says more.

use divan::Bencher;
use rill::engine::Ask;
use rill::image::Sampling;
use rill::sampler::{Logprobs, MOST_LOGPROBS, Sampler, Settings, Situation, set_words};

const VOCAB: usize = 128 << 10;

fn main() {
    divan::main();
}

/// Logits that spread as those of a model do: most of them far below the best.
fn logits() -> Vec<f32> {
    let noise = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32;
    (0..VOCAB as u32)
        .map(|i| (noise(i) + noise(!i / 3) + noise(i ^ 0x55aa)) * 12.0 - 25.0)
        .collect()
}

/// Measures a choice, with the copy of the logits that it spoils.
fn choose(bencher: Bencher<'_, '_>, settings: impl Into<Settings>, ask: Ask<'_>) {
    let logits = logits();
    let (mut copy, mut marks) = (logits.clone(), vec![0; set_words(VOCAB)]);
    let answer: Vec<u32> = (0..1000).map(|i| i * 77 % 5000).collect();
    let mut sampler = Sampler::new(settings.into(), 0);
    let situation = Situation { allowed: ask.allowed, answer: &answer, ..Situation::default() };
    bencher.bench_local(|| {
        copy.copy_from_slice(&logits);
        let id = sampler.sample(&mut copy, &mut marks, &situation).unwrap();
        ask.logprobs.map(|best| Logprobs::of(&logits, id, best))
    });
}

#[divan::bench]
fn greedy(bencher: Bencher<'_, '_>) {
    choose(bencher, Sampling { temperature: 0.0, ..Sampling::default() }, Ask::default());
}

#[divan::bench]
fn advised(bencher: Bencher<'_, '_>) {
    choose(bencher, Sampling::default(), Ask::default());
}

#[divan::bench]
fn top_k_and_top_p(bencher: Bencher<'_, '_>) {
    choose(bencher, Sampling { top_k: 50, top_p: 0.9, ..Sampling::default() }, Ask::default());
}

#[divan::bench]
fn greedy_log_probabilities(bencher: Bencher<'_, '_>) {
    let ask = Ask { logprobs: Some(MOST_LOGPROBS), ..Ask::default() };
    choose(bencher, Sampling { temperature: 0.0, ..Sampling::default() }, ask);
}

#[divan::bench]
fn counting_penalties(bencher: Bencher<'_, '_>) {
    let settings = Settings::from(Sampling::default());
    let settings = Settings { presence_penalty: 0.5, frequency_penalty: 0.5, ..settings };
    choose(bencher, settings, Ask::default());
}

#[divan::bench]
fn top_n_sigma(bencher: Bencher<'_, '_>) {
    let settings = Settings { top_n_sigma: 1.0, ..Sampling::default().into() };
    choose(bencher, settings, Ask::default());
}

/// All but a few are allowed, half of them, or a few.
#[divan::bench(args = [0xffff_fffe, 0x5555_5555, 1])]
fn mask(bencher: Bencher<'_, '_>, word: u32) {
    let allowed = vec![word; set_words(VOCAB)];
    let ask = Ask { allowed: Some(&allowed), ..Ask::default() };
    choose(bencher, Sampling { temperature: 0.0, ..Sampling::default() }, ask);
}
