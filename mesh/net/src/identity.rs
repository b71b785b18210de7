//! One seed, three views of it: libp2p's key pair, libp2p's peer id, the core's peer id.

use hansa_core::id::PeerId;
use libp2p::identity::{Keypair, ed25519};

/// The key pair that follows from a node's seed.
pub(crate) fn keypair(seed: &[u8; 32]) -> Keypair {
    let secret = ed25519::SecretKey::try_from_bytes(seed.to_owned())
        .expect("every 32 bytes are an Ed25519 seed");
    ed25519::Keypair::from(secret).into()
}

/// The core's id of a peer, if its key is Ed25519 (the id then contains the key itself).
pub(crate) fn core_id(peer: &libp2p::PeerId) -> Option<PeerId> {
    peer.to_string().parse().ok()
}

/// libp2p's id of a peer, if the 32 bytes are a key at all.
pub(crate) fn libp2p_id(peer: &PeerId) -> Option<libp2p::PeerId> {
    peer.to_string().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hansa_core::keys::SigningKey;

    #[test]
    fn one_seed_gives_one_identity_on_both_planes() {
        let peer = SigningKey::from_seed(&[7; 32]).peer_id();
        let theirs = keypair(&[7; 32]).public().to_peer_id();
        assert_eq!(core_id(&theirs), Some(peer));
        assert_eq!(libp2p_id(&peer), Some(theirs));
    }
}
