//! Who has how many rows in the next batch.

use crate::model::batch::MAX_RUNS;

/// What a sequence has to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Tokens.
    pub tokens: usize,
    /// They are an answer's, for which somebody waits: all of them or none.
    pub is_answer: bool,
    /// Number of the last batch that it had rows in; 0 before the first.
    pub served: u64,
}

/// Rows of prompts in a batch that answers are in, at least: what other answers wait for.
const BESIDE_ANSWERS: usize = 64;

/// The rows of a batch of at most `most` for each of `wishes`, which are in order of arrival.
///
/// Answers come first, each whole, and a row of each prompt; where there are not even that many, those who
/// wait longest. Prompts share what is left: an equal part each, and what one does not need goes to the
/// others, the earliest first. Beside answers prompts take at most as many rows as answers do, or 64: so the
/// time until an answer's next token has a bound, however long the prompts of others are.
pub fn rows(wishes: &[Wish], most: usize) -> heapless::Vec<usize, MAX_RUNS> {
    let wishes = &wishes[..wishes.len().min(MAX_RUNS)];
    let mut rows: heapless::Vec<_, MAX_RUNS> = wishes.iter().map(|_| 0).collect();
    let mut order: heapless::Vec<_, MAX_RUNS> = (0..wishes.len()).collect();
    order.sort_unstable_by_key(|&index| (wishes[index].served, !wishes[index].is_answer, index));
    let mut left = most;
    let mut answers = 0;
    for index in order {
        let Wish { tokens, is_answer, .. } = wishes[index];
        let least = if is_answer { tokens } else { tokens.min(1) };
        if least <= left {
            rows[index] = least;
            left -= least;
            answers += if is_answer { least } else { 0 };
        }
    }
    if answers > 0 {
        let prompts = most - left - answers;
        left = left.min(BESIDE_ANSWERS.max(answers).saturating_sub(prompts));
    }
    loop {
        let is_short = |(wish, rows): (&Wish, &usize)| !wish.is_answer && *rows < wish.tokens;
        let short = wishes.iter().zip(&rows).filter(|pair| is_short(*pair)).count();
        if short == 0 || left == 0 {
            return rows;
        }
        let share = (left / short).max(1);
        for (wish, rows) in wishes.iter().zip(&mut rows) {
            if !wish.is_answer && left > 0 {
                let more = share.min(wish.tokens - *rows).min(left);
                *rows += more;
                left -= more;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn wishes() -> impl Strategy<Value = Vec<Wish>> {
        let wish = |is_answer| {
            let most = if is_answer { 3_usize } else { 700 };
            (0..most, 0..5_u64).prop_map(move |(tokens, served)| Wish { tokens, is_answer, served })
        };
        prop::collection::vec(prop_oneof![wish(true), wish(false)], 0..80)
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_is_there_and_nothing_is_left_that_somebody_could_use(
            wishes in wishes(),
            most in 1..600_usize,
        ) {
            let rows = rows(&wishes, most);
            prop_assert_eq!(rows.len(), wishes.len().min(MAX_RUNS));
            prop_assert!(rows.iter().sum::<usize>() <= most);
            let served = || wishes.iter().zip(&rows);
            prop_assert!(served().all(|(wish, rows)| *rows <= wish.tokens));
            prop_assert!(served().all(|(wish, rows)| !wish.is_answer || [0, wish.tokens].contains(rows)));
            let answers: usize = served().filter(|(w, _)| w.is_answer).map(|(_, rows)| rows).sum();
            let prompts: usize = served().filter(|(w, _)| !w.is_answer).map(|(_, rows)| rows).sum();
            let wanted: usize =
                served().filter(|(w, _)| !w.is_answer).map(|(wish, _)| wish.tokens).sum();
            let room = most - answers;
            let room = if answers > 0 { room.min(answers.max(BESIDE_ANSWERS)) } else { room };
            prop_assert_eq!(prompts, wanted.min(room));
        }

        #[test]
        fn nobody_waits_longer_than_each_of_the_others_once(
            are_answers in prop::collection::vec(any::<bool>(), 1..MAX_RUNS),
            most in 1..20_usize,
        ) {
            let wish = |is_answer| Wish { tokens: if is_answer { 1 } else { 5000 }, is_answer, served: 0 };
            let mut wishes: Vec<Wish> = are_answers.into_iter().map(wish).collect();
            let bound = wishes.len().div_ceil(most) as u64;
            for batch in 1..100 {
                let rows = rows(&wishes, most);
                for (wish, rows) in wishes.iter_mut().zip(rows) {
                    if rows > 0 {
                        wish.served = batch;
                    }
                    prop_assert!(batch - wish.served < bound, "{bound}");
                }
            }
        }

        #[test]
        fn of_two_prompts_that_want_more_the_earlier_has_as_much_or_one_more(
            mut wishes in wishes(),
            most in 1..600_usize,
        ) {
            wishes.iter_mut().for_each(|wish| wish.served = 0);
            let rows = rows(&wishes, most);
            let short: Vec<usize> = wishes
                .iter()
                .zip(&rows)
                .filter(|(wish, rows)| !wish.is_answer && **rows < wish.tokens)
                .map(|(_, rows)| *rows)
                .collect();
            prop_assert!(short.windows(2).all(|two| two[0] == two[1] || two[0] == two[1] + 1));
        }
    }

    #[test]
    fn a_long_prompt_leaves_answers_their_rows() {
        let [answer, prompt] = [(1, true), (5000, false)];
        let wishes = [prompt, answer, answer];
        let wishes = wishes.map(|(tokens, is_answer)| Wish { tokens, is_answer, served: 0 });
        assert_eq!(rows(&wishes, 512)[..], [64, 1, 1]);
        assert_eq!(rows(&wishes[..1], 512)[..], [512]);
        assert_eq!(rows(&wishes, 1)[..], [0, 1, 0]);
    }
}
