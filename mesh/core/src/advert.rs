//! Adverts: a peer's own signed, versioned record of what it has and where it can be reached.
//!
//! Bytes become a [`Record`] once, at the edge ([`SignedAdvert::verify`]); behind it nothing is
//! verified again.

use core::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;

use crate::charter::{Charter, CharterFault, Trust};
use crate::class::Class;
use crate::codec::{CodecError, Decode, Encode, decode, decode_head, encode, encoded_len};
use crate::coordinate::Coordinate;
use crate::holding::Supply;
use crate::id::{Digest, PeerId};
use crate::keys::{Signature, SigningKey, verify};
use crate::limits::*;
use crate::physics::Evidence;
use crate::placement::Notice;
use crate::price::Currency;
use crate::receipt::Party;
use crate::revocation::Revocations;
use crate::terms::Terms;
use crate::time::{Now, Utc};
use crate::wire::Extension;

/// Which of a peer's adverts is newer: boots first, then publications since.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize,
)]
pub struct Version {
    /// Grows with each start of the peer (its wall clock at boot, in ms).
    pub epoch: u64,
    /// Grows with each publication.
    pub sequence: u64,
}

/// A device as ONNX Runtime and, where there is one, NVML name it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Device {
    /// Execution provider, lower case: `cpu`, `cuda`.
    pub provider: String,
    /// The vendor's name.
    pub name: String,
    /// Index among the provider's devices.
    pub id: u32,
    /// Memory in all, in MiB.
    pub memory_total_mib: u32,
    /// Memory free when the advert was signed, in MiB.
    pub memory_free_mib: u32,
    /// Busy share when the advert was signed, in percent; absent where nothing measures it.
    pub utilisation_percent: Option<u8>,
}

/// A model that a peer serves now.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Model {
    /// What apps call it.
    pub name: String,
    /// Version, in the Open Inference Protocol's sense: `1`, `2`, …
    pub version: String,
    /// Digest of its bundle.
    pub bundle: Digest,
    /// Jobs that run at once (instances).
    pub slots: u16,
    /// Service time of one row, in µs, as the peer measured it.
    pub service_us: u32,
}

/// A stretch of a model that a peer serves where it does not serve the whole.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Stage {
    /// What apps call the whole.
    pub name: String,
    /// Version of the whole.
    pub version: String,
    /// Digest of the whole's bundle.
    pub whole: Digest,
    /// Digest of the stage's own bundle.
    pub bundle: Digest,
    /// First node of the whole that it has.
    pub from: u32,
    /// First node that it has no more.
    pub to: u32,
    /// Nodes of the whole.
    pub of: u32,
    /// Jobs that run at once (instances).
    pub slots: u16,
    /// Service time of one row, in µs, as the peer measured it.
    pub service_us: u32,
}

/// What a peer asks for its work.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Price {
    /// ISO 4217 code.
    pub currency: String,
    /// Millionths of the currency for a second of a device.
    pub per_device_second_micros: u64,
    /// Millionths of the currency for a gigabyte moved.
    pub per_gb_micros: u64,
}

/// What a peer says of itself. Location, control and operator are not here: they are the
/// charter's to say.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Advert {
    /// Who speaks.
    pub peer: PeerId,
    /// Newer adverts replace older.
    pub version: Version,
    /// When it was signed.
    pub issued: Utc,
    /// Operator's name for the node.
    pub name: String,
    /// Multiaddrs of the control plane.
    pub control_addrs: Vec<String>,
    /// Addresses of the data plane (UDP).
    pub data_addrs: Vec<SocketAddr>,
    /// Peers that hold a connection to this one when it has no address of its own.
    pub relays: Vec<PeerId>,
    /// Where it is in the space of round trips.
    #[serde(skip)]
    pub coordinate: Coordinate,
    /// Its charter, a signed note.
    pub charter: Option<String>,
    /// What it computes with.
    pub devices: Vec<Device>,
    /// What it serves.
    pub models: Vec<Model>,
    /// What it asks.
    pub price: Option<Price>,
    /// Fields of later versions.
    #[serde(skip)]
    pub extensions: Vec<Extension>,
}

