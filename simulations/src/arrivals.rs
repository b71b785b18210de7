//! When and where jobs arrive: Poisson, diurnal by each region's local time, or as recorded. An
//! iterator, so that a run of any length holds one job at a time.
//!
//! Chance comes from a portable generator and logarithms from `libm`, never from the platform, so
//! that the same seed gives the same jobs on any machine.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use hansa_core::rng::{Rng, mix};
use hansa_core::time::Mono;

use crate::scenario::{ArrivalKind, ArrivalSpec, ModelSpec, RegionSpec, Scenario, ScenarioError};
use crate::traces::{Request, Trace};

/// A job that arrives.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    /// When.
    pub at: Mono,
    /// From which region, by its index in the scenario; 0 when there are none.
    pub region: usize,
    /// What it asks for, by its index in the scenario, if its stream says so.
    pub model: Option<usize>,
    /// Its tokens, when it comes from a trace: of the input and of the output.
    pub tokens: Option<(u32, u32)>,
    /// Hashes of its input's blocks, when the trace has them.
    pub blocks: Vec<u64>,
}

/// All jobs of a run, in order of time; of two at the same time the stream that comes first in the
/// scenario is first.
#[derive(Debug)]
pub struct Arrivals {
    streams: Vec<Stream>,
    next: BinaryHeap<Reverse<(Mono, usize)>>,
    pending: Vec<Option<Arrival>>,
    fault: Option<ScenarioError>,
}

#[derive(Debug)]
struct Stream {
    kind: ArrivalKind,
    rng: Rng,
    now_s: f64,
    until_s: f64,
    /// Jobs a second over all regions, at its highest.
    rate: f64,
    /// Upper bounds of each region's part, ascending to 1.
    weights: Vec<(f64, usize)>,
    model: Option<usize>,
    /// Of each region, as [`Diurnal`] sees it.
    days: Vec<Diurnal>,
    recorded: Option<Recorded>,
}

/// The trace of a stream, and how fast it plays.
#[derive(Debug)]
struct Recorded {
    trace: Trace,
    file: std::path::PathBuf,
    spec: ArrivalSpec,
    speedup: f64,
    begin_s: f64,
}

/// The demand of a region over the day: a cosine around its peak, of mean 1.
#[derive(Clone, Copy, Debug)]
pub struct Diurnal {
    /// The peak against the mean.
    pub peak: f64,
    /// The local hour of the peak.
    pub peak_hour: f64,
    /// The hour in UTC at which the scenario begins.
    pub start_hour_utc: f64,
    /// Virtual seconds in a day.
    pub day_s: f64,
    /// Degrees east: 15 are an hour.
    pub longitude: f64,
}

impl Diurnal {
    /// That of a region under `spec`.
    pub fn of(spec: &ArrivalSpec, region: &RegionSpec) -> Self {
        Self {
            peak: spec.peak,
            peak_hour: spec.peak_hour,
            start_hour_utc: spec.start_hour_utc,
            day_s: seconds(spec.day_s),
            longitude: region.at[1],
        }
    }

    /// The local hour at a second of the scenario, from 0 to 24.
    pub fn local_hour(&self, at_s: f64) -> f64 {
        let hour = self.start_hour_utc + at_s / self.day_s * 24.0 + self.longitude / 15.0;
        hour - (hour / 24.0).floor() * 24.0
    }

    /// The demand then, against its mean.
    pub fn factor(&self, at_s: f64) -> f64 {
        let angle = (self.local_hour(at_s) - self.peak_hour) / 24.0 * std::f64::consts::TAU;
        1.0 + (self.peak - 1.0) * libm::cos(angle)
    }
}

impl Arrivals {
    /// The arrivals of `scenario` under `seed`. `capacity` is how many jobs a second all peers can
    /// serve together: a `load` is a part of it.
    pub fn new(scenario: &Scenario, seed: u64, capacity: f64) -> Result<Self, ScenarioError> {
        let mut streams = Vec::new();
        for (index, spec) in scenario.arrivals.iter().enumerate() {
            streams.push(Stream::new(scenario, spec, mix(seed ^ mix(index as u64)), capacity)?);
        }
        let pending = vec![None; streams.len()];
        let mut arrivals = Self { streams, next: BinaryHeap::new(), pending, fault: None };
        for index in 0..arrivals.streams.len() {
            arrivals.draw(index);
        }
        match arrivals.fault.take() {
            Some(fault) => Err(fault),
            None => Ok(arrivals),
        }
    }

