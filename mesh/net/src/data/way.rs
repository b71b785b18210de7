//! How a peer is reached to which no connection is open.

use std::fmt;
use std::net::SocketAddr;

use hansa_core::id::PeerId;

/// Where to dial a peer, and who relays to it if that fails or it cannot be dialled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Its addresses, the best first.
    pub addrs: Vec<SocketAddr>,
    /// Peers that it keeps connections with.
    pub relays: Vec<Relay>,
}

/// A peer that relays to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Which.
    pub peer: PeerId,
    /// Where it is dialled.
    pub addrs: Vec<SocketAddr>,
}

impl Way {
    pub(super) fn is_empty(&self) -> bool {
        self.addrs.is_empty() && self.relays.is_empty()
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addrs = self.addrs.iter().map(ToString::to_string);
        let relays = self.relays.iter().map(|relay| format!("relay {}", relay.peer));
        f.write_str(&addrs.chain(relays).collect::<Vec<_>>().join(", "))
    }
}

impl From<&[SocketAddr]> for Way {
    fn from(addrs: &[SocketAddr]) -> Self {
        Self { addrs: addrs.to_vec(), relays: Vec::new() }
    }
}

impl<const N: usize> From<&[SocketAddr; N]> for Way {
    fn from(addrs: &[SocketAddr; N]) -> Self {
        addrs.as_slice().into()
    }
}

impl From<&Vec<SocketAddr>> for Way {
    fn from(addrs: &Vec<SocketAddr>) -> Self {
        addrs.as_slice().into()
    }
}
