//! Whether reading ahead pays, found out while running.
//!
//! A guess costs nothing when the device would have been idle, and delays what is needed when it
//! would not. So tokens are timed with and without guesses, and the better way is kept for a while.
//! A cache that warms up and a text that changes its subject make later tokens faster or slower
//! whatever is done: short windows take turns, with, without, without, with, so that what changes
//! steadily adds the same to both sides. And a device that stalls now and then makes single tokens
//! slow: of each side only the middle half of its times counts. Only time depends on it, never a
//! result.

use crate::seams::Micros;

/// Tokens of a window.
const WINDOW: u32 = 8;
/// Tokens of each side in a trial: two windows.
const SIDE: usize = 16;
/// Tokens of a trial.
const TRIAL: u32 = 2 * SIDE as u32;
/// Tokens before the first trial, with guesses: a cold cache fills fastest in the beginning.
const FIRST: u32 = 16;
/// Tokens that the better way is kept for.
const KEEP: u32 = 512;

/// Decides about reading ahead, token by token.
#[derive(Debug, Clone, Copy)]
pub struct Lookahead {
    mode: Mode,
    /// Tokens of the mode so far.
    tokens: u32,
    /// Times of the trial's tokens without and with guesses.
    times: [[Micros; SIDE]; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The user said never.
    Never,
    /// For so many tokens.
    Keep(bool, u32),
    Trial,
}

impl Lookahead {
    /// On when it pays, or never.
    pub const fn new(allowed: bool) -> Self {
        let mode = if allowed { Mode::Keep(true, FIRST) } else { Mode::Never };
        Self { mode, tokens: 0, times: [[0; SIDE]; 2] }
    }

    /// Whether to guess now.
    pub const fn is_on(&self) -> bool {
        match self.mode {
            Mode::Never => false,
            Mode::Keep(on, _) => on,
            Mode::Trial => matches!(self.tokens / WINDOW, 0 | 3),
        }
    }

    /// Whether it is allowed at all.
    pub const fn is_allowed(&self) -> bool {
        !matches!(self.mode, Mode::Never)
    }

    /// One token took so long.
    pub fn token(&mut self, time: Micros) {
        if self.mode == Mode::Trial {
            // The first window of each side, then the second.
            let (window, within) = (self.tokens / WINDOW, self.tokens % WINDOW);
            let at = window / 2 * WINDOW + within;
            self.times[usize::from(self.is_on())][at as usize] = time;
        }
        self.tokens += 1;
        let next = match self.mode {
            Mode::Keep(_, tokens) if self.tokens == tokens => Mode::Trial,
            Mode::Trial if self.tokens == TRIAL => {
                let [without, with] = self.times.map(middle);
                Mode::Keep(with <= without, KEEP)
            }
            Mode::Never => return self.tokens = 0,
            _ => return,
        };
        *self = Self { mode: next, tokens: 0, ..*self };
    }
}

/// The sum of the middle half.
fn middle(mut times: [Micros; SIDE]) -> Micros {
    times.sort_unstable();
    times[SIDE / 4..SIDE * 3 / 4].iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After so many tokens; `cost` knows whether there are guesses, and the token's number.
    fn after(tokens: u32, cost: impl Fn(bool, u32) -> Micros) -> Lookahead {
        let mut lookahead = Lookahead::new(true);
        (0..tokens).for_each(|token| lookahead.token(cost(lookahead.is_on(), token)));
        lookahead
    }

    #[test]
    fn the_faster_way_is_kept_and_tried_again_later() {
        let decided = FIRST + TRIAL;
        assert!(after(decided, |on, _| if on { 5 } else { 9 }).is_on());
        assert!(!after(decided, |on, _| if on { 9 } else { 5 }).is_on());
        assert!(!after(decided + KEEP - 1, |on, _| if on { 9 } else { 5 }).is_on());
        assert!(after(decided + KEEP, |on, _| if on { 9 } else { 5 }).is_on());
        let mut never = Lookahead::new(false);
        (0..10_000).for_each(|_| never.token(1));
        assert!(!never.is_on() && !never.is_allowed());
    }

    #[test]
    fn a_device_that_stalls_now_and_then_does_not_decide() {
        let decided = FIRST + TRIAL;
        for better in [false, true] {
            let cost = |on, token| match token % 11 {
                0 if on == better => 900,
                _ if on == better => 8,
                _ => 10,
            };
            assert_eq!(after(decided, cost).is_on(), better);
        }
    }

    #[test]
    fn a_cache_that_warms_up_favours_neither_side() {
        let decided = FIRST + TRIAL;
        for better in [false, true] {
            let cost = |on, token| 10_000 - 100 * u64::from(token) - u64::from(on == better);
            assert_eq!(after(decided, cost).is_on(), better);
            let cost = |on, token| 10_000 + 100 * u64::from(token) - u64::from(on == better);
            assert_eq!(after(decided, cost).is_on(), better);
        }
    }
}
