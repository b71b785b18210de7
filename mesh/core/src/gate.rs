//! The gate: whether a peer may see a job's data. A pure function, asked before the first byte
//! leaves and again at the peer that receives it. Nothing passes by default.

use serde::Serialize;

use crate::codec::{Decode, Encode};

/// The rule that keeps a peer out. The first that fails is named, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The peer shows no charter.
    NoCharter,
    /// Its charter does not count: forged, malformed, of an unknown authority, over-asserting.
    CharterInvalid,
    /// Its charter is not valid yet or not any more.
    CharterExpired,
    /// Its location is not permitted.
    Location,
    /// Its control is not permitted.
    Control,
    /// Its operator is not permitted.
    Operator,
    /// No permitted authority signed its charter.
    Authority,
    /// Too few permitted authorities signed it.
    Signatures,
    /// Its charter does not name the data class.
    DataClass,
    /// The policy does not permit the bundle.
    Bundle,
    /// It does not hold the bundle.
    NotHeld,
    /// None of its devices is what the job needs.
    Device,
    /// It does not answer, or failed a moment ago.
    Unreachable,
    /// The job has passed it already.
    Visited,
    /// It was tried for this job and failed.
    Tried,
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Rule::NoCharter => "it shows no charter",
            Rule::CharterInvalid => "its charter does not count",
            Rule::CharterExpired => "its charter is not valid now",
            Rule::Location => "its location is not permitted",
            Rule::Control => "its control is not permitted",
            Rule::Operator => "its operator is not permitted",
            Rule::Authority => "no permitted authority signed its charter",
            Rule::Signatures => "too few permitted authorities signed its charter",
            Rule::DataClass => "its charter does not name the data class",
            Rule::Bundle => "the policy does not permit the bundle",
            Rule::NotHeld => "it does not hold the bundle",
            Rule::Device => "none of its devices is what the job needs",
            Rule::Unreachable => "it does not answer",
            Rule::Visited => "the job has passed it already",
            Rule::Tried => "it failed this job already",
        })
    }
}
