//! Scenario files: what a world is made of and what happens in it. Unknown keys are refused, and
//! so is what cannot happen; both name the file, the line and the fix.
//!
//! The keys lie in four files: [`world`] (regions, links, devices, models), [`demand`] (arrivals,
//! jobs' policies, routing), [`gossip`] and [`faults`]. What reads a trace or a matrix of round
//! trips is elsewhere ([`crate::traces`], [`crate::geography`]): here are only their names.

mod check;
pub mod demand;
pub mod error;
pub mod faults;
pub mod gossip;
mod lines;
pub mod shipped;
pub mod world;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

pub use demand::{
    ArrivalKind, ArrivalSpec, Constraints, PolicySpec, RoutingSpec, SharingSpec, TraceLayout,
};
pub use error::ScenarioError;
pub use faults::{FaultKind, FaultSpec, LieAbout};
pub use gossip::{GossipSpec, PlacementSpec, PlacementStrategy};
pub use world::{
    CharterSpec, DeviceSpec, LinkModel, LinksSpec, ModelSpec, RegionSpec, ServiceSpec,
};

/// One scenario, as its TOML says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is called; `hansa-sim run NAME` finds a shipped one by it.
    pub name: String,
    /// What it asks, in a sentence.
    #[serde(default, alias = "about")]
    pub asks: String,
    /// What a good answer looks like, in a sentence.
    #[serde(default)]
    pub expect: String,
    /// How many peers. Left out when the regions say it: then it is their sum.
    #[serde(default)]
    pub peers: usize,
    /// How long, in virtual seconds.
    pub seconds: u64,
    /// What happens in the first so many seconds is not measured: the mesh forms and fills.
    #[serde(default)]
    pub warmup_s: u64,
    /// Peers join through one that is up, evenly within this time, in milliseconds.
    #[serde(default)]
    pub join_within_ms: u64,
    /// All peers are up and know each other from the beginning; nobody joins.
    #[serde(default)]
    pub settled: bool,
    /// A peer, drawn anew each time, publishes a changed record this often, in milliseconds, once
    /// all have joined.
    #[serde(default)]
    pub publish_every_ms: Option<u64>,
    /// Each peer publishes a changed record this often, in seconds, spread evenly over the peers.
    #[serde(default)]
    pub republish_s: Option<u64>,
    /// The messages of one run are kept for the replay in the report; for small worlds. Left out:
    /// when there are at most [`REPLAY_PEERS`] peers.
    #[serde(default)]
    pub replay: Option<bool>,
    /// The links between the peers.
    #[serde(default)]
    pub links: LinksSpec,
    /// Where the peers are. None: one region, nowhere in particular.
    #[serde(default)]
    pub region: Vec<RegionSpec>,
    /// What the peers compute on. None: one device with the defaults of [`DeviceSpec`].
    #[serde(default)]
    pub device: Vec<DeviceSpec>,
    /// What the peers serve. None: one model that all of them hold.
    #[serde(default)]
    pub model: Vec<ModelSpec>,
    /// Who runs the peers and under whose law. None: no charters at all.
    #[serde(default)]
    pub charter: Vec<CharterSpec>,
    /// What jobs demand of those that serve them. None: nothing.
    #[serde(default)]
    pub policy: Vec<PolicySpec>,
    /// When jobs arrive. None: there are no jobs.
    #[serde(default)]
    pub arrivals: Vec<ArrivalSpec>,
    /// How entries choose.
    #[serde(default)]
    pub routing: RoutingSpec,
    /// Asks for the capacity that a goal needs.
    #[serde(default)]
    pub sharing: Option<SharingSpec>,
    /// The paces of membership, where they differ from what nodes do.
    #[serde(default)]
    pub gossip: GossipSpec,
    /// Which peers hold which models.
    #[serde(default)]
    pub placement: PlacementSpec,
    /// What goes wrong.
    #[serde(default)]
    pub fault: Vec<FaultSpec>,
    /// The folder that the files it names are relative to.
    #[serde(skip)]
    pub folder: PathBuf,
    /// Its text, for digests and for what varies it.
    #[serde(skip)]
    pub text: String,
}

/// Worlds of up to so many peers are recorded message by message, unless they say otherwise.
pub const REPLAY_PEERS: usize = 40;

impl Scenario {
    /// Reads a scenario from its text alone.
    pub fn parse(toml: &str) -> Result<Self, ScenarioError> {
        Self::parse_as(toml, Path::new(""))
    }

    /// Reads a scenario's file, or one that is shipped under that name.
    pub fn open(name: &Path) -> Result<Self, ScenarioError> {
        if !name.exists()
            && let Some(shipped) = name.to_str().and_then(shipped::find)
        {
            return Self::parse_as(shipped.text, Path::new(shipped.file));
        }
        let text = std::fs::read_to_string(name).map_err(|error| ScenarioError::Read {
            file: name.to_owned(),
            error,
            hint: shipped::hint(name),
        })?;
        Self::parse_as(&text, name)
    }

    /// Reads a scenario from `toml`, whose faults are told as those of `file`.
    pub fn parse_as(toml: &str, file: &Path) -> Result<Self, ScenarioError> {
        let mut scenario: Self =
            toml::from_str(toml).map_err(|error| ScenarioError::toml(file, toml, &error))?;
        toml.clone_into(&mut scenario.text);
        scenario.folder = file.parent().map(Path::to_owned).unwrap_or_default();
        let of_regions: usize = scenario.region.iter().map(|region| region.peers).sum();
        if scenario.peers == 0 {
            scenario.peers = of_regions;
        }
        scenario.check().map_err(|fault| ScenarioError::impossible(file, toml, fault))?;
        Ok(scenario)
    }

    /// The second in which what is asked changes for the last time, if it does.
    pub fn shift_s(&self) -> Option<u64> {
        let ends = self.arrivals.iter().flat_map(|spec| [Some(spec.from_s), spec.until_s]);
        ends.flatten().filter(|second| (1..self.seconds).contains(second)).max()
    }

    /// Its length.
    pub fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// Whether it has jobs.
    pub fn has_jobs(&self) -> bool {
        !self.arrivals.is_empty()
    }

    /// Whether the messages of a run are kept for the replay.
    pub fn keeps_replay(&self) -> bool {
        self.replay.unwrap_or(self.peers <= REPLAY_PEERS)
    }

    /// The region of each peer, by its index in [`Scenario::region`]; all 0 when there are none.
    /// Peers of one region follow each other; what the regions leave over goes round.
    pub fn region_of_peers(&self) -> Vec<usize> {
        let mut regions: Vec<usize> = (0..self.region.len())
            .flat_map(|index| std::iter::repeat_n(index, self.region[index].peers))
            .collect();
        let given = regions.len();
        regions.extend((given..self.peers).map(|peer| peer % self.region.len().max(1)));
        regions.truncate(self.peers);
        regions
    }

    /// A file that it names, relative to its own.
    pub fn file(&self, name: &Path) -> PathBuf {
        self.folder.join(name)
    }
}
