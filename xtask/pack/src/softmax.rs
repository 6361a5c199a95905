//! What logits say of the next token, in nats. `libm` gives the same values everywhere.

use libm::{exp, log};

/// The softmax of logits.
#[derive(Debug, Clone, Copy)]
pub struct Softmax<'l> {
    logits: &'l [f32],
    most: f32,
    /// Of the exponentials of how far logits are below the largest.
    sum: f64,
}

impl<'l> Softmax<'l> {
    /// Of these logits.
    pub fn new(logits: &'l [f32]) -> Self {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum = logits.iter().map(|&x| exp(f64::from(x - most))).sum();
        Self { logits, most, sum }
    }

    /// `-ln p` of a token.
    pub fn loss(&self, token: u32) -> f64 {
        log(self.sum) - f64::from(self.logits[token as usize] - self.most)
    }

    /// KL divergence from this one of another. Rounding may take one of next to nothing below 0.
    pub fn divergence(&self, other: &Self) -> f64 {
        // The sum of p (log p - log q); both norms are common to all tokens.
        let mean: f64 = (self.logits.iter().zip(other.logits))
            .map(|(&a, &b)| {
                let a = f64::from(a - self.most);
                exp(a) * (a - f64::from(b - other.most))
            })
            .sum();
        mean / self.sum + log(other.sum) - log(self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_logits_do_not_overflow() {
        let softmax = Softmax::new(&[1000.0, -1000.0]);
        assert!(softmax.loss(0) < 1e-9);
        assert!((softmax.loss(1) - 2000.0).abs() < 1e-3);
    }

    #[test]
    fn a_divergence_is_that_of_the_two_softmaxes() {
        let one = Softmax::new(&[1.0, 2.0, 3.0]);
        assert_eq!(one.divergence(&one), 0.0);
        let (p, q) = ([0.5_f64, 0.25, 0.25], [0.25_f64, 0.25, 0.5]);
        let exact: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        // Logits are free up to a constant.
        let [a, b] = [(p, 3.0), (q, -20.0)].map(|(p, c)| p.map(|p| (p.ln() + c) as f32));
        assert!((Softmax::new(&a).divergence(&Softmax::new(&b)) - exact).abs() < 1e-5);
        assert!((Softmax::new(&a).loss(0) - 2.0_f64.ln()).abs() < 1e-5);
    }
}
