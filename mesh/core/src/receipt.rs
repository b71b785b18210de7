//! Receipts: what ran where, for whom, under which law. A receipt is an entry of its keeper's log
//! ([`crate::log`]); it carries no signature of its own, since the log's checkpoint covers it.
//!
//! Payloads are never in it, only commitments to them: SHA-256(salt ‖ context ‖ digest). The salt is
//! kept apart; once it is deleted, nothing says any more which payload was meant.
//!
//! One receipt covers a job's whole tree. Each peer that took a part (rows, a stage, a retry, a
//! hedge) keeps a receipt of its own, whose parent is the job; the receipt of whoever handed the
//! part on lists it, by the hash that it has as a leaf of that peer's log.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;

use crate::charter::Charter;
use crate::codec::{CodecError, Decode, Encode, decode, encode, encode_onto};
use crate::gate::Rule;
use crate::id::{Digest, JobId, PeerId};
use crate::lei::Lei;
use crate::limits::{HOPS_MAX, NAME_BYTES_MAX, PARTS_MAX, RECEIPT_BYTES_MAX};
use crate::log::tree::leaf_hash;
use crate::place::Place;
use crate::price::Amount;
use crate::time::Utc;
use crate::wire::TensorMeta;

/// What a receipt's bytes begin with: no other thing of ours does.
const HEAD: &[u8] = b"hansa/receipt/v1\n";
/// The same of one that names identifiers: so whoever reads version 1 only can read all others.
const HEAD_WITH_LEIS: &[u8] = b"hansa/receipt/v2\n";
/// The bytes of no identifiers, which version 1 leaves out.
const NO_LEIS: &[u8] = &[0];
/// Most receipts of jobs that ran where they came in are shorter.
const USUAL_BYTES: usize = 768;

/// What ran where, for whom, under which law.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Receipt {
    /// The job, or the part of one.
    pub job: JobId,
    /// The job that this is a part of.
    pub parent: Option<JobId>,
    /// From 1.
    pub attempt: u8,
    /// When the keeper took it in, by its clock.
    #[serde(serialize_with = "iso")]
    pub started: Utc,
    /// When it was answered or given up.
    #[serde(serialize_with = "iso")]
    pub ended: Utc,
    /// The peers that the job passed: its entry first, the keeper of this receipt last.
    pub path: Vec<Party>,
    /// The model, as the keeper calls it.
    pub model: String,
    /// What was meant; none when no permitted peer could say what the name means.
    pub bundle: Option<Digest>,
    /// [`crate::policy::Policy::hash`] of the law that it ran under.
    pub policy: Digest,
    /// The digest of the groups (EU, EEA) by which the entry read that law, when it told it.
    pub groups: Option<Digest>,
    /// What the keeper's gate said.
    pub verdict: Verdict,
    /// Peers that the gate kept out, by reason.
    pub rejected: BTreeMap<Rule, u32>,
    /// Commitment to the input.
    pub input: Option<Digest>,
    /// Commitment to the output.
    pub output: Option<Digest>,
    /// Bytes that came in.
    pub bytes_in: u64,
    /// Bytes that went out.
    pub bytes_out: u64,
    /// What the keeper itself ran.
    pub work: Option<Work>,
    /// What it handed on.
    pub parts: Vec<Part>,
    /// What came of it.
    pub outcome: Outcome,
    /// Legal entity identifiers of those above, by the digest of the charter that names one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub leis: BTreeMap<Digest, Lei>,
}

/// A peer, as its charter named it at the time.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Party {
    /// Which.
    pub peer: PeerId,
    /// Serial number of its charter.
    pub serial: String,
    /// SHA-256 of the charter's note, signatures and all.
    pub charter: Digest,
    /// Where it stands.
    pub location: Place,
    /// Whose law reaches its operator.
    pub control: Place,
    /// Who runs it.
    pub operator: String,
    /// Whether measured round trips contradicted its location.
    pub contradicted: bool,
}

/// What the gate said of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The keeper, or a peer that it knew, might run it.
    Permitted,
    /// Nobody might.
    Refused,
}

/// What came of a job or a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was answered.
    Answered,
    /// It was refused, with a reason.
    Refused,
    /// It broke: a peer was lost, a model failed.
    Failed,
    /// Its deadline passed.
    Late,
    /// Whoever asked went away, or another answer came first.
    Cancelled,
    /// It was handed on down a chain of stages: what came of it, the next one's receipt tells.
    Passed,
}

/// What a peer ran.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Work {
    /// Which runtime, and its version.
    pub runtime: String,
    /// Its execution provider.
    pub provider: String,
    /// What it took.
    pub used: Used,
}

/// What running took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Used {
    /// Rows of the batch.
    pub rows: u64,
    /// Time on the device, in µs.
    pub device_us: u64,
    /// What it cost.
    pub price: Option<Amount>,
}