    /// What was wrong with a trace, if the jobs ended early because of it.
    pub fn fault(&self) -> Option<&ScenarioError> {
        self.fault.as_ref()
    }

    fn draw(&mut self, index: usize) {
        match self.streams[index].next() {
            Ok(Some(arrival)) => {
                self.next.push(Reverse((arrival.at, index)));
                self.pending[index] = Some(arrival);
            }
            Ok(None) => {}
            Err(fault) => self.fault = Some(fault),
        }
    }
}

impl Iterator for Arrivals {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let Reverse((_, index)) = self.next.pop()?;
        let arrival = self.pending[index].take();
        self.draw(index);
        arrival
    }
}

impl Stream {
    fn new(
        scenario: &Scenario,
        spec: &ArrivalSpec,
        seed: u64,
        capacity: f64,
    ) -> Result<Self, ScenarioError> {
        let named =
            |region: &RegionSpec| spec.regions.is_empty() || spec.regions.contains(&region.name);
        let regions = || scenario.region.iter().enumerate().filter(|(_, region)| named(region));
        let total: f64 = regions().map(|(_, region)| region.weight).sum();
        let mut sum = 0.0;
        let mut weights: Vec<(f64, usize)> = regions()
            .map(|(index, region)| {
                sum += region.weight / total;
                (sum, index)
            })
            .collect();
        if weights.is_empty() {
            weights.push((1.0, 0));
        }
        let named = |model: &ModelSpec| Some(&model.name) == spec.model.as_ref();
        let model = scenario.model.iter().position(named);
        let days = scenario.region.iter().map(|region| Diurnal::of(spec, region)).collect();
        let mean = spec.rate.unwrap_or_else(|| spec.load.unwrap_or(0.0) * capacity);
        let highest = if spec.kind == ArrivalKind::Diurnal { spec.peak } else { 1.0 };
        let recorded = match (&spec.file, spec.kind) {
            (Some(name), ArrivalKind::Trace) => {
                let file = scenario.file(name);
                let speedup = match spec.rate.or(spec.load.map(|load| load * capacity)) {
                    None => spec.speedup,
                    Some(wanted) => wanted / mean_rate(&file, spec)?,
                };
                let begin_s = seconds(spec.from_s);
                let trace = open(&file, spec)?;
                Some(Recorded { trace, file, spec: spec.clone(), speedup, begin_s })
            }
            _ => None,
        };
        Ok(Self {
            kind: spec.kind,
            rng: Rng::new(seed),
            now_s: seconds(spec.from_s),
            until_s: seconds(spec.until_s.unwrap_or(scenario.seconds)),
            rate: mean * highest,
            weights,
            model,
            days,
            recorded,
        })
    }

    fn next(&mut self) -> Result<Option<Arrival>, ScenarioError> {
        if self.recorded.is_some() {
            return self.next_recorded();
        }
        loop {
            self.now_s += exponential(&mut self.rng) / self.rate;
            if self.now_s >= self.until_s || !self.now_s.is_finite() {
                return Ok(None);
            }
            let region = self.draw_region();
            if self.kind == ArrivalKind::Diurnal {
                // Thinning: what the highest rate brought stays with the chance of this hour.
                let day = self.days.get(region);
                let factor = day.map_or(1.0, |day| day.factor(self.now_s) / day.peak);
                if self.rng.unit() >= factor {
                    continue;
                }
            }
            return Ok(Some(self.arrival(region, None, Vec::new())));
        }
    }

    fn next_recorded(&mut self) -> Result<Option<Arrival>, ScenarioError> {
        let Some(recorded) = &mut self.recorded else { return Ok(None) };
        let mut request = recorded.trace.next();
        if request.is_none() && recorded.spec.repeat {
            recorded.begin_s = self.now_s;
            recorded.trace = open(&recorded.file, &recorded.spec)?;
            request = recorded.trace.next();
        }
        let Some(request) = request else { return Ok(None) };
        let Request { at_s, input_tokens, output_tokens, blocks } =
            request.map_err(|error| ScenarioError::Data(error.to_string()))?;
        self.now_s = recorded.begin_s + at_s / recorded.speedup;
        if self.now_s >= self.until_s {
            return Ok(None);
        }
        let region = self.draw_region();
        Ok(Some(self.arrival(region, Some((input_tokens, output_tokens)), blocks)))
    }

