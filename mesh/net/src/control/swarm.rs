//! The libp2p swarm: what it is composed of, its limits, and how it begins to listen.

use std::io;

use futures::StreamExt as _;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::transport::TransportError;
use libp2p::identity::Keypair;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, Swarm, SwarmBuilder, identify, mdns};

use super::gossip::Gossip;
use super::{ControlError, peers};
use crate::limits::*;

/// What the swarm does besides moving packets. The limits come first: what they deny, nothing else
/// sees.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(super) gossip: Gossip,
    identify: identify::Behaviour,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
}

/// Builds the swarm and listens. Returns it with the addresses that it listens on, ports resolved.
pub(super) async fn open(
    keypair: &Keypair,
    listen: &[Multiaddr],
    external: &[Multiaddr],
    mdns: bool,
) -> Result<(Swarm<Behaviour>, Vec<Multiaddr>), ControlError> {
    let mut swarm = build(keypair, mdns);
    for addr in external {
        swarm.add_external_address(addr.clone());
    }
    let mut waiting = Vec::new();
    for addr in listen {
        let listener = swarm.listen_on(addr.clone()).map_err(|error| listen_fault(addr, &error))?;
        waiting.push((listener, addr));
    }
    let mut listening = Vec::new();
    let opening = async {
        while !waiting.is_empty() {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { listener_id, address } => {
                    waiting.retain(|(listener, _)| *listener != listener_id);
                    listening.push(address);
                }
                SwarmEvent::ListenerError { listener_id, error } => {
                    if let Some((_, addr)) = waiting.iter().find(|(id, _)| *id == listener_id) {
                        return Err(io_fault(addr, &error));
                    }
                }
                SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                    if let Some((_, addr)) = waiting.iter().find(|(id, _)| *id == listener_id) {
                        let error = reason.err().unwrap_or_else(|| io::Error::other("closed"));
                        return Err(io_fault(addr, &error));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    };
    match tokio::time::timeout(LISTEN_TIMEOUT, opening).await {
        Ok(opened) => opened?,
        Err(_) => {
            let addr = listen.first().map(ToString::to_string).unwrap_or_default();
            return Err(ControlError::Listen { addr, reason: "it takes too long".into() });
        }
    }
    Ok((swarm, listening))
}

fn build(keypair: &Keypair, mdns: bool) -> Swarm<Behaviour> {
    SwarmBuilder::with_existing_identity(keypair.clone())
        .with_tokio()
        .with_quic_config(|mut quic| {
            quic.max_concurrent_stream_limit = CONTROL_STREAMS_MAX;
            quic.max_stream_data = CONTROL_STREAM_WINDOW_BYTES;
            quic.max_connection_data = 2 * CONTROL_STREAM_WINDOW_BYTES;
            quic.max_idle_timeout =
                u32::try_from(CONTROL_SILENCE_MAX.as_millis()).expect("seconds fit");
            quic.keep_alive_interval = CONTROL_KEEP_ALIVE;
            quic.handshake_timeout = DIAL_TIMEOUT;
            quic
        })
        .with_behaviour(|keypair| behaviour(keypair, mdns))
        .expect("behaviours cannot fail")
        .with_swarm_config(|config| {
            config
                .with_idle_connection_timeout(CONTROL_IDLE)
                .with_max_negotiating_inbound_streams(CONTROL_STREAMS_MAX as usize)
        })
        .build()
}

fn behaviour(keypair: &Keypair, mdns: bool) -> Behaviour {
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(CONTROL_HANDSHAKES_MAX))
        .with_max_pending_outgoing(Some(CONTROL_HANDSHAKES_MAX))
        .with_max_established(Some(CONTROL_CONNECTIONS_MAX))
        .with_max_established_per_peer(Some(CONTROL_CONNECTIONS_PER_PEER_MAX));
    let identify = identify::Config::new("/hansa/1".into(), keypair.public())
        .with_agent_version(concat!("hansa/", env!("CARGO_PKG_VERSION")).into())
        // Addresses travel in signed adverts; here they would be hearsay.
        .with_hide_listen_addrs(true)
        .with_cache_size(0);
    let local = keypair.public().to_peer_id();
    let mdns = mdns.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), local));
    let mdns = mdns.and_then(|mdns| {
        // A host without multicast is still a good peer of those that it knows by address.
        mdns.inspect_err(|error| tracing::warn!(%error, "mDNS is not available here")).ok()
    });
    Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        gossip: Gossip::default(),
        identify: identify::Behaviour::new(identify),
        mdns: mdns.into(),
    }
}

fn listen_fault(addr: &Multiaddr, error: &TransportError<io::Error>) -> ControlError {
    match error {
        TransportError::MultiaddrNotSupported(_) => ControlError::Address {
            addr: addr.to_string(),
            reason: "it must be an IP address to listen on".into(),
        },
        TransportError::Other(error) => io_fault(addr, error),
    }
}

/// libp2p wraps the system's error; the cause that counts is somewhere inside.
fn io_fault(addr: &Multiaddr, error: &io::Error) -> ControlError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if error.kind() == io::ErrorKind::AddrInUse {
                return ControlError::AddressInUse { addr: socket_text(addr) };
            }
            // An io::Error of kind Other hides its own cause from `source`.
            if let Some(inner) = error.get_ref() {
                cause = Some(inner);
                continue;
            }
        }
        cause = error.source();
    }
    ControlError::Listen { addr: socket_text(addr), reason: error.to_string() }
}

fn socket_text(addr: &Multiaddr) -> String {
    match (peers::ip_of(addr), peers::port_of(addr)) {
        (Some(ip), Some(port)) => format!("{}/udp", std::net::SocketAddr::new(ip, port)),
        _ => addr.to_string(),
    }
}
