//! What a job or a node permits: typed, deny by default, the same structure on the wire, in the
//! config and at every gate.
//!
//! Parsing headers and config is the host's; here are the structure, its laws (intersection never
//! widens) and its canonical bytes.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use crate::codec::{Decode, Encode, encode};
use crate::id::Digest;
use crate::place::Place;

/// Values that are allowed and denied. Nothing passes an empty `allow`; `None` allows all that
/// `deny` does not name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Clause<T: Ord> {
    /// What may pass, or everything when absent.
    pub allow: Option<BTreeSet<T>>,
    /// What may not, whatever `allow` says.
    pub deny: BTreeSet<T>,
}

impl<T: Ord> Default for Clause<T> {
    fn default() -> Self {
        Self { allow: None, deny: BTreeSet::new() }
    }
}

/// Whom a policy lets see a job's data: clauses over a peer's verified charter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Bounds {
    /// Where the peer stands.
    pub locations: Clause<Place>,
    /// Under whose law its operator is controlled.
    pub control: Clause<Place>,
    /// Who operates it.
    pub operators: Clause<String>,
    /// Who asserted its charter.
    pub authorities: Clause<String>,
    /// How many permitted authorities must have signed it (0 and 1 both mean one).
    pub signatures_min: u8,
    /// The class of the data, which the charter must name (absent: unclassified data).
    pub data_class: Option<String>,
}

/// How a job may be split over peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The planner chooses.
    #[default]
    Auto,
    /// One peer runs the whole job.
    Never,
    /// The batch must be scattered.
    Rows,
    /// The layers must be spread.
    Stages,
}

/// What a device must be to run a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct DeviceNeeds {
    /// ONNX Runtime execution provider, lower case (`cuda`, `cpu`).
    pub provider: Option<String>,
    /// Memory of the device, in MiB.
    pub memory_mib_min: Option<u32>,
}

/// Everything that a job can demand: the structure of the wire in full. Clauses that this version
/// cannot enforce are refused by [`Policy::unsupported`], never ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Policy {
    /// Who may see the job's data, on every hop.
    pub bounds: Bounds,
    /// Bundles that may run, or any.
    pub bundles: Clause<Digest>,
    /// How the work may be split.
    pub split: Split,
    /// Most hops after the entry, or [`crate::limits::HOPS_DEFAULT`].
    pub hops_max: Option<u8>,
    /// Most stages of a split.
    pub stages_max: Option<u8>,
    /// What the device must be.
    pub device: DeviceNeeds,
    /// Nothing of the job may be kept after its answer. Every node of this version keeps nothing.
    pub retain_nothing: bool,
    /// What the data may be used for.
    pub purpose: Option<String>,
    /// Most that the answer may cost, in millionths of `price_currency`.
    pub price_micros_max: Option<u64>,
    /// ISO 4217 code of `price_micros_max`.
    pub price_currency: Option<String>,
    /// Refuse peers whose measured round trips contradict their charter.
    pub rtt_evidence: bool,
    /// Refuse when no receipt can be given.
    pub receipt_required: bool,
    /// Refuse when the executor cannot write its audit log.
    pub audit_fail_closed: bool,
}

impl Policy {
    /// The SHA-256 of the canonical bytes. Two policies are the same law exactly when these agree.
    pub fn hash(&self) -> Digest {
        Digest::of(&encode(self))
    }
}

/// The longest a job may take, from its arrival.
pub type Deadline = Duration;
