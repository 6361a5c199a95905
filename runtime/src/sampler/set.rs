//! Sets of tokens, a bit each, and choosing within one.

use super::NoChoice;

/// Words of a set of tokens for a vocabulary of this size: token `id` is bit `id % 32` of word
/// `id / 32`. Words that are missing at the end are zeros.
pub const fn set_words(vocab: usize) -> usize {
    vocab.div_ceil(32)
}

/// Adds a token to a set, and says whether it is new there; an id beyond the set is ignored.
pub fn insert(set: &mut [u32], id: u32) -> bool {
    let Some(word) = set.get_mut(id as usize / 32) else { return false };
    let before = *word;
    *word |= 1 << (id % 32);
    *word != before
}

/// Whether a set has a token.
pub fn contains(set: &[u32], id: u32) -> bool {
    set.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
}

/// Says why no token can be chosen that is in `allowed`, where there is such a set, and not one of
/// `stops`, if that is so.
pub(super) fn check(
    logits: &[f32],
    allowed: Option<&[u32]>,
    stops: &[u32],
) -> Result<(), NoChoice> {
    // False for what is not a number.
    let is_possible = |&(_, logit): &(u32, f32)| logit > f32::NEG_INFINITY;
    let word = |index: usize| allowed.map_or(u32::MAX, |set| set.get(index).copied().unwrap_or(0));
    let chunks = logits.chunks(32).enumerate().filter(|(index, _)| word(*index) != 0);
    let mut left = chunks.flat_map(|(index, chunk)| {
        let ids = (32 * index as u32..).zip(chunk.iter().copied());
        ids.filter(move |(id, _)| word(index) >> (id % 32) & 1 == 1)
    });
    if left.any(|token| is_possible(&token) && !stops.contains(&token.0)) {
        Ok(())
    } else if (0..).zip(logits.iter().copied()).any(|token| is_possible(&token)) {
        Err(NoChoice::Forbidden)
    } else {
        Err(NoChoice::NoNumbers)
    }
}

/// Makes every token impossible that is not in `allowed`.
pub(super) fn keep_allowed(logits: &mut [f32], allowed: &[u32]) {
    let words = allowed.iter().copied().chain(core::iter::repeat(0));
    for (chunk, word) in logits.chunks_mut(32).zip(words) {
        if word == u32::MAX {
            continue;
        }
        for (bit, logit) in chunk.iter_mut().enumerate() {
            *logit = if word >> bit & 1 == 1 { *logit } else { f32::NEG_INFINITY };
        }
    }
}

/// Makes some tokens impossible.
pub(super) fn forbid(logits: &mut [f32], ids: &[u32]) {
    for &id in ids {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_set_has_what_was_added() {
        let mut set = [0; set_words(70)];
        assert!(insert(&mut set, 33) && !insert(&mut set, 33) && insert(&mut set, 69));
        assert!(!insert(&mut set, 96));
        let members: Vec<u32> = (0..200).filter(|&id| contains(&set, id)).collect();
        assert_eq!(members, [33, 69]);
    }

    proptest! {
        #[test]
        fn what_is_not_allowed_becomes_impossible(
            values in prop::collection::vec(
                prop_oneof![8 => -9.0..9.0_f32, 1 => Just(f32::NAN), 1 => Just(f32::NEG_INFINITY)],
                0..150,
            ),
            // Sparse, dense, and too short or too long.
            words in prop::collection::vec(
                prop_oneof![Just(0), Just(u32::MAX), any::<u32>(), any::<[u32; 3]>().prop_map(
                    |[a, b, c]| a & b & c
                )],
                0..6,
            ),
            stops in prop::collection::vec(0..160_u32, 0..3),
            is_masked in any::<bool>(),
        ) {
            let allowed = is_masked.then_some(&words[..]);
            let may = |id: usize| {
                let word = words.get(id / 32).copied().unwrap_or(0);
                (!is_masked || word >> (id % 32) & 1 == 1) && !stops.contains(&(id as u32))
            };
            let possible = |id: &usize| values[*id] > f32::NEG_INFINITY;
            let numbers = (0..values.len()).filter(possible).count();
            let choices = (0..values.len()).filter(possible).filter(|&id| may(id)).count();
            let expected = match (numbers, choices) {
                (0, _) => Err(NoChoice::NoNumbers),
                (_, 0) => Err(NoChoice::Forbidden),
                _ => Ok(()),
            };
            prop_assert_eq!(check(&values, allowed, &stops), expected);

            let mut left = values.clone();
            allowed.into_iter().for_each(|allowed| keep_allowed(&mut left, allowed));
            forbid(&mut left, &stops);
            for (id, (left, value)) in left.iter().zip(&values).enumerate() {
                let expected = if may(id) { *value } else { f32::NEG_INFINITY };
                prop_assert_eq!(left.to_bits(), expected.to_bits());
            }
        }
    }
}
