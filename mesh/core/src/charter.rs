//! Charters: an authority's signed statement of who a peer is.
//!
//! A charter is a C2SP signed note ([`crate::note`]) whose text has one `key value` line each, in
//! this order: `hansa/charter/v1`, `serial`, `subject`, `location`, `operator`, `control`,
//! `data-classes`, `not-before`, `not-after`.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::id::PeerId;
use crate::place::Place;
use crate::time::Utc;

/// What a charter says, and who says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Charter {
    /// Unique with its authority.
    pub serial: String,
    /// Whose charter this is. The TLS key of the data plane is the same key.
    pub subject: PeerId,
    /// Where the peer stands.
    pub location: Place,
    /// The legal name of who runs it.
    pub operator: String,
    /// The country whose law reaches the operator's ultimate parent.
    pub control: Place,
    /// Classes of data that it may see.
    pub data_classes: BTreeSet<String>,
    /// Valid from.
    pub not_before: Utc,
    /// Valid until.
    pub not_after: Utc,
    /// Names of the trusted authorities whose signatures verified and who may assert all of the
    /// above.
    pub authorities: BTreeSet<String>,
}

/// Why a charter does not count here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum CharterFault {
    /// There is none.
    #[error("no charter")]
    Absent,
}

/// The authorities that a node trusts, and what each may assert.
#[derive(Clone, Debug, Default)]
pub struct Trust {}

impl Trust {
    /// Reads `note` as the charter of `subject`.
    pub fn verify(&self, note: &str, subject: PeerId) -> Result<Charter, CharterFault> {
        let _ = (note, subject);
        Err(CharterFault::Absent)
    }
}
