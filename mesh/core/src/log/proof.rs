//! A receipt's proof: one text that verifies offline, in the form of C2SP's tlog-proof
//! (c2sp.org/tlog-proof). Its `extra` line holds the receipt's bytes, the keeper's charter and
//! those of cosigners.
//!
//! The chain: an authority that the reader trusts signed the charter; the charter names a peer, and
//! where and whose it is; the peer's key signed the checkpoint; the checkpoint covers the receipt;
//! the receipt says what the charter says. Whatever a proof carries is verified: a part that nobody
//! can check is a fault, so no bit of it can change unnoticed.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use super::checkpoint::{Checkpoint, CheckpointFault, decimal, digest};
use super::cosign::{CosignFault, cosignatures};
use super::tree::{PROOF_HASHES_MAX, includes};
use crate::charter::{Charter, CharterFault, Trust};
use crate::codec::{decode, encode};
use crate::id::{Digest, PeerId};
use crate::limits::{COSIGNERS_MAX, PROOF_BYTES_MAX};
use crate::note::signer_names;
use crate::receipt::{Receipt, ReceiptFault, leaf};
use crate::time::Utc;

const HEAD: &str = "c2sp.org/tlog-proof@v1";
const EXTRA: &str = "hansa/receipt-proof/v1";

/// A receipt with all that shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptProof {
    /// The receipt's bytes.
    pub receipt: Vec<u8>,
    /// The keeper's charter, a note.
    pub charter: String,
    /// Charters of peers that cosigned.
    pub cosigners: Vec<String>,
    /// The receipt's place in the log.
    pub index: u64,
    /// Siblings from its leaf to the root.
    pub hashes: Vec<Digest>,
    /// The log's checkpoint, a note.
    pub checkpoint: String,
}

/// What a proof shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proven {
    /// The receipt.
    pub receipt: Receipt,
    /// Its leaf: by this the receipt of a job names those of its parts.
    pub leaf: Digest,
    /// Its place in the keeper's log.
    pub index: u64,
    /// How many entries that log had.
    pub size: u64,
    /// The keeper's charter.
    pub charter: Charter,
    /// Who saw the same log.
    pub cosigned: Vec<Cosigned>,
}

/// A cosigner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cosigned {
    /// Which peer.
    pub peer: PeerId,
    /// When it saw the log.
    pub at: Utc,
    /// Who runs it, when the proof carries its charter.
    pub operator: Option<String>,
}

