//! Chance that is the same on every machine: only + - * / enter, never a platform's `exp` or `ln`.

use hansa_core::rng::Rng;

const LN_2: f64 = std::f64::consts::LN_2;

/// The natural logarithm of a positive `x`.
pub fn ln(x: f64) -> f64 {
    let (mut mantissa, mut powers) = (x, 0.0);
    while mantissa > 1.5 {
        mantissa /= 2.0;
        powers += 1.0;
    }
    while mantissa < 0.75 {
        mantissa *= 2.0;
        powers -= 1.0;
    }
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let (mut sum, mut power) = (0.0, ratio);
    for n in 0..16 {
        sum += power / f64::from(2 * n + 1);
        power *= ratio * ratio;
    }
    2.0 * sum + powers * LN_2
}

/// An exponential time with this mean.
pub fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    -mean * ln(1.0 - rng.unit())
}

/// A normal number: the sum of twelve uniform ones (tails end at six).
pub fn normal(rng: &mut Rng) -> f64 {
    (0..12).map(|_| rng.unit()).sum::<f64>() - 6.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_the_platform() {
        for x in [-20.0, -1.3, -0.1, 0.0, 0.7, 3.0, 30.0] {
            assert!((ln(f64::exp(x)) - x).abs() < 1e-11, "{x}");
        }
    }
}
