//! Whether answers go on side by side or take turns: what costs each token less.
//!
//! Side by side, the answers of a step share what it reads and computes. Where not all experts are in RAM
//! and the answers want different ones, each drives out those of the others; then an answer that goes on
//! alone for a while finds what it read itself.

use core::mem::take;

use crate::seams::Micros;

/// Steps of a turn: so long does an answer wait for each of the others at most.
pub const TURN: u32 = 32;

/// Of an answer: when it had its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    /// Steps that are left of it.
    left: u32,
    /// Number of the last batch that was its, or after which it came; 0 before that.
    last: u64,
}

impl Turn {
    /// It waits for one, after batch number `batch`.
    pub fn wait(&mut self, batch: u64) {
        if self.last == 0 {
            self.last = batch;
        }
    }

    /// A step of it, which is batch number `batch`.
    pub fn step(&mut self, batch: u64) {
        self.left = if self.left == 0 { TURN } else { self.left } - 1;
        self.last = batch;
    }
}

/// Whose turn it is: of who has begun one and has not ended it, else of who waits longest.
pub fn next<'t>(turns: impl Iterator<Item = (usize, &'t Turn)>) -> Option<usize> {
    turns.min_by_key(|(_, turn)| (turn.left == 0, turn.last)).map(|(number, _)| number)
}

/// Which way costs less. Both are measured over as many tokens as a turn of each answer has, the other way
/// again from time to time: less and less often while it does not pay.
#[derive(Debug, Clone)]
pub struct Turns {
    is_taking: bool,
    /// Time of a token side by side and in turns; infinite where it is not known.
    costs: [f32; 2],
    /// What was measured since the last comparison: tokens, time, whether anything was read.
    tokens: u64,
    time: Micros,
    has_read: bool,
    /// Tokens of all answers until then.
    seen: u64,
    /// Comparisons until the other way is tried.
    rest: u32,
    /// How many there are from one trial to the next.
    patience: u32,
    /// Whether the way that is gone is a trial.
    is_trial: bool,
}

impl Turns {
    /// Turns, which make texts come in bursts, must be so much cheaper.
    const GAIN: f32 = 0.9;
    /// A trial that costs so much more ends after a quarter.
    const HOPELESS: f32 = 1.25;
    const PATIENCE: u32 = 4;
    const MOST_PATIENCE: u32 = 64;

    /// Side by side until more is known.
    pub const fn new() -> Self {
        Self {
            is_taking: false,
            costs: [f32::INFINITY; 2],
            tokens: 0,
            time: 0,
            has_read: false,
            seen: 0,
            rest: 1,
            patience: Self::PATIENCE,
            is_trial: false,
        }
    }

    /// Whether answers take turns.
    pub const fn is_taking(&self) -> bool {
        self.is_taking
    }

    /// A step was computed that nobody's prompt was in, while so many answers had something to compute;
    /// `tokens` is how many tokens all answers have had so far, `has_read` whether pages were read.
    pub fn step(&mut self, answers: usize, tokens: u64, time: Micros, has_read: bool) {
        let new = tokens.saturating_sub(self.seen);
        self.seen = tokens;
        if answers < 2 {
            return;
        }
        self.tokens += new;
        self.time += time;
        self.has_read |= has_read;
        let enough = u64::from(TURN) * answers as u64;
        let is_tried = self.is_trial && 4 * self.tokens >= enough;
        let other = self.costs[usize::from(!self.is_taking)];
        if self.tokens >= enough || is_tried && self.cost() > other * Self::HOPELESS {
            self.compare();
        }
    }

    /// Time of a token since the last comparison.
    fn cost(&self) -> f32 {
        self.time as f32 / self.tokens as f32
    }

    /// A step with rows of prompts was computed: it says nothing.
    pub fn skip(&mut self, tokens: u64) {
        self.seen = tokens;
    }

