//! Addresses of the control plane: their form, their resolution, and the book of who lives where.

use std::collections::HashMap;
use std::net::IpAddr;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use super::ControlError;
use crate::limits::{ADDRS_PER_PEER_MAX, BOOK_PEERS_MAX};

/// An address of this plane: a host, a UDP port, QUIC, and perhaps who is expected there.
pub(super) fn parse(text: &str) -> Result<Multiaddr, ControlError> {
    let fault = |reason: &str| ControlError::Address { addr: text.into(), reason: reason.into() };
    let addr: Multiaddr = text.parse().map_err(|_| fault("not a multiaddr"))?;
    let parts: Vec<_> = addr.iter().collect();
    let host = |part: &Protocol<'_>| {
        matches!(
            part,
            Protocol::Ip4(_)
                | Protocol::Ip6(_)
                | Protocol::Dns(_)
                | Protocol::Dns4(_)
                | Protocol::Dns6(_)
        )
    };
    match parts.as_slice() {
        [name, Protocol::Udp(_), Protocol::QuicV1] if host(name) => Ok(addr),
        [name, Protocol::Udp(_), Protocol::QuicV1, Protocol::P2p(_)] if host(name) => Ok(addr),
        _ => Err(fault("it must be HOST/udp/PORT/quic-v1")),
    }
}

/// The address's IP, if it has one.
pub(super) fn ip_of(addr: &Multiaddr) -> Option<IpAddr> {
    match addr.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// The address's UDP port.
pub(super) fn port_of(addr: &Multiaddr) -> Option<u16> {
    addr.iter().find_map(|part| match part {
        Protocol::Udp(port) => Some(port),
        _ => None,
    })
}

/// Who is expected at the address.
pub(super) fn peer_of(addr: &Multiaddr) -> Option<PeerId> {
    match addr.iter().last()? {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    }
}

/// The address with its name, if it has one, replaced by an IP that it stands for.
pub(super) async fn resolve(addr: Multiaddr) -> Result<Multiaddr, String> {
    let name = match addr.iter().next() {
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => {
            name.into_owned()
        }
        _ => return Ok(addr),
    };
    let port = port_of(&addr).expect("parsed as an address of this plane");
    let wanted = |ip: &IpAddr| match addr.iter().next() {
        Some(Protocol::Dns4(_)) => ip.is_ipv4(),
        Some(Protocol::Dns6(_)) => ip.is_ipv6(),
        _ => true,
    };
    let found = tokio::net::lookup_host((name.as_str(), port)).await;
    let mut ips = found.map_err(|error| format!("{name}: {error}"))?.map(|addr| addr.ip());
    let ip = ips.find(wanted).ok_or_else(|| format!("{name} has no address of that kind"))?;
    Ok(addr.replace(0, |_| Some(ip.into())).expect("it has a first part"))
}

/// Where peers were said to be. Bounded; the node's view, not this, is the record of the mesh.
#[derive(Debug, Default)]
pub(super) struct Book(HashMap<PeerId, Vec<Multiaddr>>);

impl Book {
    /// Adds an address; the latest is tried first.
    pub(super) fn learn(&mut self, peer: PeerId, addr: Multiaddr) {
        if peer_of(&addr).is_some_and(|named| named != peer) {
            return;
        }
        if self.0.len() >= BOOK_PEERS_MAX && !self.0.contains_key(&peer) {
            return;
        }
        let addrs = self.0.entry(peer).or_default();
        addrs.retain(|known| *known != addr);
        addrs.insert(0, addr);
        addrs.truncate(ADDRS_PER_PEER_MAX);
    }

    /// The addresses of a peer.
    pub(super) fn addrs(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.0.get(peer).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_quic_over_udp_are_taken() {
        for good in [
            "/ip4/0.0.0.0/udp/4101/quic-v1",
            "/ip6/::1/udp/0/quic-v1",
            "/dns4/node.example/udp/4101/quic-v1",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1:4101", "/ip4/127.0.0.1/tcp/4101", "/ip4/127.0.0.1/udp/4101"] {
            let error = parse(bad).expect_err(bad).to_string();
            assert!(error.contains("expected e.g. /ip4/"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_name_is_replaced_by_its_address() {
        let addr = parse("/dns4/localhost/udp/4101/quic-v1").expect("an address");
        let resolved = resolve(addr).await.expect("localhost resolves");
        assert_eq!(resolved.to_string(), "/ip4/127.0.0.1/udp/4101/quic-v1");
    }

    #[test]
    fn the_book_keeps_few_addresses_and_none_that_names_another_peer() {
        let (peer, other) = (PeerId::random(), PeerId::random());
        let mut book = Book::default();
        for port in 1..20 {
            let addr = format!("/ip4/10.0.0.1/udp/{port}/quic-v1");
            book.learn(peer, addr.parse().expect("an address"));
        }
        let foreign = format!("/ip4/10.0.0.1/udp/20/quic-v1/p2p/{other}");
        book.learn(peer, foreign.parse().expect("an address"));
        let addrs = book.addrs(&peer);
        assert_eq!(addrs.len(), ADDRS_PER_PEER_MAX);
        assert_eq!(port_of(&addrs[0]), Some(19));
    }
}
