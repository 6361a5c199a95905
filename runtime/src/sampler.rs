//! Choosing the next token from its logits.
//!
//! The steps and their order are those of Hugging Face `transformers`, to which Liquid's advice
//! refers:
//!
//! 1. *repetition penalty* (Keskar et al. 2019, CTRL) on every token seen before: a positive logit
//!    is divided by it, a negative one multiplied;
//! 2. *temperature*: logits are divided by it; 0 means the best token, and nothing else is done;
//! 3. *top-k*: the k best stay, of equal ones those of lower id (`transformers` keeps all equals);
//! 4. *top-p* (Holtzman et al. 2020): of what is left the best stay, until their share of its
//!    probability reaches p; of equal ones those of lower id;
//! 5. *min-p* (Nguyen et al. 2024): what is at least p times as probable as the best stays.
//!
//! llama.cpp applies temperature last; with the advised settings its top-k and top-p are off and
//! min-p would be looser than in the order that the advice was made for.
//!
//! A logit that is not a number counts as impossible, positive infinity as the largest number. The
//! result depends on the settings, the seed and the logits alone: `exp` is libm's, sums are in
//! order of id.

use crate::image::Sampling;

/// Chooses tokens; keeps the state of the random numbers.
#[derive(Debug, Clone)]
pub struct Sampler {
    settings: Sampling,
    random: Xoshiro256,
}

impl Sampler {
    /// A sampler with settings as a checked manifest has them. Equal seeds, equal choices.
    pub fn new(settings: Sampling, seed: u64) -> Self {
        Self { settings, random: Xoshiro256::new(seed) }
    }

    /// The settings in use.
    pub fn settings(&self) -> &Sampling {
        &self.settings
    }

    /// Chooses a token and spoils `logits` (vocabulary,).
    ///
    /// `seen` says which tokens the sequence has so far, bit `id % 32` of word `id / 32`, see
    /// [`mark_seen`]; missing words are zeros. One random number is used up unless the temperature
    /// is 0. `None` when no token is possible: there are no logits or none is a number.
    ///
    /// Needs no memory; O(vocabulary).
    pub fn sample(&mut self, logits: &mut [f32], seen: &[u32]) -> Option<u32> {
        penalise(logits, seen, self.settings.repetition_penalty);
        let best = best(logits)?;
        if self.settings.temperature == 0.0 {
            return Some(best);
        }
        let point = self.random.unit();
        let top = finite(logits[best as usize]);
        for logit in logits.iter_mut() {
            // The difference first: a quotient could overflow.
            *logit = if logit.is_nan() {
                f32::NEG_INFINITY
            } else {
                (finite(*logit) - top) / self.settings.temperature
            };
        }
        keep_top_k(logits, self.settings.top_k);
        for weight in logits.iter_mut() {
            *weight = libm::expf(*weight);
        }
        keep_top_p(logits, self.settings.top_p);
        // The best has weight 1.
        for weight in logits.iter_mut().filter(|weight| **weight < self.settings.min_p) {
            *weight = 0.0;
        }
        Some(draw(logits, point).unwrap_or(best))
    }
}

/// Words of a set of seen tokens for a vocabulary of this size.
pub const fn seen_words(vocab: usize) -> usize {
    vocab.div_ceil(32)
}

/// Adds a token to a set of seen tokens; an id beyond the set is ignored.
pub fn mark_seen(seen: &mut [u32], id: u32) {
    if let Some(word) = seen.get_mut(id as usize / 32) {
        *word |= 1 << (id % 32);
    }
}

fn finite(logit: f32) -> f32 {
    logit.min(f32::MAX)
}

fn penalise(logits: &mut [f32], seen: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    for (chunk, &word) in logits.chunks_mut(32).zip(seen) {
        let mut bits = word;
        while bits != 0 {
            if let Some(logit) = chunk.get_mut(bits.trailing_zeros() as usize) {
                *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
            }
            bits &= bits - 1;
        }
    }
}

/// The first of the largest logits.
fn best(logits: &[f32]) -> Option<u32> {
    let mut best = None;
    let mut top = f32::NEG_INFINITY;
    for (id, &logit) in logits.iter().enumerate() {
        // False for what is not a number.
        if logit > top {
            (best, top) = (Some(id as u32), logit);
        }
    }
    best
}

/// Leaves the `k` best scores; 0 leaves all.
fn keep_top_k(scores: &mut [f32], k: u32) {
    if k > 0 && (k as usize) < scores.len() {
        keep_best(scores, k.into(), |_| 1.0, f32::NEG_INFINITY);
    }
}

