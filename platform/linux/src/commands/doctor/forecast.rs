//! Tokens per second, between what is certain and what is possible.

use std::path::Path;

use rill::plan::Use;
use rill::size::Size;
use rill_linux::engine::{Budget, kept_uses};
use rill_linux::model::Model;
use serde::Serialize;

/// What a token needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Token {
    /// Bytes of weights that every token uses.
    pub resident: u64,
    /// Bytes of the experts that it uses.
    pub experts: u64,
    /// Shares of its experts that are in RAM: the least and the most to be expected.
    pub hits: [f64; 2],
    /// The share that follows from the uses that earlier runs found out.
    pub learned: Option<f64>,
}

impl Token {
    /// Of a model in a budget; `kept` is what the names of files begin with that are kept for it.
    pub fn of(model: &Model, budget: &Budget, kept: &Path) -> Self {
        let plan = &budget.plan;
        let rates = kept_uses(model.identity(), kept, plan.pages);
        // Over the longest memory: what the last phrase wanted says little about the next text.
        let rates = rates.map(|rates| rates.iter().map(|rate| rate[2]).collect::<Vec<_>>());
        let top_k = model.image.manifest.shape.top_k;
        Self {
            resident: plan.bytes(Use::Resident),
            experts: u64::from(plan.cycle) * plan.page_len,
            hits: hits(plan.slots, plan.pages, plan.cycle, top_k),
            learned: rates.and_then(|rates| learned(&rates, plan.slots)),
        }
    }
}

/// Least and most of the shares of a token's experts that `slots` of `pages` hold, where it uses
/// `cycle` of them, `top_k` at a time: each expert as likely as every other, with `top_k` slots taken
/// by those at work; and the slots full of what is wanted.
fn hits(slots: u32, pages: u32, cycle: u32, top_k: u32) -> [f64; 2] {
    if slots >= pages {
        return [1.0; 2];
    }
    let [slots, pages, cycle, top_k] = [slots, pages, cycle, top_k].map(f64::from);
    [(slots - top_k).max(0.0) / pages, (slots / cycle).min(1.0)]
}

/// The share of uses that go to the `slots` most used experts.
fn learned(rates: &[f32], slots: u32) -> Option<f64> {
    let mut rates: Vec<f64> = rates.iter().copied().map(f64::from).collect();
    rates.sort_by(|a, b| b.total_cmp(a));
    let all: f64 = rates.iter().sum();
    let kept: f64 = rates.iter().take(slots as usize).sum();
    (all > 0.0).then(|| kept / all)
}

/// What to expect.
#[derive(Debug, PartialEq, Serialize)]
pub struct Forecast {
    pub resident_bytes_per_token: u64,
    pub expert_bytes_per_token: u64,
    /// Bytes of weights a second that the cores were measured to multiply.
    pub weight_bytes_per_second: f64,
    pub hit_rate_least: f64,
    pub hit_rate_most: f64,
    /// From the uses that earlier runs found out.
    pub hit_rate_learned: Option<f64>,
    /// `None` where experts are read from a device of unknown speed.
    pub tokens_per_second_least: Option<f64>,
    pub tokens_per_second_most: Option<f64>,
    pub tokens_per_second_learned: Option<f64>,
    /// What most of the time goes to where it is slowest.
    pub bound_by: Option<&'static str>,
}

impl Forecast {
    /// Of a token, with `weights` bytes a second of weights and, where it is known, `flash` of reads.
    pub fn new(token: &Token, weights: f64, flash: Option<f64>) -> Self {
        let computing = (token.resident + token.experts) as f64 / weights;
        let reading = |hits: f64| {
            let missing = (1.0 - hits) * token.experts as f64;
            if missing == 0.0 { Some(0.0) } else { flash.map(|flash| missing / flash) }
        };
        let [least, most] = token.hits;
        // Never less than what is certain: other texts may use other experts.
        let learned = token.learned.map(|hits| hits.clamp(least, most));
        let slow = reading(least);
        Self {
            resident_bytes_per_token: token.resident,
            expert_bytes_per_token: token.experts,
            weight_bytes_per_second: weights,
            hit_rate_least: least,
            hit_rate_most: most,
            hit_rate_learned: learned,
            tokens_per_second_least: slow.map(|reading| 1.0 / (computing + reading)),
            tokens_per_second_most: reading(most).map(|reading| 1.0 / computing.max(reading)),
            tokens_per_second_learned: learned
                .and_then(reading)
                .map(|reading| 1.0 / (computing + reading)),
            bound_by: slow.map(|slow| if slow > computing { "flash" } else { "cores and RAM" }),
        }
    }

    /// As text.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let [resident, experts] =
            [self.resident_bytes_per_token, self.expert_bytes_per_token].map(Size);
        let weights = Size(self.weight_bytes_per_second as u64);
        let mut lines = vec![
            ("a token uses", format!("{resident} of weights in RAM, and {experts} of experts")),
            ("cores", format!("{weights} of weights a second, measured with 4 bits")),
        ];
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        if self.hit_rate_least < 1.0 {
            let [least, most] = [self.hit_rate_least, self.hit_rate_most].map(percent);
            let learned = match self.hit_rate_learned {
                Some(share) => format!("; {} by what earlier runs used", percent(share)),
                None => String::new(),
            };
            lines.push(("experts in RAM", format!("{least} to {most} of those wanted{learned}")));
        }
        let speed = match [self.tokens_per_second_least, self.tokens_per_second_most] {
            [Some(least), Some(most)] => {
                let learned = match self.tokens_per_second_learned {
                    Some(speed) => format!(", {speed:.2} by what earlier runs used"),
                    None => String::new(),
                };
                let bound = self.bound_by.unwrap_or_default();
                format!("{least:.2} to {most:.2}{learned}; bound by {bound} (see --help)")
            }
            _ => "not known: experts are read from a device of unknown speed".into(),
        };
        lines.push(("tokens per second", speed));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_lie_between_even_use_and_full_slots() {
        assert_eq!(hits(704, 704, 88, 4), [1.0; 2]);
        assert_eq!(hits(356, 704, 88, 4), [0.5, 1.0]);
        assert_eq!(hits(44, 704, 88, 4), [40.0 / 704.0, 0.5]);
        assert_eq!(hits(3, 704, 88, 4)[0], 0.0);
    }

    #[test]
    fn the_most_used_experts_are_kept() {
        assert_eq!(learned(&[0.25, 1.0, 0.5, 0.25], 2), Some(0.75));
        assert_eq!(learned(&[0.0; 4], 2), None);
    }

    #[test]
    fn times_add_up_at_worst_and_overlap_at_best() {
        let token = Token { resident: 300, experts: 700, hits: [0.0, 0.5], learned: Some(0.25) };
        let forecast = Forecast::new(&token, 1000.0, Some(350.0));
        // Computing takes a second; reading two at worst, one at best.
        assert_eq!(forecast.tokens_per_second_least, Some(1.0 / 3.0));
        assert_eq!(forecast.tokens_per_second_most, Some(1.0));
        assert_eq!(forecast.tokens_per_second_learned, Some(1.0 / 2.5));
        assert_eq!(forecast.bound_by, Some("flash"));
        assert_eq!(Forecast::new(&token, 1000.0, None).tokens_per_second_least, None);
        let all = Token { hits: [1.0; 2], learned: None, ..token };
        assert_eq!(Forecast::new(&all, 1000.0, None).tokens_per_second_least, Some(1.0));
    }
}