/// An advert as it travels: its encoding, signed by the peer that it names.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedAdvert {
    body: Vec<u8>,
    signature: Signature,
}

/// Why an advert is not taken.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AdvertFault {
    /// Larger than an advert may be.
    #[error("advert of {0} bytes, the limit is {ADVERT_BYTES_MAX}")]
    TooLarge(usize),
    /// Not an advert.
    #[error("advert: {0}")]
    Codec(#[from] CodecError),
    /// A list or a name is longer than its limit.
    #[error("advert: {0} is over its limit")]
    OverLimit(&'static str),
    /// It demands what this version does not know.
    #[error("advert demands extension {0}, which this version does not know")]
    UnknownExtension(u16),
    /// Not signed by the peer it names.
    #[error("advert not signed by the peer that it names")]
    Forged,
    /// Signed too far ahead of our clock.
    #[error("advert signed {0} ms in the future")]
    FromTheFuture(u64),
    /// Signed too long ago; perhaps replayed.
    #[error("advert has lapsed: signed {0} ms ago")]
    Lapsed(u64),
}

/// An advert whose signature holds, with its charter's standing under our trust. Only
/// [`SignedAdvert::verify`] makes one.
#[derive(Debug)]
pub struct Record {
    /// What the peer says.
    pub advert: Advert,
    /// What its authorities say, or why that does not count here, also since it was revoked. Validity
    /// in time is checked by the gate, at the moment of use.
    pub charter: Result<Charter, CharterFault>,
    /// The stages that it serves.
    pub stages: Vec<Stage>,
    /// What its charter says by itself, whatever was revoked.
    asserted: Result<Charter, CharterFault>,
    /// Whether it counts otherwise than its advert alone would.
    is_judged: bool,
    /// What measured round trips say of its place.
    pub evidence: Evidence,
    /// What it promises.
    pub terms: Terms,
    /// What it has of files, and room for.
    pub supply: Supply,
    /// What it tells of demand.
    pub notice: Notice,
    /// What the gate cannot tell it apart from.
    pub(crate) class: Class,
    /// What fingerprints of directories add up.
    print: u64,
    /// SHA-256 of the charter's note, once somebody asked for it.
    charter_digest: OnceLock<Digest>,
    signed: SignedAdvert,
}

impl std::fmt::Debug for SignedAdvert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SignedAdvert({} bytes)", self.body.len())
    }
}

/// The extension that holds a peer's stages.
const STAGES: u16 = 1;

impl Price {
    fn is_well_formed(&self) -> bool {
        Currency::of_code(&self.currency).is_some()
    }
}

impl Advert {
    /// Says what stages the peer serves. A peer of an earlier version skips them.
    pub fn offer_stages(&mut self, stages: &[Stage]) {
        self.extensions.retain(|extension| extension.tag != STAGES);
        if !stages.is_empty() {
            let bytes = encode(&stages.to_vec());
            self.extensions.push(Extension { tag: STAGES, critical: false, bytes });
        }
    }

    fn stages(&self) -> Result<Vec<Stage>, AdvertFault> {
        let Some(held) = self.extensions.iter().find(|extension| extension.tag == STAGES) else {
            return Ok(Vec::new());
        };
        let stages: Vec<Stage> = decode(&held.bytes)?;
        let is_within = |stage: &Stage| {
            stage.name.len() <= NAME_BYTES_MAX && stage.from < stage.to && stage.to <= stage.of
        };
        if stages.len() <= ADVERT_MODELS_MAX && stages.iter().all(is_within) {
            Ok(stages)
        } else {
            Err(AdvertFault::OverLimit("stages"))
        }
    }

    /// Bytes that one more extension may have.
    pub(crate) fn bytes_left(&self) -> usize {
        // A tag, a length and a signature come to it.
        ADVERT_BYTES_MAX.saturating_sub(encoded_len(self) + 80)
    }

