//! Guesses of what an answer goes on with, checked by the model in the same batch as its last token.
//!
//! A guess can change no word: each of its rows is sampled as if it were the only one, and it counts
//! as far as it says what was sampled. It costs the rows that did not count, pages that only they
//! wanted included, so how long guesses are, and whether there are any, follows from what they cost
//! and how often they were right.

use crate::seams::Micros;

/// Guesses the next tokens of a sequence.
pub trait Drafter {
    /// Writes what may come after `tokens` to the front of `draft`.
    fn draft(&mut self, tokens: &[u32], draft: &mut [u32]) -> Guess;
}

/// What a drafter wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct Guess {
    /// How many tokens.
    pub len: usize,
    /// How sure it is, from 0 to [`Guess::LEVELS`] - 1; how often each level is right is learned. At
    /// [`Guess::CERTAIN`] nothing else can come.
    pub level: usize,
}

impl Guess {
    /// Levels of trust.
    pub const LEVELS: usize = 3;
    /// The level of tokens that a mask leaves no choice of: whatever a row costs, one that is needed
    /// anyway costs less in this step than in one of its own.
    pub const CERTAIN: usize = Self::LEVELS;
}

/// Guesses that a sequence says again what it has said: after the longest run of its last tokens that
/// was there before, of equal ones the latest, the same tokens come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Repeats;

impl Repeats {
    /// Shortest run of tokens that says anything.
    const LEAST: usize = 3;
    /// Longer runs say no more.
    const MOST: usize = 16;
}

impl Drafter for Repeats {
    fn draft(&mut self, tokens: &[u32], draft: &mut [u32]) -> Guess {
        let [earlier @ .., _] = tokens else { return Guess::default() };
        let (mut longest, mut after) = (Self::LEAST - 1, 0);
        for end in (Self::LEAST..=earlier.len()).rev() {
            let run = earlier[..end].iter().rev().zip(tokens.iter().rev());
            let run = run.take(Self::MOST).take_while(|(a, b)| a == b).count();
            if run > longest {
                (longest, after) = (run, end);
            }
            if longest == Self::MOST {
                break;
            }
        }
        if after == 0 {
            return Guess::default();
        }
        // A repetition shorter than the draft goes on with itself.
        for index in 0..draft.len() {
            let at = after + index;
            draft[index] = tokens.get(at).copied().unwrap_or_else(|| draft[at - tokens.len()]);
        }
        let level = match longest {
            ..6 => 0,
            6..Self::MOST => 1,
            _ => 2,
        };
        Guess { len: draft.len(), level }
    }
}

/// How often the guesses for a sequence were right of late.
#[derive(Debug, Clone, Copy)]
pub struct Trust {
    /// For each level tokens that were right, and all that were compared.
    counts: [[f32; 2]; Guess::LEVELS],
    /// Tokens of the answer to wait before the next guess of a level that did not pay.
    pause: [u32; Guess::LEVELS],
    /// How long the last such pause was.
    paused: [u32; Guess::LEVELS],
}

impl Trust {
    /// A comparison counts half after so many more.
    const HALF_LIFE: f32 = 16.0;
    /// As if so many tokens of so many had been right before the first.
    const FIRST: [[f32; 2]; Guess::LEVELS] = [[1.0, 2.0], [1.5, 2.0], [2.7, 3.0]];
    /// Tokens of the first pause, and of the longest.
    const PAUSES: [u32; 2] = [32, 1024];

    /// Nothing was guessed yet.
    pub const fn new() -> Self {
        let [pause, paused] = [[0; Guess::LEVELS]; 2];
        Self { counts: Self::FIRST, pause, paused }
    }

    /// The share of a level's tokens that are right.
    fn chance(&self, level: usize) -> f32 {
        let [right, all] = self.counts[level];
        right / all
    }

    /// A token of a guess was compared with what was sampled.
    pub fn compared(&mut self, level: usize, right: bool) {
        let keep = libm::exp2f(-1.0 / Self::HALF_LIFE);
        let Some([hits, all]) = self.counts.get_mut(level) else { return };
        *hits = *hits * keep + f32::from(u8::from(right));
        *all = *all * keep + 1.0;
    }

    /// A token of the answer came: pauses get shorter.
    pub fn token(&mut self) {
        self.pause.iter_mut().for_each(|pause| *pause = pause.saturating_sub(1));
    }

    /// The length, up to `most`, of a guess of `level` that gives the most tokens for their time.
    pub fn length(&mut self, level: usize, most: usize, costs: &Costs) -> usize {
        match self.pause.get(level) {
            None => return most,
            Some(0) => {}
            Some(_) => return 0,
        }
        let chance = self.chance(level);
        let pace = |tokens: f32, len: usize| tokens / costs.of(len);
        let (mut best, mut best_pace) = (0, pace(1.0, 0));
        let (mut tokens, mut likely) = (1.0, 1.0);
        for len in 1..=most {
            likely *= chance;
            tokens += likely;
            if pace(tokens, len) > best_pace {
                (best, best_pace) = (len, pace(tokens, len));
            }
        }
        if best > 0 {
            self.paused[level] = 0;
        } else {
            // Times change, and so do texts: it is tried again later, as if for the first time.
            let [first, longest] = Self::PAUSES;
            self.paused[level] = (2 * self.paused[level]).clamp(first, longest);
            self.pause[level] = self.paused[level];
            self.counts[level] = Self::FIRST[level];
        }
        best
    }
}