/// A part of a job that another peer took, or the keeper itself as one of several.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Part {
    /// The job as that peer knows it.
    pub job: JobId,
    /// Which part.
    pub share: Share,
    /// Why it went there.
    pub why: Why,
    /// Who took it.
    pub party: Party,
    /// Who ran it, where whoever took it handed it on: that peer's receipt says how.
    pub executor: Option<Party>,
    /// The leaf of that peer's receipt in its log, when it gave one.
    pub receipt: Option<Digest>,
    /// What came of it.
    pub outcome: Outcome,
    /// What it took, by that peer's word.
    pub used: Used,
}

/// Which part of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// All of it.
    Whole,
    /// Rows of its batch.
    Rows {
        /// The first.
        first: u32,
        /// How many.
        rows: u32,
    },
    /// A stretch of its layers.
    Stage {
        /// From this cut.
        from: u32,
        /// To this one.
        to: u32,
    },
}

/// Why a part went to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It was planned so.
    Planned,
    /// The one before failed.
    Retry,
    /// The one before did not answer in time.
    Hedge,
}

/// Why bytes are no receipt, or a receipt cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptFault {
    /// Longer than a receipt may be.
    #[error("receipt of {0} bytes, the limit is {RECEIPT_BYTES_MAX}")]
    TooLarge(usize),
    /// Not of a version that is known.
    #[error("not a receipt of version 1 or 2: it does not begin with `hansa/receipt/v1` or `…/v2`")]
    Head,
    /// Not the bytes of a receipt.
    #[error("receipt: {0}")]
    Codec(#[from] CodecError),
    /// The same receipt has other bytes: two texts of one meaning would hash differently.
    #[error("receipt: not in canonical form")]
    NotCanonical,
    /// A field says what cannot be.
    #[error("receipt: {0}")]
    Field(&'static str),
}

impl Receipt {
    /// Its bytes, which are the entry of the log.
    pub fn seal(&self) -> Result<Vec<u8>, ReceiptFault> {
        self.check()?;
        let mut bytes = Vec::with_capacity(USUAL_BYTES);
        bytes.extend(if self.leis.is_empty() { HEAD } else { HEAD_WITH_LEIS });
        encode_onto(&mut bytes, self);
        if self.leis.is_empty() {
            bytes.truncate(bytes.len() - NO_LEIS.len());
        }
        if bytes.len() > RECEIPT_BYTES_MAX {
            return Err(ReceiptFault::TooLarge(bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads the bytes of an entry, strictly: there is one form for each receipt.
    pub fn open(bytes: &[u8]) -> Result<Self, ReceiptFault> {
        if bytes.len() > RECEIPT_BYTES_MAX {
            return Err(ReceiptFault::TooLarge(bytes.len()));
        }
        let body = match (bytes.strip_prefix(HEAD), bytes.strip_prefix(HEAD_WITH_LEIS)) {
            (Some(body), _) => Cow::Owned([body, NO_LEIS].concat()),
            (_, Some(body)) => Cow::Borrowed(body),
            _ => return Err(ReceiptFault::Head),
        };
        let receipt: Self = decode(&body)?;
        receipt.check()?;
        let has_leis = matches!(body, Cow::Borrowed(_));
        if encode(&receipt) != *body || receipt.leis.is_empty() == has_leis {
            return Err(ReceiptFault::NotCanonical);
        }
        Ok(receipt)
    }

    /// The peer that the job was submitted to.
    pub fn entry(&self) -> &Party {
        self.path.first().expect("a receipt that was checked has a path")
    }

    /// The peer whose log this is an entry of.
    pub fn keeper(&self) -> &Party {
        self.path.last().expect("a receipt that was checked has a path")
    }

    /// The legal entity identifier of who runs `party`, if its charter names one.
    pub fn lei(&self, party: &Party) -> Option<Lei> {
        self.leis.get(&party.charter).copied()
    }

    /// Every peer that it names.
    pub fn parties(&self) -> impl Iterator<Item = &Party> {
        let took =
            self.parts.iter().flat_map(|part| [&part.party].into_iter().chain(&part.executor));
        self.path.iter().chain(took)
    }

    /// Everyone who ran something of the job, as far as the keeper knows, and what it took.
    pub fn ran(&self) -> impl Iterator<Item = (&Party, &Used)> {
        let own = self.work.iter().map(|work| (self.keeper(), &work.used));
        let answered = |part: &&Part| part.outcome == Outcome::Answered;
        own.chain(self.parts.iter().filter(answered).map(Part::ran))
    }

    fn check(&self) -> Result<(), ReceiptFault> {
        let is_named = |charter: &Digest| self.parties().any(|party| party.charter == *charter);
        let used = self.work.iter().map(|work| &work.used);
        let mut prices = used
            .chain(self.parts.iter().map(|part| &part.used))
            .filter_map(|used| used.price.as_ref());
        let work = self.work.iter().flat_map(|work| [&work.runtime, &work.provider]);
        let mut names = self
            .parties()
            .flat_map(|party| [&party.serial, &party.operator])
            .chain([&self.model])
            .chain(work);
        let rules = [
            (
                (1..=usize::from(HOPS_MAX) + 1).contains(&self.path.len()),
                "its path has no peer, or more than a job visits",
            ),
            (self.parts.len() <= PARTS_MAX, "it has too many parts"),
            (self.started <= self.ended, "it ends before it starts"),
            (self.ended.0 <= LATEST_MS, "its time is after the year 9999"),
            (self.attempt > 0, "attempts count from 1"),
            (
                self.parties().all(|party| party.location.is_valid() && party.control.is_valid()),
                "a peer's place is none",
            ),
            (
                prices.all(|price| price.currency.is_well_formed()),
                "a currency is not three capitals",
            ),
            (
                names.all(|name| is_name(name)),
                "a name is empty, too long or has control characters",
            ),
            (
                self.leis.iter().all(|(charter, lei)| lei.is_valid() && is_named(charter)),
                "a legal entity identifier is none, or nobody's",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, fault)) => Err(ReceiptFault::Field(fault)),
            None => Ok(()),
        }
    }
}

/// The last moment that has a date of four digits, in ms.
const LATEST_MS: u64 = 253_402_300_799_999;

impl Party {
    /// The peer of a verified charter, whose text is `note`.
    pub fn of(charter: &Charter, note: &str, contradicted: bool) -> Self {
        Self::named(charter, Digest::of(note.as_bytes()), contradicted)
    }

    /// The same, where the digest of the charter's text is known.
    pub fn named(charter: &Charter, digest: Digest, contradicted: bool) -> Self {
        Self {
            peer: charter.subject,
            serial: charter.serial.clone(),
            charter: digest,
            location: charter.location.clone(),
            control: charter.control.clone(),
            operator: charter.operator.clone(),
            contradicted,
        }
    }

    /// The first field that a charter, whose text is `note`, contradicts.
    pub fn differs(&self, charter: &Charter, note: &str) -> Option<&'static str> {
        let stated = Self::of(charter, note, self.contradicted);
        let fields = [
            (self.peer == stated.peer, "subject"),
            (self.charter == stated.charter, "digest"),
            (self.serial == stated.serial, "serial"),
            (self.location == stated.location, "location"),
            (self.control == stated.control, "control"),
            (self.operator == stated.operator, "operator"),
        ];
        fields.into_iter().find(|(same, _)| !same).map(|(_, field)| field)
    }
}

impl Part {
    /// Who ran it, as far as the keeper knows, and what it took.
    pub fn ran(&self) -> (&Party, &Used) {
        (self.executor.as_ref().unwrap_or(&self.party), &self.used)
    }
}

/// The hash that a receipt's bytes have as a leaf of a log: what a parent's receipt lists.
pub fn leaf(sealed: &[u8]) -> Digest {
    leaf_hash(sealed)
}

/// What is kept apart from a receipt: without it, nothing says what its commitments are to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Salt(pub [u8; 32]);

/// Logs do not tell it.
impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(…)")
    }
}

impl Salt {
    /// As people keep it: 64 hexadecimal digits.
    pub fn to_hex(self) -> String {
        Digest(self.0).to_string().split_off("sha256:".len())
    }

    /// Reads it.
    pub fn from_hex(text: &str) -> Option<Self> {
        format!("sha256:{text}").parse().ok().map(|Digest(bytes)| Self(bytes))
    }
}

/// Which of a job's payloads is committed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What came in.
    Input,
    /// What went out.
    Output,
}

