//! Identities: peers, bundles, jobs.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::codec::{Decode, Encode};

/// A peer: its Ed25519 public key. Shown as libp2p shows it (`12D3KooW…`), so that logs of both
/// planes agree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct PeerId(pub [u8; 32]);

/// The identity multihash of a protobuf-encoded Ed25519 key starts with these bytes
/// (libp2p's peer id specification).
const LIBP2P_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 38];
        bytes[..6].copy_from_slice(&LIBP2P_PREFIX);
        bytes[6..].copy_from_slice(&self.0);
        f.write_str(&bs58::encode(bytes).into_string())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Why a text is not an identity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    /// Not the base58 of an Ed25519 peer id.
    #[error("not the id of a peer with an Ed25519 key (12D3KooW…)")]
    Peer,
    /// Not `sha256:` and 64 hexadecimal digits.
    #[error("not a digest: expected sha256: and 64 hexadecimal digits")]
    Digest,
    /// Not 32 hexadecimal digits.
    #[error("not the id of a job: expected 32 hexadecimal digits")]
    Job,
}

impl FromStr for PeerId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bytes = bs58::decode(text).into_vec().map_err(|_| IdError::Peer)?;
        let key = bytes.strip_prefix(&LIBP2P_PREFIX).ok_or(IdError::Peer)?;
        Ok(Self(key.try_into().map_err(|_| IdError::Peer)?))
    }
}

impl Serialize for PeerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A SHA-256 digest: of a bundle's manifest, or of a policy's canonical bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_parts([bytes])
    }

    /// The SHA-256 of `parts`, one after the other.
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        parts.into_iter().for_each(|part| context.update(part));
        Self(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        hex(&self.0, f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.strip_prefix("sha256:").ok_or(IdError::Digest)?.as_bytes();
        if digits.len() != 64 {
            return Err(IdError::Digest);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |c: u8| (c as char).to_digit(16).ok_or(IdError::Digest);
            *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).expect("two digits");
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A job, unique over the mesh; drawn at random by its entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct JobId(pub [u8; 16]);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl FromStr for JobId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let byte = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?);
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(IdError::Job)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_survive_their_text() {
        let peer = PeerId([7; 32]);
        assert!(peer.to_string().starts_with("12D3KooW"));
        assert_eq!(peer.to_string().parse(), Ok(peer));
        let digest = Digest::of(b"abc");
        assert!(digest.to_string().starts_with("sha256:ba7816bf8f01cfea"));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!("sha256:12".parse::<Digest>(), Err(IdError::Digest));
        assert_eq!(
            "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N".parse::<PeerId>(),
            Err(IdError::Peer)
        );
    }
}
