//! Log-probabilities of tokens.

use heapless::Vec;

use super::finite;

/// Most of the best tokens whose log-probabilities can be had: as many as OpenAI's API gives.
pub const MOST_LOGPROBS: usize = 20;

/// A token and its log-probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logprob {
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability; negative infinity for a token that is impossible.
    pub logprob: f32,
}

/// Natural logarithms of probabilities in the model's own distribution: the softmax of its logits,
/// before masks, biases, penalties and temperature. So do OpenAI and, unless told otherwise, vLLM.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// That of the token that was chosen.
    pub chosen: f32,
    /// Those of the best tokens, the best first, of equal ones that of lower id.
    pub best: Vec<Logprob, MOST_LOGPROBS>,
}

impl Logprobs {
    /// Of the token `id` and of the `count` best, at most [`MOST_LOGPROBS`] of them, by `logits`
    /// (vocabulary,).
    ///
    /// Needs no memory; two passes over the vocabulary.
    pub fn of(logits: &[f32], id: u32, count: usize) -> Self {
        // The best is needed, asked for or not.
        let count = count.min(MOST_LOGPROBS);
        let mut best = best(logits, count.max(1));
        let top = best.first().map_or(0.0, |best| best.logprob);
        let below = |logit: f32| f64::from(finite(logit)) - f64::from(top);
        let possible = logits.iter().copied().filter(|logit| *logit > f32::NEG_INFINITY);
        let sum: f64 = possible.map(|logit| f64::from(libm::expf(below(logit) as f32))).sum();
        let log_sum = libm::log(sum);
        let logprob = |logit: f32| (below(logit) - log_sum) as f32;
        let chosen = logits.get(id as usize).copied().filter(|logit| *logit > f32::NEG_INFINITY);
        best.truncate(count);
        best.iter_mut().for_each(|best| best.logprob = logprob(best.logprob));
        Self { chosen: chosen.map_or(f32::NEG_INFINITY, logprob), best }
    }
}

/// The `count` best possible tokens with their logits.
fn best(logits: &[f32], count: usize) -> Vec<Logprob, MOST_LOGPROBS> {
    let mut best = Vec::<Logprob, MOST_LOGPROBS>::new();
    // What a token must have more of, to be among them.
    let mut least = f32::NEG_INFINITY;
    for (id, &logit) in (0..).zip(logits) {
        let logit = finite(logit);
        if logit > least {
            if best.len() == count {
                best.pop();
            }
            let place = best.partition_point(|better| better.logprob >= logit);
            // There is room, and the place is in it.
            let _ = best.insert(place, Logprob { id, logprob: logit });
            if best.len() == count {
                least = best[count - 1].logprob;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_the_definition(
            values in prop::collection::vec(
                prop_oneof![
                    // Few distinct values: many are equal.
                    8 => (-20..20_i8).prop_map(|value| f32::from(value) / 2.0),
                    1 => Just(f32::NAN),
                    1 => Just(f32::NEG_INFINITY),
                ],
                0..90,
            ),
            id in 0..100_u32,
            count in 0..30_usize,
        ) {
            let is_possible = |id: &usize| values[*id] > f32::NEG_INFINITY;
            let mut order: std::vec::Vec<usize> = (0..values.len()).filter(is_possible).collect();
            order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
            let sum: f64 = order.iter().map(|&id| f64::from(values[id]).exp()).sum();
            let logprob = |id: usize| f64::from(values[id]) - sum.ln();
            let is_near = |ours: f32, id: usize| (f64::from(ours) - logprob(id)).abs() < 1e-5;

            let ours = Logprobs::of(&values, id, count);
            prop_assert_eq!(ours.best.len(), order.len().min(count).min(MOST_LOGPROBS));
            for (ours, &id) in ours.best.iter().zip(&order) {
                prop_assert_eq!(ours.id as usize, id);
                prop_assert!(is_near(ours.logprob, id));
            }
            match order.contains(&(id as usize)) {
                true => prop_assert!(is_near(ours.chosen, id as usize)),
                false => prop_assert_eq!(ours.chosen, f32::NEG_INFINITY),
            }
        }
    }

    #[test]
    fn extremes_are_no_accident() {
        let ours = Logprobs::of(&[0.0, f32::INFINITY, f32::NAN, f32::MIN], 1, 20);
        assert_eq!(ours.chosen, 0.0);
        let ids: std::vec::Vec<u32> = ours.best.iter().map(|best| best.id).collect();
        assert_eq!(ids, [1, 0, 3]);
    }
}
