//! What peers sign about membership beside adverts: accusations of others, leaves of themselves.
//!
//! As with adverts, bytes become a [`Proven`] claim once, at the edge, and behind it nothing is
//! verified again.

use crate::advert::Version;
use crate::codec::{Decode, Encode, encode};
use crate::id::PeerId;
use crate::keys::{Signature, SigningKey, verify};
use crate::limits::{ADVERT_LIFETIME, CLOCK_SKEW_MAX};
use crate::time::{Now, Utc};

/// "I could not reach this peer." It speaks of one version of the subject's advert, so that a newer
/// advert refutes it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Accusation {
    /// Who says so.
    pub accuser: PeerId,
    /// Of whom.
    pub subject: PeerId,
    /// The subject's advert that the accuser holds.
    pub version: Version,
    /// When it was signed.
    pub issued: Utc,
}

/// "I am gone." It buries every advert of the boot that it names.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Leave {
    /// Who leaves.
    pub peer: PeerId,
    /// The boot that ends.
    pub epoch: u64,
    /// When it was signed.
    pub issued: Utc,
}

impl Leave {
    /// The newest version that it buries.
    pub fn version(&self) -> Version {
        Version { epoch: self.epoch, sequence: u64::MAX }
    }
}

/// Why a signed claim does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimFault {
    /// Not signed by the peer that it names.
    #[error("not signed by the peer that it names")]
    Forged,
    /// Signed too far from our clock's now.
    #[error("signed too long ago or in the future; compare the peers' clocks")]
    Untimely,
}

/// What a peer can sign.
pub trait Claim: Encode {
    /// Binds a signature to its use: what is signed as one kind never verifies as another.
    const CONTEXT: &'static [u8];
    /// Who must have signed.
    fn signer(&self) -> PeerId;
    /// When.
    fn issued(&self) -> Utc;
}

impl Claim for Accusation {
    const CONTEXT: &'static [u8] = b"hansa/accusation/1\0";
    fn signer(&self) -> PeerId {
        self.accuser
    }
    fn issued(&self) -> Utc {
        self.issued
    }
}

impl Claim for Leave {
    const CONTEXT: &'static [u8] = b"hansa/leave/1\0";
    fn signer(&self) -> PeerId {
        self.peer
    }
    fn issued(&self) -> Utc {
        self.issued
    }
}

/// A claim as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Signed<C> {
    claim: C,
    signature: Signature,
}

/// A claim whose signature holds: made by its signer ([`Proven::sign`]) or by [`Signed::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven<C>(Signed<C>);

impl<C: Claim> Signed<C> {
    /// Checks signature and time.
    pub fn verify(self, now: Now) -> Result<Proven<C>, ClaimFault> {
        timely(&self.claim, now)?;
        if !verify(&self.claim.signer().0, &signed_bytes(&self.claim), &self.signature) {
            return Err(ClaimFault::Forged);
        }
        Ok(Proven(self))
    }
}

impl<C: Claim> Proven<C> {
    /// Signs `claim` with the key of the peer that makes it.
    pub fn sign(claim: C, key: &SigningKey) -> Self {
        assert_eq!(key.peer_id(), claim.signer(), "a peer signs only for itself");
        let signature = key.sign(&signed_bytes(&claim));
        Self(Signed { claim, signature })
    }

    /// Whether it still counts.
    pub fn timely(&self, now: Now) -> Result<(), ClaimFault> {
        timely(&self.0.claim, now)
    }

    /// What is claimed.
    pub fn claim(&self) -> &C {
        &self.0.claim
    }

    /// The claim as it travels.
    pub fn signed(&self) -> &Signed<C> {
        &self.0
    }
}

fn timely(claim: &impl Claim, now: Now) -> Result<(), ClaimFault> {
    let issued = claim.issued();
    if issued > now.utc + CLOCK_SKEW_MAX || issued + ADVERT_LIFETIME < now.utc {
        return Err(ClaimFault::Untimely);
    }
    Ok(())
}

/// The claim is encoded anew, so only its one canonical encoding verifies.
fn signed_bytes<C: Claim>(claim: &C) -> Vec<u8> {
    [C::CONTEXT, &encode(claim)].concat()
}
