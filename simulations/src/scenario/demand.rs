//! The keys of what is asked of a world: arrivals, the jobs' policies, and how entries choose.

use std::path::PathBuf;

use hansa_core::flight::RETRY_PERCENT;
use serde::Deserialize;

use super::world::one;

/// `[[arrivals]]`: a stream of jobs. Several add up.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrivalSpec {
    /// How they come.
    pub kind: ArrivalKind,
    /// The demand against the capacity of all that serve: 0.85 keeps them busy 85 % of the time.
    #[serde(default)]
    pub load: Option<f64>,
    /// Or jobs a second, over all regions.
    #[serde(default)]
    pub rate: Option<f64>,
    /// Only from these regions; none named: from all, by their weights.
    #[serde(default)]
    pub regions: Vec<String>,
    /// All of them ask for this model; none named: for any, by their shares.
    #[serde(default)]
    pub model: Option<String>,
    /// From this second …
    #[serde(default)]
    pub from_s: u64,
    /// … to this; left out: to the end.
    #[serde(default)]
    pub until_s: Option<u64>,
    /// `diurnal`: the peak against the mean, from 1 (flat) to 2 (nothing at night).
    #[serde(default = "peak")]
    pub peak: f64,
    /// `diurnal`: the local hour of the peak.
    #[serde(default = "peak_hour")]
    pub peak_hour: f64,
    /// `diurnal`: the hour in UTC at which the scenario begins.
    #[serde(default)]
    pub start_hour_utc: f64,
    /// `diurnal`: virtual seconds in a day; a shorter day saves time and changes nothing else.
    #[serde(default = "day_s")]
    pub day_s: u64,
    /// `trace`: the file, relative to the scenario's.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// `trace`: what it looks like.
    #[serde(default)]
    pub layout: TraceLayout,
    /// `trace`: the column or field of the time.
    #[serde(default)]
    pub time: Option<String>,
    /// `trace`: the column or field of the input's tokens.
    #[serde(default)]
    pub input_tokens: Option<String>,
    /// `trace`: the column or field of the output's tokens.
    #[serde(default)]
    pub output_tokens: Option<String>,
    /// `trace`: so many times as fast as it was.
    #[serde(default = "one")]
    pub speedup: f64,
    /// `trace`: begins again when it is over.
    #[serde(default)]
    pub repeat: bool,
}

/// `arrivals.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArrivalKind {
    /// Independent of each other, at a fixed mean rate.
    Poisson,
    /// Independent of each other, at a rate that follows each region's local time.
    Diurnal,
    /// As they were recorded.
    Trace,
}

/// `arrivals.layout`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TraceLayout {
    /// CSV with `TIMESTAMP,ContextTokens,GeneratedTokens`.
    #[default]
    Azure,
    /// JSON lines with `timestamp` in milliseconds, `input_length`, `output_length`, `hash_ids`.
    Mooncake,
}

/// `[[policy]]`: what a part of the jobs demands of those that serve it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySpec {
    /// What it is called in reports.
    pub name: String,
    /// The part of the jobs that demands it, against the other policies' shares.
    #[serde(default = "one")]
    pub share: f64,
    /// Only jobs from these regions; none named: from all.
    #[serde(default)]
    pub regions: Vec<String>,
    /// What it demands.
    #[serde(default)]
    pub require: Constraints,
    /// From arrival to the last byte, in milliseconds.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
}

/// Constraints as requests write them: places, names, `!` before what is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constraints {
    /// Where: `"EU,CH"`, `"!US"`; `"own"` is the region that the job comes from.
    #[serde(default)]
    pub locations: Option<String>,
    /// Under whose law.
    #[serde(default)]
    pub control: Option<String>,
    /// By whom.
    #[serde(default)]
    pub operators: Option<String>,
    /// What the data is.
    #[serde(default)]
    pub data_class: Option<String>,
}

impl Constraints {
    /// Whether it demands nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `[sharing]`: how many slots the regions need to hold a goal, each for itself and together.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharingSpec {
    /// In each region 99 of 100 jobs have their first token within this, in milliseconds.
    pub goal_ttft_ms: f64,
    /// Shares of the jobs that may not leave their region, in place of `[[policy]]`: each is
    /// searched.
    pub stay: Vec<f64>,
}

/// `[routing]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoutingSpec {
    /// One strategy or several; each seed runs under all of them. None: `hansa` and `omniscient`.
    pub strategy: OneOrMany,
    /// How many candidates are probed.
    pub probes: Option<usize>,
    /// Jobs expected to be shorter than this are sent without a probe, in milliseconds.
    pub probe_above_ms: Option<f64>,
    /// `stale-least-loaded`: load is gossiped this often, in milliseconds.
    pub stale_ms: Option<u64>,
    /// At most this part of the jobs is sent a second time before its first byte.
    pub retry_budget: Option<f64>,
}

/// `"hansa"` or `["hansa", "random"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// None given.
    #[default]
    Default,
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// The strategies that `[routing]` may name.
pub const STRATEGIES: [&str; 8] = [
    "hansa",
    "random",
    "round-robin",
    "power-of-two",
    "stale-least-loaded",
    "weighted-random",
    "prequal",
    "omniscient",
];

impl RoutingSpec {
    /// How many of a hundred jobs may be sent a second time.
    pub fn retry_percent(&self) -> u32 {
        let share = self.retry_budget.unwrap_or(f64::from(RETRY_PERCENT) / 100.0);
        (0..=100).find(|percent| f64::from(*percent) >= share * 100.0 - 0.5).unwrap_or(100)
    }

    /// The names of the strategies to run, in order.
    pub fn strategies(&self) -> Vec<String> {
        match &self.strategy {
            OneOrMany::Default => vec!["hansa".into(), "omniscient".into()],
            OneOrMany::One(name) => vec![name.clone()],
            OneOrMany::Many(names) => names.clone(),
        }
    }
}

fn peak() -> f64 {
    1.8
}

fn peak_hour() -> f64 {
    15.0
}

fn day_s() -> u64 {
    86_400
}
