//! The keys of what a world is made of: regions, links, devices, models and charters.

use std::path::PathBuf;

use serde::Deserialize;

use super::demand::Constraints;

/// `[[region]]`: a place where peers are and jobs come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionSpec {
    /// What it is called in reports.
    pub name: String,
    /// Latitude and longitude, in degrees, north and east positive.
    pub at: [f64; 2],
    /// Its ISO 3166 code, such as `NL` or `US-VA`: what charters of peers here say.
    #[serde(default)]
    pub location: String,
    /// Its part of the demand, against the other regions' weights.
    #[serde(default = "one")]
    pub weight: f64,
    /// Peers here. When no region says, all peers go round the regions.
    #[serde(default)]
    pub peers: usize,
    /// Peers here that users' jobs enter at; the first ones. They serve nothing themselves.
    #[serde(default)]
    pub entries: usize,
}

/// `[links]`: what lies between two peers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinksSpec {
    /// Where latency comes from.
    pub model: LinkModel,
    /// `uniform`: one way, the shortest and the longest, in milliseconds; drawn for each pair.
    pub latency_ms: [u64; 2],
    /// A CSV file of round trips between regions, in milliseconds; the first row and column name
    /// the regions. Wins over `model`.
    pub matrix: Option<PathBuf>,
    /// At most this is added to each message, by chance, in milliseconds.
    pub jitter_ms: u64,
    /// Share of packets lost; a lost packet is sent again, later.
    pub loss: f64,
    /// Share of messages that arrive after a later one on another stream.
    pub reorder: f64,
    /// Bandwidth of each peer's uplink in Mbit/s; messages queue for it. None: without end.
    pub bandwidth_mbit: Option<u64>,
}

impl Default for LinksSpec {
    fn default() -> Self {
        Self {
            model: LinkModel::Uniform,
            latency_ms: [20, 100],
            matrix: None,
            jitter_ms: 2,
            loss: 0.0,
            reorder: 0.0,
            bandwidth_mbit: None,
        }
    }
}

/// `links.model`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkModel {
    /// Each pair of peers draws its latency from a range.
    #[default]
    Uniform,
    /// From the coordinates of the two regions.
    Geography,
}

/// `[[device]]`: a class of devices that some of the peers have.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceSpec {
    /// What it is called.
    pub name: String,
    /// Jobs that run on it at once; more wait in order.
    pub slots: u32,
    /// Twice the speed halves all its times.
    pub speed: f64,
    /// The part of the serving peers that has it, against the other classes' shares.
    pub share: f64,
    /// Time to the first token on a device of speed 1, in milliseconds, once a slot is free.
    pub prefill_ms: f64,
    /// Prefill time for each further input token, in milliseconds; traces give the tokens.
    pub prefill_per_token_ms: f64,
    /// Time for each output token, in milliseconds; traces give the tokens. It wins over `service_ms`
    /// for jobs with tokens.
    pub per_token_ms: Option<f64>,
    /// Time from the first token to the last, for jobs without tokens.
    pub service_ms: ServiceSpec,
    /// What an hour of it costs, for the cost in reports; any currency.
    pub cost_per_hour: f64,
    /// Memory for models, in MiB. None: all fit.
    pub memory_mib: Option<u32>,
    /// MiB of a model that it fetches and loads in a second.
    pub load_mib_per_s: u32,
}

impl Default for DeviceSpec {
    fn default() -> Self {
        Self {
            name: "device".into(),
            slots: 4,
            speed: 1.0,
            share: 1.0,
            prefill_ms: 250.0,
            prefill_per_token_ms: 0.0,
            per_token_ms: None,
            service_ms: ServiceSpec::default(),
            cost_per_hour: 0.0,
            memory_mib: None,
            load_mib_per_s: 1_000,
        }
    }
}

/// A lognormal time.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Its mean (not its median), in milliseconds.
    pub mean: f64,
    /// The deviation of its logarithm; 0 is always the mean.
    #[serde(default)]
    pub sigma: f64,
}

impl Default for ServiceSpec {
    fn default() -> Self {
        Self { mean: 4_000.0, sigma: 0.9 }
    }
}

/// `[[model]]`: what peers serve and jobs ask for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// What it is called.
    pub name: String,
    /// The part of the jobs that ask for it, against the other models' shares.
    #[serde(default = "one")]
    pub share: f64,
    /// The part of the serving peers that hold it, from 0 to 1.
    #[serde(default = "one")]
    pub held_by: f64,
    /// Its times are those of the device times this.
    #[serde(default = "one")]
    pub work: f64,
    /// Stages that it takes, each on another peer; 1 is a model that one peer runs.
    #[serde(default = "one_stage")]
    pub stages: u32,
    /// Bytes of one job's input on the wire.
    #[serde(default = "two_kib")]
    pub input_bytes: u64,
    /// Bytes of one job's output on the wire.
    #[serde(default = "two_kib")]
    pub output_bytes: u64,
    /// What it takes of a peer's memory, in MiB.
    #[serde(default)]
    pub size_mib: u32,
    /// Who may have it: its weights are data.
    #[serde(default)]
    pub hold: Constraints,
}

/// `[[charter]]`: who runs some of the peers, and under whose law.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CharterSpec {
    /// The operator's name.
    pub operator: String,
    /// Whose law reaches the operator's ultimate parent: an ISO 3166 code.
    pub control: String,
    /// The part of the peers that it runs, against the other operators' shares.
    #[serde(default = "one")]
    pub share: f64,
    /// Only peers in these regions; none named: in all.
    #[serde(default)]
    pub regions: Vec<String>,
    /// Data classes that its peers may see.
    #[serde(default)]
    pub data_classes: Vec<String>,
    /// Whom its nodes serve.
    #[serde(default)]
    pub serve: Constraints,
    /// Where its nodes send.
    #[serde(default)]
    pub send: Constraints,
}

pub(super) fn one() -> f64 {
    1.0
}

fn one_stage() -> u32 {
    1
}

fn two_kib() -> u64 {
    2_048
}