    fn compare(&mut self) {
        let cost = self.cost();
        (self.tokens, self.time) = (0, 0);
        if !take(&mut self.has_read) {
            // All are in RAM: nobody drives out anything.
            *self = Self { seen: self.seen, ..Self::new() };
            return;
        }
        self.costs[usize::from(self.is_taking)] = cost;
        let is_better = self.costs[1] < self.costs[0] * Self::GAIN;
        let was_trial = take(&mut self.is_trial);
        if is_better != self.is_taking {
            self.is_taking = is_better;
            let more = if was_trial { 2 * self.patience } else { Self::PATIENCE };
            self.patience = more.min(Self::MOST_PATIENCE);
            self.rest = self.patience;
        } else if was_trial {
            self.patience = Self::PATIENCE;
            self.rest = self.patience;
        } else {
            self.rest = self.rest.saturating_sub(1);
            if self.rest == 0 {
                self.is_taking = !self.is_taking;
                self.is_trial = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {

    use proptest::prelude::*;

    use super::*;

    /// Goes on for so many times as many tokens as are compared, of `answers`, where a token takes so long
    /// side by side and in turns; returns the tokens that came each way.
    fn go_on(
        turns: &mut Turns,
        answers: usize,
        times: [Micros; 2],
        has_read: bool,
        count: u64,
    ) -> [u64; 2] {
        let mut came = [0; 2];
        while came[0] + came[1] < count * u64::from(TURN) * answers as u64 {
            let way = usize::from(turns.is_taking());
            let tokens = if turns.is_taking() { 1 } else { answers as u64 };
            came[way] += tokens;
            turns.step(answers, turns.seen + tokens, times[way] * tokens, has_read);
        }
        came
    }

    proptest! {
        #[test]
        fn the_cheaper_way_is_gone_but_for_a_few_trials(
            answers in 2..9_usize,
            together in 10..1000_u64,
            percent in prop_oneof![20..85_u64, 95..300_u64],
            before in prop::collection::vec((10..1000_u64, 10..1000_u64, 1..80_u64), 0..3),
        ) {
            let mut turns = Turns::new();
            for (one, other, count) in before {
                go_on(&mut turns, answers, [one, other], true, count);
            }
            // Small numbers would be rounded too far.
            let times = [together * 100, together * percent];
            let wrong = usize::from(percent > 90);
            let share = |came: [u64; 2]| came[wrong] as f64 / (came[0] + came[1]) as f64;
            // It was something else before: then the next trial tells.
            let first = share(go_on(&mut turns, answers, times, true, 200));
            prop_assert!(first < 0.35, "{first}");
            let later = share(go_on(&mut turns, answers, times, true, 300));
            prop_assert!(later < 0.03, "{later}");
        }

        #[test]
        fn whoever_waits_has_the_next_turn_but_those_of_others(
            comes in prop::collection::vec((0..6_usize, 1..200_u32), 1..60),
        ) {
            // Answers and how many steps each still needs; steps since its last one.
            let mut places = [None::<(Turn, u32, u32)>; 6];
            let mut batch = 0;
            for (place, steps) in comes {
                let (turn, ..) = places[place].get_or_insert((Turn::default(), steps, 0));
                turn.wait(batch);
                for _ in 0..20 {
                    batch += 1;
                    let all = places.iter().enumerate();
                    let turns = all.filter_map(|(n, place)| Some((n, &place.as_ref()?.0)));
                    let Some(number) = next(turns) else { break };
                    for (n, place) in places.iter_mut().enumerate() {
                        let Some((turn, left, waited)) = place else { continue };
                        if n == number {
                            turn.step(batch);
                            (*left, *waited) = (*left - 1, 0);
                        } else {
                            *waited += 1;
                            prop_assert!(*waited <= 5 * TURN);
                        }
                    }
                    places.iter_mut().for_each(|place| *place = place.filter(|(_, left, _)| *left > 0));
                }
            }
        }
    }

    #[test]
    fn where_nothing_is_read_nobody_takes_turns() {
        let mut turns = Turns::new();
        assert_eq!(go_on(&mut turns, 4, [100, 1], false, 50)[1], 0);
        go_on(&mut turns, 4, [100, 1], true, 3);
        assert!(turns.is_taking());
        go_on(&mut turns, 4, [100, 1], false, 1);
        assert!(!turns.is_taking());
    }

    #[test]
    fn one_answer_and_prompts_say_nothing() {
        let mut turns = Turns::new();
        for tokens in 0..10_000 {
            turns.step(1, tokens, 1000, true);
            turns.skip(tokens);
        }
        assert_eq!(turns.time, 0);
    }
}
