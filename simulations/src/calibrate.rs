//! Measures a running node and fits a `[[device]]` of a scenario to it.
//!
//! Three things are measured over HTTP: one job alone, jobs of several rows, and several jobs at
//! once. A device of a scenario says of these how long a job holds a slot and how many slots there
//! are; how far it is from what was measured is told beside it.

mod client;

use std::fmt;

use client::Client;
pub use client::Fault;

use crate::recording::Distribution;

/// Jobs that are not measured: the node's caches and connections warm up.
const WARM_UP: usize = 5;
/// Jobs alone.
const ALONE: usize = 40;
/// Rows of one job, and jobs of each.
const ROWS: [usize; 4] = [1, 2, 4, 8];
const OF_ROWS: usize = 15;
/// Jobs at once, and jobs that each of them asks for.
const AT_ONCE: [usize; 5] = [1, 2, 4, 8, 16];
const EACH: usize = 15;

/// What a node does with one model.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// The node's name.
    pub node: String,
    /// The model's.
    pub model: String,
    /// Jobs that run at once.
    pub slots: u32,
    /// One job of one row, in ms: median and the deviation of its logarithm.
    pub alone_ms: f64,
    /// The same.
    pub sigma: f64,
    /// Jobs of one row that were measured.
    pub jobs: u64,
    /// What a further row adds, in ms; none where the model takes one row only.
    pub row_ms: Option<f64>,
    /// The largest relative error of the line through the rows' medians.
    pub rows_error: f64,
    /// Jobs at once, and the median time of one of them in ms: measured and as the device has it.
    pub at_once: Vec<(usize, f64, f64)>,
}

/// Measures the node at `url`; without a `model`, the first that it holds.
pub fn calibrate(url: &str, model: Option<&str>) -> Result<Calibration, Fault> {
    let client = Client::open(url, model)?;
    client.repeat(WARM_UP, 1)?;
    let times = client.repeat(ALONE, 1)?;
    let alone_ms = median(&times);
    let row_counts = if client.takes_rows() { &ROWS[..] } else { &[] };
    let mut by_rows = Vec::new();
    for rows in row_counts {
        by_rows.push((*rows as f64, median(&client.repeat(OF_ROWS, *rows)?)));
    }
    let mut measured = Vec::new();
    for at_once in AT_ONCE {
        measured.push((at_once, median(&client.together(at_once, EACH)?)));
    }
    let slots = slots(alone_ms, &measured);
    let (row_ms, rows_error) = line(&by_rows);
    let expected = |at_once: usize| alone_ms * (at_once as f64 / f64::from(slots)).max(1.0);
    Ok(Calibration {
        slots,
        alone_ms,
        sigma: deviation_of_logarithms(&times),
        jobs: times.len() as u64,
        row_ms: client.takes_rows().then_some(row_ms),
        rows_error,
        at_once: measured.iter().map(|(n, ms)| (*n, *ms, expected(*n))).collect(),
        node: client.node,
        model: client.model,
    })
}

impl Calibration {
    /// The largest relative error of the device against the jobs that ran at once.
    pub fn error(&self) -> f64 {
        let errors =
            self.at_once.iter().map(|(_, measured, fitted)| (fitted / measured - 1.0).abs());
        errors.fold(0.0, f64::max)
    }
}

/// A table to paste into a scenario.
impl fmt::Display for Calibration {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, model, slots, alone_ms, sigma, jobs, .. } = self;
        writeln!(
            out,
            "# {model} on {node}, over HTTP: {jobs} jobs alone, median {alone_ms:.2} ms,"
        )?;
        writeln!(out, "# deviation of the logarithm {sigma:.2}.")?;
        if let Some(row) = self.row_ms {
            let error = self.rows_error * 100.0;
            writeln!(
                out,
                "# A further row adds {row:.3} ms; a line fits the rows within {error:.0} %."
            )?;
        }
        for (at_once, measured, fitted) in &self.at_once {
            writeln!(
                out,
                "# {at_once} at once: {measured:.2} ms each, this device {fitted:.2} ms"
            )?;
        }
        writeln!(out, "# It is within {:.0} % of these.", self.error() * 100.0)?;
        writeln!(out, "[[device]]\nname = \"{node}\"\nslots = {slots}")?;
        // An answer comes at once and whole: all of its time is before its first byte.
        writeln!(out, "prefill_ms = {alone_ms:.3}\nservice_ms = {{ mean = 0, sigma = 0 }}")
    }
}

/// So many slots explain best how long jobs take at once.
fn slots(alone_ms: f64, measured: &[(usize, f64)]) -> u32 {
    let off = |slots: u32| -> f64 {
        let expected = |at_once: usize| alone_ms * (at_once as f64 / f64::from(slots)).max(1.0);
        measured.iter().map(|(n, ms)| libm::log(expected(*n) / ms).abs()).sum()
    };
    (1..=64).min_by(|a, b| off(*a).total_cmp(&off(*b))).unwrap_or(1)
}

/// The slope of the least squares line, and the line's largest relative error.
fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len().max(1) as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let across: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let along: f64 = points.iter().map(|point| (point.0 - x) * (point.0 - x)).sum();
    let slope = if along > 0.0 { across / along } else { 0.0 };
    let error = |point: &(f64, f64)| ((y + slope * (point.0 - x)) / point.1 - 1.0).abs();
    (slope, points.iter().map(error).fold(0.0, f64::max))
}

fn median(times: &[f64]) -> f64 {
    Distribution::of(times.to_vec()).p50
}

fn deviation_of_logarithms(times: &[f64]) -> f64 {
    let logarithms: Vec<f64> = times.iter().map(|ms| libm::log(*ms)).collect();
    let mean = logarithms.iter().sum::<f64>() / logarithms.len().max(1) as f64;
    let square = logarithms.iter().map(|l| (l - mean) * (l - mean)).sum::<f64>();
    (square / logarithms.len().max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_that_slow_each_other_down_from_the_third_on_have_two_slots() {
        let measured = [(1, 10.0), (2, 10.5), (4, 21.0), (8, 39.0)];
        assert_eq!(slots(10.0, &measured), 2);
    }

    #[test]
    fn rows_on_a_line_are_fitted_without_error() {
        let (slope, error) = line(&[(1.0, 5.0), (2.0, 7.0), (4.0, 11.0)]);
        assert!((slope - 2.0).abs() < 1e-9 && error < 1e-9, "{slope} {error}");
    }
}
