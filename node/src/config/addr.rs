//! The forms of multiaddrs that the control plane takes: QUIC over UDP, nothing else. Only the form
//! is looked at; whether anybody is there shows when the node runs.

use std::net::{Ipv4Addr, Ipv6Addr};

use hansa_core::id::PeerId;

/// An address of this machine to listen on.
pub(crate) fn check_listen(text: &str) -> Result<(), String> {
    match check(text, false) {
        Ok(true) => Err(format!("`{text}` names a peer: an address to listen on has no /p2p/")),
        Ok(false) => Ok(()),
        Err(reason) => Err(reason),
    }
}

/// An address of a peer to dial.
pub(crate) fn check_dial(text: &str) -> Result<(), String> {
    check(text, true).map(|_| ())
}

/// Whether the address names its peer.
fn check(text: &str, names: bool) -> Result<bool, String> {
    let example = match names {
        true => "/ip4/203.0.113.7/udp/4101/quic-v1 or /dns4/node.example/udp/4101/quic-v1",
        false => "/ip4/0.0.0.0/udp/4101/quic-v1",
    };
    let fault =
        |reason: &str| Err(format!("`{text}` {reason}: expected an address like {example}"));
    let Some(rest) = text.strip_prefix('/') else { return fault("is not a multiaddr") };
    let parts: Vec<&str> = rest.split('/').collect();
    let [host, value, "udp", port, "quic-v1", peer @ ..] = parts.as_slice() else {
        return fault("is not an address of QUIC over UDP");
    };
    let is_host = match *host {
        "ip4" => value.parse::<Ipv4Addr>().is_ok(),
        "ip6" => value.parse::<Ipv6Addr>().is_ok(),
        "dns" | "dns4" | "dns6" => names && !value.is_empty(),
        _ => false,
    };
    if !is_host {
        return fault("has no host that can be used");
    }
    if port.parse::<u16>().is_err() {
        return fault("has no port from 0 to 65535");
    }
    match peer {
        [] => Ok(false),
        ["p2p", id] if id.parse::<PeerId>().is_ok() => Ok(true),
        ["p2p", id] => fault(&format!("names the peer `{id}`, which is not the id of one")),
        _ => fault("goes on after quic-v1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    #[test]
    fn quic_addresses_pass() {
        check_listen("/ip4/0.0.0.0/udp/0/quic-v1").unwrap();
        check_listen("/ip6/::/udp/4101/quic-v1").unwrap();
        check_dial("/dns4/node.example/udp/4101/quic-v1").unwrap();
        check_dial(&format!("/ip4/203.0.113.7/udp/4101/quic-v1/p2p/{PEER}")).unwrap();
    }

    #[test]
    fn every_other_address_is_refused_with_an_example() {
        for bad in [
            "",
            "0.0.0.0:4101",
            "/ip4/0.0.0.0/tcp/4101",
            "/ip4/0.0.0.0/udp/4101",
            "/ip4/0.0.0/udp/4101/quic-v1",
            "/ip4/0.0.0.0/udp/65536/quic-v1",
            "/dns4/node.example/udp/4101/quic-v1",
            "/ip4/0.0.0.0/udp/4101/quic-v1/p2p/nobody",
            &format!("/ip4/0.0.0.0/udp/4101/quic-v1/p2p/{PEER}"),
        ] {
            let reason = check_listen(bad).unwrap_err();
            assert!(reason.contains(bad), "{reason}");
        }
        assert!(check_dial("/ip4/1.2.3.4/udp/1/quic-v1/p2p-circuit").is_err());
    }
}
