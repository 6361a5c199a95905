//! Whether reading ahead pays, found out while running.
//!
//! A guess costs nothing when the device would have been idle, and delays what is needed when it
//! would not. So tokens are timed with and without guesses in turn, and the better way is kept for
//! a while. Only time depends on it, never a result.

use crate::seams::Micros;

/// Tokens of each trial.
const TRIAL: u32 = 24;
/// Tokens that the better way is kept for.
const KEEP: u32 = 1024;

/// Decides about reading ahead, token by token.
#[derive(Debug, Clone, Copy)]
pub struct Lookahead {
    phase: Phase,
    left: u32,
    spent: Micros,
    /// Time of the trial with guesses.
    with: Micros,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The user said never.
    Never,
    TrialWith,
    TrialWithout,
    Keep(bool),
}

impl Lookahead {
    /// On when it pays, or never.
    pub const fn new(allowed: bool) -> Self {
        let phase = if allowed { Phase::TrialWith } else { Phase::Never };
        Self { phase, left: TRIAL, spent: 0, with: 0 }
    }

    /// Whether to guess now.
    pub const fn is_on(&self) -> bool {
        matches!(self.phase, Phase::TrialWith | Phase::Keep(true))
    }

    /// Whether it is allowed at all.
    pub const fn is_allowed(&self) -> bool {
        !matches!(self.phase, Phase::Never)
    }

    /// One token took so long.
    pub fn token(&mut self, time: Micros) {
        self.spent += time;
        self.left -= u32::from(self.phase != Phase::Never);
        if self.left > 0 {
            return;
        }
        (self.phase, self.left) = match self.phase {
            Phase::Never => (Phase::Never, 1),
            Phase::TrialWith => {
                self.with = self.spent;
                (Phase::TrialWithout, TRIAL)
            }
            Phase::TrialWithout => (Phase::Keep(self.with < self.spent), KEEP),
            Phase::Keep(_) => (Phase::TrialWith, TRIAL),
        };
        self.spent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(tokens: u32, cost: impl Fn(bool) -> Micros) -> Lookahead {
        let mut lookahead = Lookahead::new(true);
        (0..tokens).for_each(|_| lookahead.token(cost(lookahead.is_on())));
        lookahead
    }

    #[test]
    fn the_faster_way_is_kept_and_tried_again_later() {
        assert!(after(2 * TRIAL, |on| if on { 5 } else { 9 }).is_on());
        assert!(!after(2 * TRIAL, |on| if on { 9 } else { 5 }).is_on());
        assert!(after(2 * TRIAL + KEEP, |on| if on { 9 } else { 5 }).is_on());
        let mut never = Lookahead::new(false);
        (0..10_000).for_each(|_| never.token(1));
        assert!(!never.is_on() && !never.is_allowed());
    }
}
