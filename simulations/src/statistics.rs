//! Differences of figures over seeds, with the interval that holds the true one 95 times in 100.

use serde::Serialize;

/// A difference of two means.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The mean of the first.
    pub a: f64,
    /// The mean of the second.
    pub b: f64,
    /// The second less the first.
    pub difference: f64,
    /// Half the width of the 95 % interval; none when there are too few seeds to say.
    pub margin: Option<f64>,
    /// Whether the seeds were compared one by one.
    pub paired: bool,
}

impl Difference {
    /// That of figures of the same seeds, in the same order: chance that both share falls out.
    pub fn paired(a: &[f64], b: &[f64]) -> Self {
        let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| b - a).collect();
        let freedom = number(differences.len()) - 1.0;
        let error = (variance(&differences) / number(differences.len())).sqrt();
        let margin = (freedom >= 1.0).then(|| student(freedom) * error);
        Self { a: mean(a), b: mean(b), difference: mean(&differences), margin, paired: true }
    }

    /// That of figures of different seeds, whose spreads may differ (Welch).
    pub fn welch(a: &[f64], b: &[f64]) -> Self {
        let part = |values: &[f64]| variance(values) / number(values.len());
        let (of_a, of_b) = (part(a), part(b));
        let difference = mean(b) - mean(a);
        let margin = (a.len() >= 2 && b.len() >= 2).then(|| {
            let square = |part: f64, count: usize| part * part / (number(count) - 1.0);
            let below = square(of_a, a.len()) + square(of_b, b.len());
            let freedom = if below > 0.0 { (of_a + of_b) * (of_a + of_b) / below } else { 1.0 };
            student(freedom) * (of_a + of_b).sqrt()
        });
        Self { a: mean(a), b: mean(b), difference, margin, paired: false }
    }

    /// Whether the interval leaves no room for no difference at all.
    pub fn is_seen(&self) -> bool {
        self.margin.is_some_and(|margin| self.difference.abs() > margin)
    }
}

/// The mean; 0 of nothing.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / number(values.len()) }
}

/// Half the width of the 95 % interval of a mean; none with fewer than two values.
pub fn margin(values: &[f64]) -> Option<f64> {
    let freedom = number(values.len()) - 1.0;
    (freedom >= 1.0).then(|| student(freedom) * (variance(values) / number(values.len())).sqrt())
}

fn variance(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values);
    let squares = values.iter().map(|value| (value - mean) * (value - mean));
    squares.sum::<f64>() / (number(values.len()) - 1.0)
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Student's t, two-sided at 95 %, for `freedom` degrees; between whole ones the lower, wider one.
fn student(freedom: f64) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    let known = (1_u32..).zip(TABLE).take_while(|(degrees, _)| f64::from(*degrees) <= freedom);
    match known.last() {
        None => TABLE[0],
        Some((30, _)) => 1.96 + 2.46 / freedom,
        Some((_, t)) => t,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_show_what_their_common_noise_would_hide() {
        let a = [100.0, 200.0, 300.0, 400.0, 500.0];
        let b = [101.0, 202.0, 301.0, 402.0, 501.0];
        let paired = Difference::paired(&a, &b);
        assert!(paired.is_seen() && (paired.difference - 1.4).abs() < 1e-9, "{paired:?}");
        assert!(!Difference::welch(&a, &b).is_seen());
    }

    #[test]
    fn intervals_are_those_of_the_textbooks() {
        // Mean 3, deviation √2.5, n 5: 2.776 × 0.7071.
        let margin = margin(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert!((margin - 1.963).abs() < 1e-3, "{margin}");
        let welch = Difference::welch(&[1.0, 2.0, 3.0], &[11.0, 12.0, 13.0]);
        assert!((welch.margin.unwrap() - 2.776 * (2.0_f64 / 3.0).sqrt()).abs() < 1e-3);
    }

    #[test]
    fn one_seed_says_nothing_of_chance() {
        let one = Difference::paired(&[1.0], &[2.0]);
        assert!(one.margin.is_none() && !one.is_seen());
    }

    #[test]
    fn the_same_figures_show_no_difference() {
        let same = Difference::paired(&[5.0, 5.0], &[5.0, 5.0]);
        assert_eq!(same.margin, Some(0.0));
        assert!(!same.is_seen());
    }
}
