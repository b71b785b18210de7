//! Ed25519 signatures. One 32-byte seed serves a peer's identity, its TLS certificate and its
//! adverts; another kind of holder (an authority) signs charters with a seed of its own.

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::id::PeerId;

/// A signature's bytes.
pub type Signature = [u8; 64];

/// A key pair made from a seed.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// The key that follows from `seed`.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(seed).expect("every 32 bytes are an Ed25519 seed"))
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes")
    }

    /// The peer whose key this is.
    pub fn peer_id(&self) -> PeerId {
        PeerId(self.public())
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> Signature {
        self.0.sign(message).as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

/// Whether `signature` over `message` is by the holder of `public`.
pub fn verify(public: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
}
