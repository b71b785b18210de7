//! The keys of what goes wrong: `[[fault]]`.

use serde::Deserialize;

/// `[[fault]]`: what befalls some of the peers at some time. Whom it befalls is drawn by the seed
/// from those that are up, unless `region` names all of one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultSpec {
    /// What.
    pub kind: FaultKind,
    /// In this second.
    pub at_s: u64,
    /// Until this second: peers of `restart` and `region-lost` come back, links heal, clocks and
    /// gray peers recover. Left out: for good.
    #[serde(default)]
    pub until_s: Option<u64>,
    /// Share of all peers, from 0 to 1.
    #[serde(default)]
    pub share: Option<f64>,
    /// Or so many peers.
    #[serde(default)]
    pub count: Option<usize>,
    /// Or all peers of this region; with `share` or `count`: of its peers.
    #[serde(default)]
    pub region: Option<String>,
    /// `gray`: so many times slower. `loss`, `reorder`: share of messages, from 0 to 1.
    #[serde(default)]
    pub by: Option<f64>,
    /// `clock-jump`: by so many milliseconds, backwards when negative.
    #[serde(default)]
    pub jump_ms: Option<i64>,
    /// `lying-adverts`: what about.
    #[serde(default)]
    pub about: Option<LieAbout>,
}

/// `fault.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Peers die without a word.
    Crash,
    /// Peers die without a word and come back at `until_s` as new lives of themselves.
    Restart,
    /// Peers answer, slowly.
    Gray,
    /// Peers are cut off from all others.
    Partition,
    /// All peers of a region are cut off or die at once.
    RegionLost,
    /// Links lose packets.
    Loss,
    /// Messages overtake each other.
    Reorder,
    /// Wall clocks jump.
    ClockJump,
    /// Peers sign adverts that are not true.
    LyingAdverts,
    /// Peers show charters that nobody signed.
    ForgedCharters,
    /// Peers send old records and answers again.
    Replay,
    /// Peers are behind NAT, from the beginning: they dial and cannot be dialled. Each has a relay
    /// that joined before it; the first peer is never one of them. What is sent to them and was not
    /// dialled by them, jobs, too, goes through a relay that their advert names, by both its links.
    Nat,
}

/// `fault.about`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LieAbout {
    /// More slots and speed than there are.
    Capacity,
    /// Models that are not there.
    Models,
}

impl FaultKind {
    /// Its name in a file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Restart => "restart",
            Self::Gray => "gray",
            Self::Partition => "partition",
            Self::RegionLost => "region-lost",
            Self::Loss => "loss",
            Self::Reorder => "reorder",
            Self::ClockJump => "clock-jump",
            Self::LyingAdverts => "lying-adverts",
            Self::ForgedCharters => "forged-charters",
            Self::Replay => "replay",
            Self::Nat => "nat",
        }
    }
}
