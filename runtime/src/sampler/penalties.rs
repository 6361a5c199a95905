//! What makes some tokens less probable, or more. What is possible stays so.

use super::set::insert;
use super::settings::Bias;

/// Adds to each logit its biases.
pub(super) fn add_biases(logits: &mut [f32], biases: &[Bias]) {
    for &Bias { id, bias } in biases {
        change(logits, id, |logit| logit + bias);
    }
}

/// Divides the logits of the tokens in the set `seen`, or multiplies them where they are negative.
pub(super) fn penalise_seen(logits: &mut [f32], seen: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    for (index, &word) in (0..).zip(seen) {
        let mut bits = word;
        while bits != 0 {
            change(logits, 32 * index + bits.trailing_zeros(), |logit| {
                if logit < 0.0 { logit * penalty } else { logit / penalty }
            });
            bits &= bits - 1;
        }
    }
}

/// Takes from the logit of each token of the answer `presence`, and `frequency` once for each time it
/// is there. `marks` is room for a set of tokens.
///
/// Counts are not kept: a pass over the answer costs less than keeping them right while tokens come
/// and go, and needs one set for all sequences.
pub(super) fn penalise_said(
    logits: &mut [f32],
    answer: &[u32],
    presence: f32,
    frequency: f32,
    marks: &mut [u32],
) {
    if presence == 0.0 && frequency == 0.0 {
        return;
    }
    marks.fill(0);
    for &id in answer {
        let penalty = if insert(marks, id) { presence + frequency } else { frequency };
        change(logits, id, |logit| logit - penalty);
    }
}

/// Changes a logit, where it is possible, and leaves it so.
fn change(logits: &mut [f32], id: u32, to: impl FnOnce(f32) -> f32) {
    if let Some(logit) = logits.get_mut(id as usize)
        && *logit > f32::NEG_INFINITY
    {
        *logit = to(*logit).max(f32::MIN);
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::sampler::set::set_words;

    proptest! {
        #[test]
        fn logits_lose_what_openai_says(
            logits in prop::collection::vec(-30.0..30.0_f32, 1..80),
            answer in prop::collection::vec(0..90_u32, 0..200),
            (presence, frequency) in (-2.0..2.0_f32, -2.0..2.0_f32),
        ) {
            let mut left = logits.clone();
            let mut marks = std::vec![u32::MAX; set_words(logits.len())];
            penalise_said(&mut left, &answer, presence, frequency, &mut marks);
            for (id, (left, logit)) in left.iter().zip(&logits).enumerate() {
                let count = answer.iter().filter(|&&said| said == id as u32).count();
                let [presence, frequency] = [presence, frequency].map(f64::from);
                let once = if count > 0 { presence } else { 0.0 };
                let expected = f64::from(*logit) - count as f64 * frequency - once;
                let error = (f64::from(*left) - expected).abs();
                prop_assert!(error <= 1e-5 * (1.0 + count as f64), "{left} for {expected}");
                prop_assert!(count > 0 || left == logit);
            }
        }

        #[test]
        fn biases_are_added(
            logits in prop::collection::vec(-30.0..30.0_f32, 1..80),
            biases in prop::collection::vec((0..90_u32, -100.0..100.0_f32), 0..20),
        ) {
            let list: Vec<Bias> = biases.iter().map(|&(id, bias)| Bias { id, bias }).collect();
            let mut biased = logits.clone();
            add_biases(&mut biased, &list);
            for (id, (biased, logit)) in biased.iter().zip(&logits).enumerate() {
                let of = biases.iter().filter(|bias| bias.0 == id as u32);
                prop_assert_eq!(*biased, of.fold(*logit, |sum, bias| sum + bias.1));
            }
        }
    }

    #[test]
    fn seen_tokens_get_worse_whatever_their_sign() {
        let mut logits = [3.0, 3.0, -1.0, -1.0];
        penalise_said(&mut logits, &[], 1.0, 1.0, &mut [0]);
        penalise_seen(&mut logits, &[0b1010], 2.0);
        assert_eq!(logits, [3.0, 1.5, -1.0, -2.0]);
    }

    #[test]
    fn what_is_impossible_stays_so_and_what_is_possible_too() {
        let mut logits = [f32::NEG_INFINITY, f32::MIN, f32::NAN, f32::INFINITY];
        let biases = [0, 1, 2, 3, 4].map(|id| Bias { id, bias: f32::MIN });
        add_biases(&mut logits, &biases);
        penalise_seen(&mut logits, &[u32::MAX], 1e30);
        penalise_said(&mut logits, &[0, 1, 2, 3, 4], f32::MAX, f32::MAX, &mut [0]);
        assert_eq!(logits[..2], [f32::NEG_INFINITY, f32::MIN]);
        assert!(logits[2].is_nan() && logits[3] > f32::NEG_INFINITY);
    }
}
