//! The scalar pieces that every table repeats, lane by lane.

use half::f16;

/// `log2(e)`.
pub const LOG2_E: f32 = core::f32::consts::LOG2_E;
/// The high part of ln 2: few bits, so that its product with a small integer is exact.
pub const LN2_HIGH: f32 = 0.693_359_4;
/// ln 2 minus [`LN2_HIGH`].
pub const LN2_LOW: f32 = -2.121_944_4e-4;
/// Beyond these the exponential is taken at the bound.
pub const EXP_MIN: f32 = -87.0;
/// See [`EXP_MIN`].
pub const EXP_MAX: f32 = 88.0;
/// Coefficients of r^2 .. r^7 of e^r on [-ln 2 / 2, ln 2 / 2]: the minimax set of Cephes `expf`
/// (S. Moshier, <https://www.netlib.org/cephes/>), highest first.
pub const EXP_POLY: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];

/// `a * b + c`, rounded once.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    libm::fmaf(a, b, c)
}

/// The nearest integer, halves to even.
#[inline(always)]
pub fn round_even(x: f32) -> f32 {
    libm::rintf(x)
}

/// e^x within 2 ulp for `EXP_MIN <= x <= EXP_MAX`, clamped beyond (a NaN gives e^EXP_MIN).
pub fn exp(x: f32) -> f32 {
    // Comparisons as vector minimum and maximum make them.
    let x = if x > EXP_MIN { x } else { EXP_MIN };
    let x = if x < EXP_MAX { x } else { EXP_MAX };
    let n = round_even(x * LOG2_E);
    let r = fma(n, -LN2_HIGH, x);
    let r = fma(n, -LN2_LOW, r);
    let p = EXP_POLY[1..].iter().fold(EXP_POLY[0], |p, &c| fma(p, r, c));
    let y = fma(p, r * r, r) + 1.0;
    // n lies in -126..=127, so the sum of exponents neither wraps nor reaches infinity.
    f32::from_bits(y.to_bits().wrapping_add(((n as i32) << 23) as u32))
}

/// Adds 16 lanes by halves: the order of every horizontal sum.
pub fn sum16(mut lanes: [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// The value of f16 bits.
#[inline(always)]
pub fn from_f16(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}

/// The nearest f16's bits, halves to even.
#[inline(always)]
pub fn to_f16(value: f32) -> u16 {
    f16::from_f32(value).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_and_monotonic_at_the_clamp() {
        let mut worst = 0.0_f64;
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - exact) / exact).abs());
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1e9), exp(EXP_MIN));
        assert!(exp(1e9).is_finite());
    }
}