    fn arrival(&self, region: usize, tokens: Option<(u32, u32)>, blocks: Vec<u64>) -> Arrival {
        let (at, model) = (Mono(0) + Duration::from_secs_f64(self.now_s), self.model);
        Arrival { at, region, model, tokens, blocks }
    }

    fn draw_region(&mut self) -> usize {
        let chance = self.rng.unit();
        let index = self.weights.partition_point(|(bound, _)| *bound <= chance);
        self.weights[index.min(self.weights.len() - 1)].1
    }
}

fn open(file: &std::path::Path, spec: &ArrivalSpec) -> Result<Trace, ScenarioError> {
    Trace::open(file, spec).map_err(|error| ScenarioError::Data(error.to_string()))
}

/// Requests a second in a trace as it was recorded.
fn mean_rate(file: &std::path::Path, spec: &ArrivalSpec) -> Result<f64, ScenarioError> {
    let (mut count, mut last) = (0.0, 0.0);
    for request in open(file, spec)? {
        count += 1.0;
        last = request.map_err(|error| ScenarioError::Data(error.to_string()))?.at_s;
    }
    if last > 0.0 {
        return Ok(count / last);
    }
    let problem = "a trace of one moment has no rate; use `speedup` in place of `load` or `rate`";
    Err(ScenarioError::Data(format!("{}: {problem}", file.display())))
}

/// Reads the traces that `scenario` plays, so that what is wrong with one is told before all else.
pub fn check(scenario: &Scenario) -> Result<(), ScenarioError> {
    for spec in scenario.arrivals.iter().filter(|spec| spec.kind == ArrivalKind::Trace) {
        if let Some(file) = &spec.file {
            let mut requests = open(&scenario.file(file), spec)?;
            let fault = requests.find_map(Result::err);
            fault.map_or(Ok(()), |fault| Err(ScenarioError::Data(fault.to_string())))?;
        }
    }
    Ok(())
}

/// Mean tokens of the inputs and outputs in the first trace that `scenario` plays.
pub fn mean_tokens(scenario: &Scenario) -> Result<Option<(f64, f64)>, ScenarioError> {
    let is_trace = |spec: &&ArrivalSpec| spec.kind == ArrivalKind::Trace;
    let Some(spec) = scenario.arrivals.iter().find(is_trace) else { return Ok(None) };
    let Some(file) = &spec.file else { return Ok(None) };
    let (mut count, mut input, mut output) = (0.0, 0.0, 0.0);
    for request in open(&scenario.file(file), spec)? {
        let request = request.map_err(|error| ScenarioError::Data(error.to_string()))?;
        count += 1.0;
        input += f64::from(request.input_tokens);
        output += f64::from(request.output_tokens);
    }
    Ok((count > 0.0).then(|| (input / count, output / count)))
}

fn seconds(whole: u64) -> f64 {
    Duration::from_secs(whole).as_secs_f64()
}

/// Draws from the exponential distribution of mean 1.
pub fn exponential(rng: &mut Rng) -> f64 {
    -libm::log(1.0 - rng.unit())
}

/// Draws from the normal distribution of mean 0 and deviation 1.
pub fn normal(rng: &mut Rng) -> f64 {
    let radius = (2.0 * exponential(rng)).sqrt();
    radius * libm::cos(std::f64::consts::TAU * rng.unit())
}

/// Draws from the lognormal distribution of a mean, whose logarithm has deviation `sigma`.
pub fn lognormal(rng: &mut Rng, mean: f64, sigma: f64) -> f64 {
    mean * libm::exp(sigma * normal(rng) - sigma * sigma / 2.0)
}

/// The parts of `count` things whose popularity falls with their rank to the power of `exponent`.
pub fn zipf(count: u32, exponent: f64) -> Vec<f64> {
    let raw = (1..=count).map(|rank| libm::pow(f64::from(rank), -exponent));
    let sum: f64 = raw.clone().sum();
    raw.map(|part| part / sum).collect()
}

#[cfg(test)]
#[allow(clippy::print_stdout)] // Seeds come first, so that a failure can be repeated.
mod tests {
    use super::*;