/// Why a proof does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofFault {
    /// Longer than a proof may be.
    #[error("a proof of {0} bytes, the limit is {PROOF_BYTES_MAX}")]
    TooLarge(usize),
    /// Not a proof's form.
    #[error("not a receipt's proof: {0}")]
    Form(&'static str),
    /// No receipt.
    #[error(transparent)]
    Receipt(#[from] ReceiptFault),
    /// No checkpoint of a peer's log.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointFault),
    /// A cosignature does not hold.
    #[error(transparent)]
    Cosign(#[from] CosignFault),
    /// The receipt is not in the log.
    #[error("the receipt is not entry {index} of the log of {size} entries that was signed")]
    NotIncluded {
        /// Where it should be.
        index: u64,
        /// Entries of the log.
        size: u64,
    },
    /// The receipt is another's.
    #[error("the receipt is kept by {keeper}, the log is {log}'s")]
    Foreign {
        /// Who the receipt says keeps it.
        keeper: PeerId,
        /// Whose log it is in.
        log: PeerId,
    },
    /// The charter does not count.
    #[error("the charter of {peer}: {fault}")]
    Charter {
        /// Whose.
        peer: PeerId,
        /// Why.
        fault: CharterFault,
    },
    /// The charter says something else than the receipt.
    #[error("the receipt differs from its keeper's charter: {0}")]
    Differs(&'static str),
    /// The charter was not valid when the job ran.
    #[error("the keeper's charter was not valid when the job started")]
    Expired,
    /// A charter in the proof that belongs to no cosigner, or is signed by somebody unknown.
    #[error("the proof carries a charter that cannot be checked: {0}")]
    Stray(String),
}

impl ReceiptProof {
    /// Holds every part of the proof against the authorities in `trust`.
    pub fn verify(&self, trust: &Trust) -> Result<Proven, ProofFault> {
        let receipt = Receipt::open(&self.receipt)?;
        let (checkpoint, log) = Checkpoint::open(&self.checkpoint)?;
        let keeper = receipt.keeper();
        if keeper.peer != log {
            return Err(ProofFault::Foreign { keeper: keeper.peer, log });
        }
        let (size, index) = (checkpoint.size, self.index);
        if !includes(size, &checkpoint.root, index, &leaf(&self.receipt), &self.hashes) {
            return Err(ProofFault::NotIncluded { index, size });
        }
        let charter = attested(&receipt, &self.charter, trust)?;
        let cosigned = self.cosigned(log, trust)?;
        let leaf = leaf(&self.receipt);
        Ok(Proven { receipt, leaf, index, size, charter, cosigned })
    }

    fn cosigned(&self, log: PeerId, trust: &Trust) -> Result<Vec<Cosigned>, ProofFault> {
        let found = cosignatures(&self.checkpoint)?.into_iter();
        let mut cosigned: Vec<_> =
            found.map(|own| Cosigned { peer: own.peer, at: own.at, operator: None }).collect();
        for note in &self.cosigners {
            let stray = |reason: String| ProofFault::Stray(reason);
            let read = Charter::read_unverified(note).map_err(|fault| stray(fault.to_string()))?;
            let peer = read.subject;
            let of = cosigned.iter_mut().find(|own| own.peer == peer && own.operator.is_none());
            let of = of.ok_or_else(|| stray(format!("{peer} did not cosign")))?;
            let fault = |fault| ProofFault::Charter { peer, fault };
            let charter = trust.verify(note, peer).map_err(fault)?;
            // Nothing else vouches for these bytes, so each signature has to be one that counts.
            if signer_names(note).len() != charter.authorities.len() {
                return Err(stray(format!("not all who signed that of {peer} are trusted")));
            }
            if peer == log || !charter.valid_at(of.at) {
                return Err(stray(format!("that of {peer} was not valid when it cosigned")));
            }
            of.operator = Some(charter.operator);
        }
        Ok(cosigned)
    }
}

/// The charter of a receipt's keeper, if `note` is the one that the receipt means, authorities in
/// `trust` signed it, and it was valid when the job started.
pub fn attested(receipt: &Receipt, note: &str, trust: &Trust) -> Result<Charter, ProofFault> {
    let keeper = receipt.keeper();
    let fault = |fault| ProofFault::Charter { peer: keeper.peer, fault };
    let charter = trust.verify(note, keeper.peer).map_err(fault)?;
    match keeper.differs(&charter, note) {
        Some(field) => Err(ProofFault::Differs(field)),
        None if receipt.lei(keeper) != charter.lei => {
            Err(ProofFault::Differs("legal entity identifier"))
        }
        None if !charter.valid_at(receipt.started) => Err(ProofFault::Expired),
        None => Ok(charter),
    }
}

impl std::fmt::Display for ReceiptProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let extra = encode(&(
            EXTRA.to_owned(),
            self.receipt.clone(),
            self.charter.clone(),
            self.cosigners.clone(),
        ));
        write!(f, "{HEAD}\nextra {}\nindex {}\n", BASE64.encode(extra), self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{}", BASE64.encode(hash.0))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

/// Reads the text, strictly: each proof has one.
impl FromStr for ReceiptProof {
    type Err = ProofFault;
    fn from_str(text: &str) -> Result<Self, ProofFault> {
        if text.len() > PROOF_BYTES_MAX {
            return Err(ProofFault::TooLarge(text.len()));
        }
        let form = ProofFault::Form;
        let (lines, checkpoint) =
            text.split_once("\n\n").ok_or(form("it has no checkpoint after an empty line"))?;
        let mut lines = lines.split('\n');
        if lines.next() != Some(HEAD) {
            return Err(form("it does not begin with `c2sp.org/tlog-proof@v1`"));
        }
        let mut value = |key| lines.next()?.strip_prefix(key);
        let extra = value("extra ").ok_or(form("the second line is not `extra …`"))?;
        let index = value("index ").and_then(decimal);
        let index = index.ok_or(form("the third line is not `index` and a number"))?;
        let hashes: Option<Vec<_>> = lines.map(digest).collect();
        let hashes = hashes.ok_or(form("a line of the proof is not a hash in base64"))?;
        let fault = form("its extra data is not a receipt with charters");
        let extra = BASE64.decode(extra).map_err(|_| fault.clone())?;
        let (head, receipt, charter, cosigners): (String, Vec<u8>, String, Vec<String>) =
            decode(&extra).map_err(|_| fault.clone())?;
        if head != EXTRA || hashes.len() > PROOF_HASHES_MAX || cosigners.len() > COSIGNERS_MAX {
            return Err(fault);
        }
        let proof =
            Self { receipt, charter, cosigners, index, hashes, checkpoint: checkpoint.to_owned() };
        if proof.to_string() != text {
            return Err(form("not in canonical form"));
        }
        Ok(proof)
    }
}
