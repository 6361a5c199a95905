//! What two models say of the same tokens, compared.

use rill_pack::softmax::Softmax;
use serde::Serialize;

/// What is compared after one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Number of the text.
    pub text: usize,
    /// Number of the token in its text.
    pub position: usize,
    /// KL divergence from the reference, in nats.
    pub kl: f64,
    /// Whether both have the same first choice.
    pub same: bool,
    /// `-ln p` of the token that follows, by the image and by the reference; `None` at the end of a
    /// text.
    pub losses: Option<[f64; 2]>,
}

/// Figures over some points.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figures {
    /// Tokens after which the two were compared.
    pub tokens: usize,
    /// Mean KL divergence, in nats.
    pub mean: f64,
    /// Its median.
    pub median: f64,
    /// Its 99th percentile.
    pub p99: f64,
    /// Share of equal first choices.
    pub same: f64,
    /// Perplexity of the image; `None` when no token follows any.
    pub perplexity: Option<f64>,
    /// Of the reference.
    pub reference_perplexity: Option<f64>,
}

impl Point {
    /// Compares logits, of the image and of the reference, in f64.
    pub fn new(
        text: usize,
        position: usize,
        [image, reference]: [&[f32]; 2],
        next: Option<u32>,
    ) -> Self {
        let same = best(image) == best(reference);
        let [image, reference] = [image, reference].map(Softmax::new);
        let kl = reference.divergence(&image).max(0.0);
        let losses = next.map(|id| [image, reference].map(|softmax| softmax.loss(id)));
        Self { text, position, kl, same, losses }
    }
}

impl Figures {
    /// Of all these; `None` of none.
    pub fn of<'p>(points: impl Iterator<Item = &'p Point> + Clone) -> Option<Self> {
        let kls = ascending(points.clone());
        let tokens = kls.len();
        if tokens == 0 {
            return None;
        }
        let share = |count: usize| count as f64 / tokens as f64;
        let perplexity = |which: usize| {
            let losses = points.clone().filter_map(|point| Some(point.losses?[which]));
            let (count, sum) = losses.fold((0, 0.0), |(count, sum), loss| (count + 1, sum + loss));
            (count > 0).then(|| (sum / f64::from(count)).exp())
        };
        Some(Self {
            tokens,
            mean: kls.iter().sum::<f64>() / tokens as f64,
            median: percentile(&kls, 50.0),
            p99: percentile(&kls, 99.0),
            same: share(points.clone().filter(|point| point.same).count()),
            perplexity: perplexity(0),
            reference_perplexity: perplexity(1),
        })
    }
}

/// The divergences in ascending order.
pub fn ascending<'p>(points: impl Iterator<Item = &'p Point>) -> Vec<f64> {
    let mut kls: Vec<f64> = points.map(|point| point.kl).collect();
    kls.sort_by(f64::total_cmp);
    kls
}

/// The value that so many percent of ascending ones do not exceed (nearest rank).
pub fn percentile(ascending: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * ascending.len() as f64).ceil() as usize;
    ascending.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// The largest element's index, the first among equals.
fn best(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_diverge_by_nothing_and_known_ones_by_what_is_known() {
        let point = Point::new(0, 0, [&[1.0, 3.0], &[11.0, 13.0]], Some(1));
        assert!(point.kl < 1e-12 && point.same);
        let [ours, theirs] = point.losses.unwrap();
        assert!((ours - theirs).abs() < 1e-12);
        // p = (1/2, 1/2), q = (1/4, 3/4).
        let point = Point::new(0, 0, [&[0.0, 3.0_f32.ln()], &[0.0, 0.0]], None);
        assert!((point.kl - 0.5 * (4.0_f64 / 3.0).ln()).abs() < 1e-6);
        assert!(!point.same && point.losses.is_none());
    }

    #[test]
    fn figures_are_of_all_points() {
        let point = |kl: f64, same| Point {
            text: 0,
            position: 0,
            kl,
            same,
            losses: Some([2.0_f64.ln(), 1.0]),
        };
        let points: Vec<Point> = (1..=100).map(|n| point(f64::from(n), n % 4 == 0)).rev().collect();
        let figures = Figures::of(points.iter()).unwrap();
        assert_eq!((figures.tokens, figures.mean, figures.median), (100, 50.5, 50.0));
        assert_eq!((figures.p99, figures.same), (99.0, 0.25));
        assert!((figures.perplexity.unwrap() - 2.0).abs() < 1e-12);
        assert!((figures.reference_perplexity.unwrap() - 1.0_f64.exp()).abs() < 1e-12);
        assert_eq!(Figures::of([].iter()), None);
    }
}