    /// Signs the advert with the key of the peer that it names.
    pub fn sign(&self, key: &SigningKey) -> SignedAdvert {
        assert_eq!(key.peer_id(), self.peer, "a peer signs only for itself");
        let body = encode(self);
        SignedAdvert { signature: key.sign(&signed_bytes(&body)), body }
    }

    /// Whether it was signed neither too long ago nor in the future.
    pub fn timely(&self, now: Now) -> Result<(), AdvertFault> {
        if self.issued > now.utc + CLOCK_SKEW_MAX {
            return Err(AdvertFault::FromTheFuture(self.issued.0 - now.utc.0));
        }
        if self.issued + ADVERT_LIFETIME < now.utc {
            return Err(AdvertFault::Lapsed(now.utc.0 - self.issued.0));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), AdvertFault> {
        let limits = [
            (self.control_addrs.len() <= ADVERT_ADDRS_MAX, "control_addrs"),
            (self.data_addrs.len() <= ADVERT_ADDRS_MAX, "data_addrs"),
            (self.relays.len() <= ADVERT_ADDRS_MAX, "relays"),
            (self.devices.len() <= ADVERT_DEVICES_MAX, "devices"),
            (self.models.len() <= ADVERT_MODELS_MAX, "models"),
            (self.extensions.len() <= EXTENSIONS_MAX, "extensions"),
            (self.name.len() <= NAME_BYTES_MAX, "name"),
            (self.models.iter().all(|model| model.name.len() <= NAME_BYTES_MAX), "model name"),
            (self.price.iter().all(Price::is_well_formed), "price"),
        ];
        match limits.iter().find(|(within, _)| !within) {
            Some((_, what)) => Err(AdvertFault::OverLimit(what)),
            None => Ok(()),
        }
    }
}

impl SignedAdvert {
    /// Length on the wire, in bytes.
    pub fn len(&self) -> usize {
        self.body.len() + self.signature.len()
    }

    /// Never: an advert has at least its peer.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Whose advert this says it is, and which: unverified, for deciding whether it is worth the
    /// verification.
    pub fn claim(&self) -> Result<(PeerId, Version), CodecError> {
        decode_head(&self.body)
    }

    /// Checks everything that can be checked of an advert: size, limits, signature, time and, under
    /// `trust`, its charter.
    pub fn verify(self, trust: &Trust, now: Now) -> Result<Arc<Record>, AdvertFault> {
        if self.len() > ADVERT_BYTES_MAX {
            return Err(AdvertFault::TooLarge(self.len()));
        }
        let advert: Advert = decode(&self.body)?;
        advert.check()?;
        if let Some(critical) = Extension::first_unknown_critical(&advert.extensions) {
            return Err(AdvertFault::UnknownExtension(critical));
        }
        if !verify(&advert.peer.0, &signed_bytes(&self.body), &self.signature) {
            return Err(AdvertFault::Forged);
        }
        advert.timely(now)?;
        let stages = advert.stages()?;
        let supply = advert.supplied()?;
        let notice = Notice::of(&advert.extensions)?;
        let terms = advert.promised()?;
        let charter = match &advert.charter {
            Some(note) => trust.verify(note, advert.peer),
            None => Err(CharterFault::Absent),
        };
        let (asserted, evidence) = (charter.clone(), Evidence::None);
        let class = Class::of(&charter, &terms, evidence, &advert.devices);
        let Digest(print) = Digest::of(&encode(&(PRINT_CONTEXT, advert.peer, advert.version)));
        let print = u64::from_le_bytes(print[..8].try_into().expect("eight of 32 bytes"));
        Ok(Arc::new(Record {
            advert,
            charter,
            asserted,
            is_judged: false,
            evidence,
            terms,
            stages,
            supply,
            notice,
            class,
            print,
            charter_digest: OnceLock::new(),
            signed: self,
        }))
    }
}

/// A print is bound to its use.
const PRINT_CONTEXT: [u8; 14] = *b"hansa/print/1\0";

impl Record {
    /// A hash of peer and version.
    pub(crate) fn print(&self) -> u64 {
        self.print
    }

