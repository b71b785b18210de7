//! Puts two folders of results side by side: each figure's difference, and whether chance explains
//! it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::recording::Recording;
use crate::statistics::Difference;

/// Two sets of results, figure by figure.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What the first are of.
    pub a: String,
    /// What the second are of.
    pub b: String,
    /// Seeds of the first.
    pub seeds_a: usize,
    /// Seeds of the second.
    pub seeds_b: usize,
    /// Each figure that both measured.
    pub figures: Vec<FigureDifference>,
    /// Figures that only one of them measured.
    pub only_one: Vec<String>,
}

/// One figure's difference.
#[derive(Clone, Debug, Serialize)]
pub struct FigureDifference {
    /// Which figure, such as `ttft_ms.p99`.
    pub figure: String,
    /// How much.
    #[serde(flatten)]
    pub difference: Difference,
    /// In words.
    pub verdict: String,
}

/// The figures of a run by name; what depends on the machine alone is left out.
pub fn figures(recording: &Recording) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    let count = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    all.insert("jobs".to_owned(), count(recording.jobs));
    all.insert("violations".to_owned(), count(recording.violations.len() as u64));
    for (name, value) in
        [("copies", recording.copies), ("bytes_over_record", recording.bytes_over_record)]
    {
        value.map(|value| all.insert(name.to_owned(), value));
    }
    for (name, spread) in &recording.distributions {
        let quantiles =
            [("p50", spread.p50), ("p90", spread.p90), ("p99", spread.p99), ("p999", spread.p999)];
        for (quantile, value) in quantiles {
            all.insert(format!("{name}.{quantile}"), value);
        }
    }
    for cost in &recording.costs {
        all.insert(format!("cost of {} ({})", cost.name, cost.unit), cost.amount);
    }
    for fact in &recording.facts {
        all.insert(fact.name.clone(), fact.value);
    }
    all
}

/// Compares two sets of runs; seed by seed when the seeds are the same.
pub fn compare(a: (&str, &[Recording]), b: (&str, &[Recording])) -> Comparison {
    let seeds = |runs: &[Recording]| runs.iter().map(|run| run.seed).collect::<Vec<_>>();
    let same_seeds = seeds(a.1) == seeds(b.1);
    let (of_a, of_b) = (by_figure(a.1), by_figure(b.1));
    let mut figures = Vec::new();
    for (figure, values_a) in &of_a {
        let Some(values_b) = of_b.get(figure) else { continue };
        let paired = same_seeds && values_a.len() == values_b.len();
        let difference = if paired {
            Difference::paired(values_a, values_b)
        } else {
            Difference::welch(values_a, values_b)
        };
        let verdict = verdict(&difference);
        figures.push(FigureDifference { figure: figure.clone(), difference, verdict });
    }
    let only = |one: &BTreeMap<String, Vec<f64>>, other: &BTreeMap<String, Vec<f64>>| {
        one.keys().filter(|key| !other.contains_key(*key)).cloned().collect::<Vec<_>>()
    };
    let only_one = [only(&of_a, &of_b), only(&of_b, &of_a)].concat();
    Comparison {
        a: a.0.to_owned(),
        b: b.0.to_owned(),
        seeds_a: a.1.len(),
        seeds_b: b.1.len(),
        figures,
        only_one,
    }
}

fn by_figure(runs: &[Recording]) -> BTreeMap<String, Vec<f64>> {
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, value) in runs.iter().flat_map(figures) {
        all.entry(name).or_default().push(value);
    }
    all
}

fn verdict(difference: &Difference) -> String {
    let Difference { a, difference: by, margin, .. } = difference;
    let Some(margin) = margin else {
        return "one seed: chance cannot be told from it".to_owned();
    };
    if !difference.is_seen() {
        return "no difference seen".to_owned();
    }
    let way = if *by > 0.0 { "higher" } else { "lower" };
    if *a == 0.0 {
        return format!("B is {way}");
    }
    let percent = |value: f64| value / a.abs() * 100.0;
    format!("B is {way} by {:.1} % (± {:.1})", percent(by.abs()), percent(*margin))
}

impl Comparison {
    /// As a table for people.
    pub fn table(&self) -> String {
        let paired = self.figures.first().is_some_and(|figure| figure.difference.paired);
        let how = if paired { "seed by seed" } else { "by Welch's interval" };
        let mut text = format!(
            "A: {} ({} seeds)\nB: {} ({} seeds)\ncompared {how}, at 95 % confidence\n\n",
            self.a, self.seeds_a, self.b, self.seeds_b
        );
        let widest = self.figures.iter().map(|figure| figure.figure.chars().count()).max();
        let width = widest.unwrap_or(0).max(6);
        text += &format!("{:<width$}  {:>14}  {:>14}  verdict\n", "figure", "A", "B");
        for FigureDifference { figure, difference, verdict } in &self.figures {
            let (a, b) = (shown(difference.a), shown(difference.b));
            text += &format!("{figure:<width$}  {a:>14}  {b:>14}  {verdict}\n");
        }
        if !self.only_one.is_empty() {
            text += &format!("\nonly one of them measured: {}\n", self.only_one.join(", "));
        }
        text
    }
}

/// A figure in as many digits as help.
pub fn shown(value: f64) -> String {
    match value.abs() {
        size if value.fract() == 0.0 || size >= 1_000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(first: u64, values: &[f64]) -> Vec<Recording> {
        let run = |(seed, value): (u64, &f64)| {
            let mut recording = Recording { seed, ..Recording::default() };
            recording.distribute("ttft_ms", vec![*value]);
            recording
        };
        (first..).zip(values).map(run).collect()
    }

    #[test]
    fn a_difference_is_told_with_its_interval_and_none_is_told_plainly() {
        let a = runs(1, &[100.0, 110.0, 120.0]);
        let better = compare(("a", &a), ("b", &runs(1, &[50.0, 60.0, 69.0])));
        let find = |comparison: &Comparison, name: &str| {
            let figure = comparison.figures.iter().find(|figure| figure.figure == name);
            figure.unwrap().verdict.clone()
        };
        let verdict = find(&better, "ttft_ms.p99");
        assert!(verdict.starts_with("B is lower by 45.8 % (± "), "{verdict}");
        let same = compare(("a", &a), ("b", &runs(1, &[101.0, 108.0, 121.0])));
        assert_eq!(find(&same, "ttft_ms.p99"), "no difference seen");
        assert!(same.figures.iter().all(|figure| figure.difference.paired));
        let others = compare(("a", &a), ("b", &runs(7, &[50.0, 60.0, 69.0])));
        assert!(others.figures.iter().all(|figure| !figure.difference.paired));
        assert!(find(&others, "ttft_ms.p99").starts_with("B is lower"));
        let one = compare(("a", &a[..1]), ("b", &a[1..2]));
        assert!(find(&one, "ttft_ms.p50").starts_with("one seed"), "{}", one.table());
    }
}