impl Default for Trust {
    fn default() -> Self {
        Self::new()
    }
}

/// What a step with guesses costs here and now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Costs {
    /// Time of a step without guesses, and what each row of a guess adds; 0 where unknown.
    plain: f32,
    row: f32,
}

impl Costs {
    /// How much the last step counts.
    const NEW: f32 = 0.125;
    /// What a row adds where nothing is known, as a share of a step: what reading other experts for
    /// each row takes when all are in RAM.
    const FIRST_ROW: f32 = 0.45;

    /// A step whose guess had `rows` rows took so long.
    pub fn step(&mut self, rows: usize, time: Micros) {
        let time = time as f32;
        let mean =
            |old: f32, new: f32| if old == 0.0 { new } else { old + (new - old) * Self::NEW };
        if rows == 0 {
            self.plain = mean(self.plain, time);
        } else if self.plain > 0.0 {
            self.row = mean(self.row, ((time - self.plain) / rows as f32).max(1.0));
        }
    }

    /// Time of a step with a guess of `rows` rows, as far as it is known in which unit.
    fn of(&self, rows: usize) -> f32 {
        let plain = if self.plain > 0.0 { self.plain } else { 1.0 };
        let row = if self.row > 0.0 { self.row } else { plain * Self::FIRST_ROW };
        plain + row * rows as f32
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// The guess after some tokens.
    fn guess(tokens: &[u32], most: usize) -> Vec<u32> {
        let mut draft = std::vec![0; most];
        let len = Repeats.draft(tokens, &mut draft).len;
        draft.truncate(len);
        draft
    }

    #[test]
    fn what_followed_the_longest_latest_run_comes_again() {
        let text = [9, 1, 2, 3, 4, 5, 8, 2, 3, 4, 6, 7, 1, 2, 3, 4];
        assert_eq!(guess(&text, 3), [5, 8, 2]);
        assert_eq!(guess(&[1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 2), [5, 1]);
        // Two tokens say nothing, and nor does the end itself.
        assert_eq!(guess(&[2, 3, 4, 2, 3], 3), []);
        assert_eq!(guess(&[], 3), []);
        assert_eq!(guess(&[1], 3), []);
    }

    #[test]
    fn a_repetition_goes_on_with_itself() {
        assert_eq!(guess(&[7, 8, 7, 8, 7, 8], 5), [7, 8, 7, 8, 7]);
        assert_eq!(guess(&[5, 5, 5, 5], 4), [5, 5, 5, 5]);
    }

    proptest! {
        #[test]
        fn equals_the_definition(tokens in prop::collection::vec(0..4_u32, 0..60)) {
            let len = tokens.len();
            let run = |end: usize| {
                (1..=end.min(Repeats::MOST))
                    .take_while(|n| tokens[end - n] == tokens[len - n])
                    .count()
            };
            let best = (1..len).rev().map(|end| (run(end), end)).fold((0, 0), |best, next| {
                if next.0 > best.0 { next } else { best }
            });
            let expected: Vec<u32> =
                if best.0 < Repeats::LEAST { Vec::new() } else { tokens[best.1..][..1].to_vec() };
            prop_assert_eq!(guess(&tokens, 1), expected);
        }
    }

    /// What is guessed for 400 tokens that are right as `right` says, and cost so much.
    fn lengths(right: impl Fn(u32) -> bool, row: Micros) -> Vec<usize> {
        let (mut trust, mut costs) = (Trust::new(), Costs::default());
        costs.step(0, 100);
        let step = |token| {
            let len = trust.length(0, 8, &costs);
            costs.step(len, 100 + row * len as Micros);
            let _ = (0..len)
                .take_while(|_| {
                    let right = right(token);
                    trust.compared(0, right);
                    right
                })
                .count();
            trust.token();
            len
        };
        (0..400).map(step).collect()
    }

    #[test]
    fn what_is_certain_is_guessed_whole_whatever_it_costs() {
        let (mut trust, mut costs) = (Trust::new(), Costs::default());
        costs.step(0, 100);
        costs.step(1, 1000);
        for _ in 0..100 {
            assert_eq!(trust.length(0, 8, &costs), 0);
            assert_eq!(trust.length(Guess::CERTAIN, 8, &costs), 8);
            // An answer that ends within it says nothing about others.
            trust.compared(Guess::CERTAIN, false);
        }
    }

    #[test]
    fn guesses_grow_where_they_are_right_and_stop_where_they_are_not() {
        assert!(lengths(|_| true, 40)[50..].iter().all(|&len| len == 8));
        let wrong = lengths(|_| false, 40);
        assert!(wrong.iter().filter(|&&len| len > 0).count() < 40, "{wrong:?}");
        // A row as dear as a step never pays, however right it is.
        assert!(lengths(|_| true, 120)[50..].iter().filter(|&&len| len > 0).count() < 40);
        // What stopped is tried again.
        let late = lengths(|token| token > 200, 40);
        assert!(late[350..].iter().all(|&len| len == 8), "{late:?}");
    }
}
