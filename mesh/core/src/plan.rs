//! The decision for a job: gate, then rank.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::codec::{Decode, Encode};
use crate::gate::Rule;
use crate::id::{Digest, JobId, PeerId};
use crate::policy::Policy;
use crate::time::Mono;

/// One inference request as the planner sees it: sizes and law, no payload.
#[derive(Clone, Debug)]
pub struct Job {
    /// Unique over the mesh.
    pub id: JobId,
    /// What is to run.
    pub bundle: Digest,
    /// The law, already narrowed by this node's own.
    pub policy: Policy,
    /// Bytes of the inputs.
    pub bytes: u64,
    /// Rows of the batch.
    pub rows: u32,
    /// Answer by then.
    pub deadline: Mono,
    /// Hops that it may still make.
    pub hops_left: u8,
    /// Peers that it has passed; it returns to none of them.
    pub path: Vec<PeerId>,
}

/// What a candidate is expected to cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Round trip to the peer.
    pub rtt: Duration,
    /// The inputs over its measured bandwidth.
    pub transfer: Duration,
    /// Expected wait for a slot.
    pub wait: Duration,
    /// Expected service time.
    pub service: Duration,
}

impl Cost {
    /// What candidates are ranked by.
    pub fn total(&self) -> Duration {
        self.rtt + self.transfer + self.wait + self.service
    }
}

/// What is done with a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It runs here.
    Local,
    /// It goes to another peer.
    Forward {
        /// Which.
        to: PeerId,
        /// At what expected cost.
        cost: Cost,
    },
    /// It is refused.
    Refuse(Refusal),
}

/// Why a job is not run. It travels back to the entry, which tells the app.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Refusal {
    /// No peer in the view holds such a model.
    #[error("no peer offers the model `{model}`")]
    UnknownModel {
        /// As the app named it, or a digest.
        model: String,
    },
    /// Permitted peers hold different bundles under the name and version.
    #[error("`{model}` means different bundles on different peers; name one as NAME@sha256:…")]
    AmbiguousModel {
        /// As the app named it.
        model: String,
        /// The candidates.
        digests: Vec<Digest>,
    },
    /// Peers hold it, and none passes the gate.
    #[error("no peer that the policy permits can run this job")]
    PolicyUnsatisfiable {
        /// How many holders failed each rule first.
        failed: BTreeMap<Rule, u32>,
    },
    /// The policy demands what this version cannot enforce.
    #[error(
        "the policy's clause `{clause}` is not supported by this version, so the job is refused"
    )]
    Unsupported {
        /// The clause.
        clause: String,
    },
    /// The receiving peer does not serve the peer that sent the job.
    #[error("this peer does not serve the peer that sent the job: {rule}")]
    NotServed {
        /// The rule that the sender failed.
        rule: Rule,
    },
    /// The job may not travel further and cannot run here.
    #[error("the job has no hops left and cannot run here")]
    HopLimit,
    /// All permitted peers were tried, or the retry budget is spent.
    #[error("{attempts} attempts failed; the last: {last}")]
    Failed {
        /// How many.
        attempts: u32,
        /// What the last one said.
        last: String,
    },
    /// No time is left.
    #[error("the deadline has passed")]
    Deadline,
    /// Every slot and queue place that the job could have is taken.
    #[error("at capacity; try again in {retry_after_ms} ms")]
    Busy {
        /// When it may be worth trying again.
        retry_after_ms: u32,
    },
    /// The inputs do not fit the model.
    #[error("{reason}")]
    BadInput {
        /// What is wrong and what was expected.
        reason: String,
    },
    /// The header was not understood.
    #[error("{reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// The executor failed.
    #[error("the model failed: {reason}")]
    Execution {
        /// What ONNX Runtime said.
        reason: String,
    },
    /// The peer is draining and takes no new jobs.
    #[error("the peer is shutting down")]
    Draining,
}