/// Leaves the best weights until they are `p` of the sum of all.
fn keep_top_p(weights: &mut [f32], p: f32) {
    if p < 1.0 {
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        keep_best(weights, total * f64::from(p), f64::from, 0.0);
    }
}

/// Leaves the largest values, of equal ones the first, until what `measure` makes of them sums to
/// `wanted`; the others become `removed`. There is at least one value, and none is a NaN.
///
/// The smallest value that stays is found byte by byte of its [`key`], as in a radix sort from the
/// top: four histograms instead of a sorted copy.
fn keep_best(values: &mut [f32], wanted: f64, measure: impl Fn(f32) -> f64, removed: f32) {
    // The sum of what is known to be larger than the cut, and the cut's leading bytes.
    let mut ahead = 0.0;
    let mut cut = 0;
    for shift in [24, 16, 8, 0] {
        let mut sums = [0.0; 256];
        let mut lowest = 255;
        let known = u32::MAX.checked_shl(shift + 8).unwrap_or(0);
        for &value in values.iter().filter(|value| key(**value) & known == cut) {
            let byte = (key(value) >> shift & 255) as usize;
            sums[byte] += measure(value);
            lowest = lowest.min(byte);
        }
        // Rounding may leave the sum short of what is wanted: then all stay.
        let mut byte = 255;
        while byte > lowest && ahead + sums[byte] < wanted {
            ahead += sums[byte];
            byte -= 1;
        }
        cut |= (byte as u32) << shift;
    }
    for value in values {
        let key = key(*value);
        if key < cut || key == cut && ahead >= wanted {
            *value = removed;
        } else if key == cut {
            ahead += measure(*value);
        }
    }
}

