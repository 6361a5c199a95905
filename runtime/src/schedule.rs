//! Who has how many rows in the next batch.

use crate::model::batch::MAX_RUNS;

/// What a sequence has to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Tokens.
    pub tokens: usize,
    /// They are an answer's, for which somebody waits: all of them or none.
    pub is_answer: bool,
}

/// Rows of prompts in a batch that answers are in, at least: what other answers wait for.
const BESIDE_ANSWERS: usize = 64;

/// The rows of a batch of at most `most` for each of `wishes`, which are in order of arrival.
///
/// Answers come first, each whole. Prompts share what is left: an equal part each, and what one does
/// not need goes to the others, the earliest first. Beside answers prompts take at most as many rows as
/// answers do, or 64: so the time until an answer's next token has a bound, however long the prompts
/// of others are.
pub fn rows(wishes: &[Wish], most: usize) -> heapless::Vec<usize, MAX_RUNS> {
    let mut rows = heapless::Vec::new();
    let mut left = most;
    let mut answers = 0;
    for wish in wishes.iter().take(MAX_RUNS) {
        let takes = if wish.is_answer && wish.tokens <= left { wish.tokens } else { 0 };
        left -= takes;
        answers += takes;
        // There is room: no more were taken.
        let _ = rows.push(takes);
    }
    if answers > 0 {
        left = left.min(BESIDE_ANSWERS.max(answers));
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
        let wish = prop_oneof![
            (0..3_usize).prop_map(|tokens| Wish { tokens, is_answer: true }),
            (0..700_usize).prop_map(|tokens| Wish { tokens, is_answer: false }),
        ];
        prop::collection::vec(wish, 0..80)
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
        fn of_two_prompts_that_want_more_the_earlier_has_as_much_or_one_more(
            wishes in wishes(),
            most in 1..600_usize,
        ) {
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
        let wishes = [prompt, answer, answer].map(|(tokens, is_answer)| Wish { tokens, is_answer });
        assert_eq!(rows(&wishes, 512)[..], [64, 1, 1]);
        assert_eq!(rows(&wishes[..1], 512)[..], [512]);
        assert_eq!(rows(&wishes, 1)[..], [0, 1, 0]);
    }
}