    fn arrivals(toml: &str, capacity: f64) -> Vec<Arrival> {
        println!("seed 7");
        let regions = "[[region]]\nname = 'west'\nat = [0, -120]\nweight = 3\n\
                       [[region]]\nname = 'east'\nat = [0, 60]\n";
        let toml = format!("name = 'x'\npeers = 4\nseconds = 2400\n{regions}[[arrivals]]\n{toml}");
        let scenario = Scenario::parse(&toml).unwrap();
        Arrivals::new(&scenario, 7, capacity).unwrap().collect()
    }

    #[test]
    fn poisson_keeps_its_rate_and_the_regions_their_weights() {
        let all = arrivals("kind = 'poisson'\nload = 0.5", 20.0);
        assert!((23_000..25_000).contains(&all.len()), "{}", all.len());
        let west = all.iter().filter(|arrival| arrival.region == 0).count();
        assert!((17_500..18_500).contains(&west), "{west} of {}", all.len());
        assert!(all.is_sorted_by_key(|arrival| arrival.at));
        let few = "kind = 'poisson'\nrate = 10\nfrom_s = 100\nuntil_s = 101\nregions = ['east']";
        let all = arrivals(few, 1.0);
        assert!((3..20).contains(&all.len()) && all.iter().all(|arrival| arrival.region == 1));
        assert!(all.iter().all(|arrival| arrival.at >= Mono(0) + Duration::from_secs(100)));
    }

    #[test]
    fn each_region_peaks_in_its_own_afternoon() {
        // A day of 2,400 s is 100 s an hour; it begins at midnight in UTC.
        let all = arrivals("kind = 'diurnal'\nrate = 10\nday_s = 2400\npeak = 2.0", 1.0);
        assert!((23_000..25_000).contains(&all.len()), "{}", all.len());
        let between = |region: usize, from: u64, until: u64| {
            let span = Mono(0) + Duration::from_secs(from)..Mono(0) + Duration::from_secs(until);
            all.iter().filter(|a| a.region == region && span.contains(&a.at)).count()
        };
        // 15:00 is 23:00 UTC at 120° west, and 11:00 UTC at 60° east.
        assert!(between(0, 2_200, 2_400) > 20 * between(0, 1_000, 1_200), "west");
        assert!(between(1, 1_000, 1_200) > 20 * between(1, 2_200, 2_400), "east");
    }

    #[test]
    fn a_trace_plays_at_the_rate_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut text = "TIMESTAMP,ContextTokens,GeneratedTokens\n".to_owned();
        text.extend((0..100).map(|second| format!("{second},10,{second}\n")));
        std::fs::write(folder.path().join("t.csv"), text).unwrap();
        let toml = "name = 'x'\npeers = 4\nseconds = 30\n[[arrivals]]\nkind = 'trace'\n\
                    file = 't.csv'\nload = 0.5";
        let file = folder.path().join("x.toml");
        let scenario = Scenario::parse_as(toml, &file).unwrap();
        let all: Vec<Arrival> = Arrivals::new(&scenario, 1, 8.0).unwrap().collect();
        assert_eq!(all.len(), 100);
        let last = all[99].at.since(Mono(0)).as_secs_f64();
        assert!((24.0..26.0).contains(&last), "{last}");
        let repeated = Scenario::parse_as(&format!("{toml}\nrepeat = true"), &file).unwrap();
        let all = Arrivals::new(&repeated, 1, 8.0).unwrap().count();
        assert!((118..124).contains(&all), "{all}");
        let absent = Scenario::parse_as(&toml.replace("t.csv", "no.csv"), &file).unwrap();
        let error = Arrivals::new(&absent, 1, 8.0).unwrap_err().to_string();
        assert!(error.contains("no.csv") && error.contains("relative to the scenario"), "{error}");
    }

    #[test]
    fn lognormal_times_have_the_mean_that_is_asked_for() {
        println!("seed 3");
        let mut rng = Rng::new(3);
        let mean = (0..100_000).map(|_| lognormal(&mut rng, 4_000.0, 0.9)).sum::<f64>() / 1e5;
        assert!((3_900.0..4_100.0).contains(&mean), "{mean}");
        assert!((zipf(3, 1.0)[0] - 6.0 / 11.0).abs() < 1e-12);
    }
}