/// Orders floats as integers. Zero has one key whatever its sign.
fn key(value: f32) -> u32 {
    let bits = (value + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

/// The token at `point` (0..1) of the weights laid end to end, in order of id.
fn draw(weights: &[f32], point: f64) -> Option<u32> {
    let total: f64 = weights.iter().copied().map(f64::from).sum();
    let target = point * total;
    let mut sum = 0.0;
    let mut last = None;
    for (id, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        sum += f64::from(weight);
        last = Some(id as u32);
        if sum > target {
            break;
        }
    }
    last
}

/// xoshiro256++ 1.0 (Blackman and Vigna, <https://prng.di.unimi.it>), seeded by SplitMix64.
#[derive(Debug, Clone)]
struct Xoshiro256([u64; 4]);

impl Xoshiro256 {
    fn new(seed: u64) -> Self {
        let mut state = seed;
        Self(core::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ z >> 31
        }))
    }

    fn next(&mut self) -> u64 {
        let [a, b, c, d] = self.0;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.0 = [a ^ d, b ^ c, c ^ b << 17, d.rotate_left(45)];
        result
    }

    /// Uniform in 0..1, 53 bits.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const PLAIN: Sampling =
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 };

    /// What may be chosen, by sorting: probabilities by id.
    fn by_definition(logits: &[f32], s: &Sampling) -> Vec<f64> {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let top = logits[order[0]];
        if s.top_k > 0 {
            order.truncate(s.top_k as usize);
        }
        let weight = |id: usize| f64::from(libm::expf((logits[id] - top) / s.temperature));
        let total: f64 = order.iter().map(|&id| weight(id)).sum();
        let mut sum = 0.0;
        order.retain(|&id| {
            let stays = sum < total * f64::from(s.top_p) || s.top_p >= 1.0;
            sum += weight(id);
            stays
        });
        order.retain(|&id| weight(id) >= f64::from(s.min_p));
        let total: f64 = order.iter().map(|&id| weight(id)).sum();
        let mut probabilities = std::vec![0.0; logits.len()];
        for id in order {
            probabilities[id] = weight(id) / total;
        }
        probabilities
    }

    /// Draws often and compares with the expected shares: chi-square, far beyond its mean.
    fn check_distribution(logits: &[f32], settings: Sampling) {
        const DRAWS: usize = 20_000;
        let expected = by_definition(logits, &settings);
        let mut counts = std::vec![0_usize; logits.len()];
        let mut sampler = Sampler::new(settings, 7);
        for _ in 0..DRAWS {
            counts[sampler.sample(&mut logits.to_vec(), &[]).unwrap() as usize] += 1;
        }
        let mut chi_square = 0.0;
        let mut free = 0.0;
        for (&count, &share) in counts.iter().zip(&expected) {
            let mean = share * DRAWS as f64;
            assert!(share > 0.0 || count == 0, "chosen but impossible: {settings:?}");
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
        for settings in [
            PLAIN,
            Sampling { temperature: 0.3, min_p: 0.15, ..PLAIN },
            Sampling { temperature: 2.0, top_k: 7, ..PLAIN },
            Sampling { top_p: 0.8, ..PLAIN },
            Sampling { temperature: 1.5, top_k: 20, top_p: 0.9, min_p: 0.05, ..PLAIN },
        ] {
            check_distribution(&logits, settings);
        }
    }

    #[test]
    fn random_numbers_are_xoshiro256_plus_plus() {
        // From the authors' C code with state 1, 2, 3, 4.
        let mut random = Xoshiro256([1, 2, 3, 4]);
        let expected = [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386];
        assert_eq!([(); 4].map(|()| random.next()), expected);
    }

    #[test]
    fn temperature_0_takes_the_best_and_the_first_of_equals() {
        let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..PLAIN }, 1);
        assert_eq!(sampler.sample(&mut [1.0, 3.0, -2.0, 3.0], &[]), Some(1));
        let penalty = Sampling { repetition_penalty: 2.0, ..*sampler.settings() };
        let mut sampler = Sampler::new(penalty, 1);
        let mut seen = [0; seen_words(4)];
        mark_seen(&mut seen, 1);
        mark_seen(&mut seen, 32);
        assert_eq!(sampler.sample(&mut [1.0, 3.0, -2.0, 3.0], &seen), Some(3));
        // Negative logits get worse, too.
        assert_eq!(sampler.sample(&mut [-1.5, -1.0, -3.0, -3.0], &seen), Some(0));
    }

    #[test]
    fn what_is_not_a_number_is_never_chosen() {
        for temperature in [0.0, 0.3] {
            let mut sampler =
                Sampler::new(Sampling { temperature, top_k: 2, top_p: 0.9, ..PLAIN }, 3);
            let nan = f32::NAN;
            assert_eq!(sampler.sample(&mut [], &[]), None);
            assert_eq!(sampler.sample(&mut [nan, f32::NEG_INFINITY], &[]), None);
            for _ in 0..50 {
                assert_eq!(sampler.sample(&mut [nan, -5.0, nan, nan], &[]), Some(1));
                assert_eq!(sampler.sample(&mut [0.0, f32::MAX, f32::MIN], &[]), Some(1));
                assert_eq!(sampler.sample(&mut [0.0, nan, f32::INFINITY], &[]), Some(2));
            }
        }
    }

    proptest! {
        #[test]
        fn steps_leave_what_they_should(
            // Few distinct values: many are equal.
            values in prop::collection::vec(-20..20_i8, 1..200),
            top_k in 0..50_u32,
            top_p in 0.01..1.0_f32,
        ) {
            let scores: Vec<f32> = values.iter().map(|&v| f32::from(v) / 4.0).collect();
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));

            let mut left = scores.clone();
            keep_top_k(&mut left, top_k);
            let k = if top_k == 0 { scores.len() } else { scores.len().min(top_k as usize) };
            for (place, &id) in order.iter().enumerate() {
                prop_assert_eq!(left[id] == scores[id], place < k);
            }

            let weights: Vec<f32> = scores.iter().map(|&score| libm::expf(score)).collect();
            let mut left = weights.clone();
            keep_top_p(&mut left, top_p);
            let kept = left.iter().filter(|weight| **weight > 0.0).count();
            prop_assert!(order[..kept].iter().all(|&id| left[id] == weights[id]));
            let sum = |ids: &[usize]| ids.iter().map(|&id| f64::from(weights[id])).sum::<f64>();
            let wanted = sum(&order) * f64::from(top_p);
            prop_assert!(kept > 0 && sum(&order[..kept]) >= wanted * (1.0 - 1e-12));
            prop_assert!(sum(&order[..kept - 1]) < wanted * (1.0 + 1e-12));
        }

        #[test]
        fn any_bits_choose_something_possible(
            bits in prop::collection::vec(any::<u32>(), 1..70),
            seen in prop::collection::vec(any::<u32>(), 0..4),
            temperature in prop::sample::select(std::vec![0.0, 1e-30, 0.3, 1.0, 1e30]),
            top_k in 0..9_u32,
            top_p in 0.01..=1.0_f32,
            min_p in 0.0..1.0_f32,
            seed in any::<u64>(),
        ) {
            let logits: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            let settings = Sampling { temperature, top_k, top_p, min_p, repetition_penalty: 1.05 };
            let choose = || Sampler::new(settings, seed).sample(&mut logits.clone(), &seen);
            match choose() {
                Some(id) => prop_assert!(logits[id as usize] > f32::NEG_INFINITY),
                None => prop_assert!(logits.iter().all(|x| x.is_nan() || *x < f32::MIN / 2.0)),
            }
            prop_assert_eq!(choose(), choose());
        }
    }
}
