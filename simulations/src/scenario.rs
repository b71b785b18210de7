//! Scenario files: what a world is made of and what happens in it. Unknown keys are refused, and
//! so is what cannot happen.

use std::time::Duration;

use serde::Deserialize;

/// One scenario, as its TOML says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is called.
    pub name: String,
    /// What it shows.
    #[serde(default)]
    pub about: String,
    /// How many peers.
    pub peers: usize,
    /// How long, in virtual seconds.
    pub seconds: u64,
    /// The links between them.
    #[serde(default)]
    pub links: LinksSpec,
    /// All peers join through the first, evenly within this time.
    #[serde(default)]
    pub join_within_ms: u64,
    /// A peer, drawn anew each time, publishes this often, once all have joined.
    #[serde(default)]
    pub publish_every_ms: Option<u64>,
    /// Parts of the mesh that are cut off for a while.
    #[serde(default)]
    pub partition: Vec<PartitionSpec>,
    /// Peers that die.
    #[serde(default)]
    pub kill: Vec<KillSpec>,
}

/// The links between peers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinksSpec {
    /// One way: the shortest and the longest.
    pub latency_ms: [u64; 2],
    /// At most this is added to each message, by chance.
    pub jitter_ms: u64,
    /// Share of packets lost.
    pub loss: f64,
}

impl Default for LinksSpec {
    fn default() -> Self {
        Self { latency_ms: [20, 100], jitter_ms: 2, loss: 0.0 }
    }
}

/// A part of the mesh is cut off from the rest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionSpec {
    /// From this second …
    pub from_s: u64,
    /// … to this.
    pub until_s: u64,
    /// Share of the peers that is cut off.
    pub share: f64,
}

/// Peers die without a word.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillSpec {
    /// In this second.
    pub at_s: u64,
    /// Share of the peers.
    pub share: f64,
    /// They come back after so many seconds.
    #[serde(default)]
    pub restart_after_s: Option<u64>,
}

/// Why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// Not the TOML of a scenario.
    #[error("{0}")]
    Toml(#[from] Box<toml::de::Error>),
    /// It says what cannot be.
    #[error("{key}: {problem}")]
    Impossible {
        /// Where.
        key: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Scenario {
    /// Reads a scenario.
    pub fn parse(toml: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(toml).map_err(Box::new)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Its length.
    pub fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    fn check(&self) -> Result<(), ScenarioError> {
        let share = |share: f64| (0.0..=1.0).contains(&share);
        let [shortest, longest] = self.links.latency_ms;
        let checks = [
            (self.peers >= 2, "peers", "a mesh has at least two"),
            (self.seconds > 0, "seconds", "must not be zero"),
            (shortest <= longest, "links.latency_ms", "the shortest comes first"),
            ((0.0..1.0).contains(&self.links.loss), "links.loss", "is a share below 1"),
            (self.publish_every_ms != Some(0), "publish_every_ms", "must not be zero"),
            (self.join_within_ms <= self.seconds * 1_000, "join_within_ms", "is over the end"),
            (self.partition.iter().all(|p| share(p.share)), "partition.share", "is from 0 to 1"),
            (
                self.partition.iter().all(|p| p.from_s < p.until_s && p.until_s <= self.seconds),
                "partition",
                "begins, ends and ends before the scenario does",
            ),
            (self.kill.iter().all(|k| share(k.share)), "kill.share", "is from 0 to 1"),
            (self.kill.iter().all(|k| k.at_s < self.seconds), "kill.at_s", "is over the end"),
        ];
        match checks.into_iter().find(|(possible, _, _)| !possible) {
            Some((_, key, problem)) => Err(ScenarioError::Impossible { key, problem }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_is_refused_by_name() {
        let error = Scenario::parse("name = 'x'\npeers = 5\nsecond = 9").unwrap_err();
        assert!(error.to_string().contains("second"), "{error}");
    }

    #[test]
    fn the_impossible_is_refused_by_name() {
        let error = Scenario::parse("name = 'x'\npeers = 1\nseconds = 9").unwrap_err();
        assert_eq!(error.to_string(), "peers: a mesh has at least two");
        let late = "name = 'x'\npeers = 9\nseconds = 9\n[[kill]]\nat_s = 9\nshare = 0.1";
        assert!(Scenario::parse(late).unwrap_err().to_string().starts_with("kill.at_s"));
    }
}