    /// What its charter says by itself, whatever was revoked.
    pub fn asserted(&self) -> &Result<Charter, CharterFault> {
        &self.asserted
    }

    /// Whether it counts otherwise than its advert alone would.
    pub(crate) fn is_judged(&self) -> bool {
        self.is_judged
    }

    /// The same record as it stands for one who knows these lists of revocations, none of which may
    /// be older than `age_max`, and whose echoes say so of its place; itself if nothing changes.
    pub fn under(
        self: Arc<Self>,
        lists: &Revocations,
        utc: Utc,
        age_max: Option<Duration>,
        evidence: Evidence,
    ) -> Arc<Self> {
        let verdict = match &self.asserted {
            Ok(charter) => lists.judge(charter, utc, age_max),
            Err(_) => Ok(()),
        };
        let is_same = match (&verdict, &self.charter) {
            (Ok(()), judged) => *judged == self.asserted,
            (Err(fault), Err(known)) => fault == known,
            (Err(_), Ok(_)) => false,
        };
        if is_same && evidence == self.evidence {
            return self;
        }
        let is_judged = verdict.is_err() || evidence != Evidence::None;
        let charter = verdict.and_then(|()| self.asserted.clone());
        let class = Class::of(&charter, &self.terms, evidence, &self.advert.devices);
        Arc::new(Self {
            advert: self.advert.clone(),
            charter,
            asserted: self.asserted.clone(),
            is_judged,
            evidence,
            terms: self.terms.clone(),
            stages: self.stages.clone(),
            supply: self.supply.clone(),
            notice: self.notice.clone(),
            class,
            print: self.print,
            charter_digest: self.charter_digest.clone(),
            signed: self.signed.clone(),
        })
    }

    /// The peer as its charter names it, for receipts; none if it has no charter that counts.
    pub fn party(&self) -> Option<Party> {
        let (note, charter) = (self.advert.charter.as_ref()?, self.charter.as_ref().ok()?);
        let digest = *self.charter_digest.get_or_init(|| Digest::of(note.as_bytes()));
        Some(Party::named(charter, digest, self.evidence == Evidence::Contradicted))
    }

    /// The advert as it travels.
    pub fn signed(&self) -> &SignedAdvert {
        &self.signed
    }
}

/// A signature is bound to its use: an advert's never verifies as anything else.
fn signed_bytes(body: &[u8]) -> Vec<u8> {
    [b"hansa/advert/1\0".as_slice(), body].concat()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A record of a peer whose id begins with these eight bytes. Nobody has its key, so nobody can
    /// sign for it.
    pub(crate) fn record(word: u64) -> Arc<Record> {
        let mut peer = PeerId([0; 32]);
        peer.0[..8].copy_from_slice(&word.to_be_bytes());
        let advert = Advert {
            peer,
            version: Version::default(),
            issued: Utc(0),
            name: String::new(),
            control_addrs: Vec::new(),
            data_addrs: Vec::new(),
            relays: Vec::new(),
            coordinate: Default::default(),
            charter: None,
            devices: Vec::new(),
            models: Vec::new(),
            price: None,
            extensions: Vec::new(),
        };
        let charter = Err(CharterFault::Absent);
        let (asserted, evidence, terms) = (charter.clone(), Evidence::None, Terms::default());
        let class = Class::of(&charter, &terms, evidence, &advert.devices);
        let signed = SignedAdvert { body: Vec::new(), signature: [0; 64] };
        let (stages, supply, notice) = (Vec::new(), Supply::default(), Notice::default());
        Arc::new(Record {
            advert,
            charter,
            asserted,
            is_judged: false,
            evidence,
            terms,
            stages,
            supply,
            notice,
            class,
            print: word,
            charter_digest: OnceLock::new(),
            signed,
        })
    }
}