/// The commitment to a payload of this digest.
pub fn commit(salt: &Salt, side: Side, payload: &Digest) -> Digest {
    let context: &[u8] = match side {
        Side::Input => b"hansa/input/v1\n",
        Side::Output => b"hansa/output/v1\n",
    };
    Digest::of_parts([&salt.0, context, &payload.0])
}

/// The digest of a payload, whatever the order its tensors came in: by name, each tensor's meta as
/// it travels, and its bytes.
pub fn payload_digest(tensors: &[(&TensorMeta, &[u8])]) -> Digest {
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    let metas: Vec<Vec<u8>> = order.iter().map(|(meta, _)| encode(*meta)).collect();
    let parts = metas.iter().zip(order).flat_map(|(meta, (_, bytes))| [meta.as_slice(), bytes]);
    Digest::of_parts(parts)
}

fn is_name(name: &str) -> bool {
    let is_printable = |byte| matches!(byte, b' '..=b'~');
    let has_no_control = || name.bytes().all(is_printable) || !name.contains(char::is_control);
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && has_no_control()
}

/// A time for people: `2026-01-31T12:00:00.25Z`.
pub fn date(utc: Utc) -> String {
    let nanos = i128::from(utc.0) * 1_000_000;
    let date = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok();
    let text =
        date.and_then(|date| date.format(&time::format_description::well_known::Rfc3339).ok());
    text.unwrap_or_else(|| format!("{} ms", utc.0))
}

fn iso<S: Serializer>(utc: &Utc, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&date(*utc))
}
