//! The libp2p swarm: what it is composed of, its limits, and how it begins to listen.

use std::io;

use futures::StreamExt as _;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Transport as _, TransportError};
use libp2p::core::upgrade;
use libp2p::identity::Keypair;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, Swarm, identify, mdns, quic};

use super::gossip::Gossip;
use super::{ControlError, book};
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

/// The swarm, listening.
pub(super) struct Opened {
    pub(super) swarm: Swarm<Behaviour>,
    /// What it listens on, ports resolved.
    pub(super) listening: Vec<Multiaddr>,
    /// What happened meanwhile: neighbours may be found, or call, before the last address is up.
    pub(super) early: Vec<SwarmEvent<BehaviourEvent>>,
}

/// Builds the swarm and listens.
pub(super) async fn open(
    keypair: &Keypair,
    listen: &[Multiaddr],
    external: &[Multiaddr],
    mdns: bool,
) -> Result<Opened, ControlError> {
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
    let mut early = Vec::new();
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
                event => early.push(event),
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
    Ok(Opened { swarm, listening, early })
}

/// Built by hand, because libp2p's builder wraps the transport's errors beyond recognition.
fn build(keypair: &Keypair, mdns: bool) -> Swarm<Behaviour> {
    let mut config = quic::Config::new(keypair);
    config.max_concurrent_stream_limit = CONTROL_STREAMS_MAX;
    config.max_stream_data = CONTROL_STREAM_WINDOW_BYTES;
    config.max_connection_data = 2 * CONTROL_STREAM_WINDOW_BYTES;
    config.max_idle_timeout = u32::try_from(CONTROL_SILENCE_MAX.as_millis()).expect("seconds fit");
    config.keep_alive_interval = CONTROL_KEEP_ALIVE;
    config.handshake_timeout = DIAL_TIMEOUT;
    let transport = quic::tokio::Transport::new(config)
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)))
        .boxed();
    let swarm = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(CONTROL_IDLE)
        // Gossip does not wait a round trip to hear that the peer speaks it: almost all do.
        .with_substream_upgrade_protocol_override(upgrade::Version::V1Lazy)
        .with_max_negotiating_inbound_streams(CONTROL_STREAMS_MAX as usize);
    Swarm::new(transport, behaviour(keypair, mdns), keypair.public().to_peer_id(), swarm)
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

/// The system's error is inside libp2p's.
fn io_fault(addr: &Multiaddr, error: &io::Error) -> ControlError {
    let quic = error.get_ref().and_then(|inner| inner.downcast_ref::<quic::Error>());
    let kind = match quic {
        Some(quic::Error::Io(inner)) => inner.kind(),
        _ => error.kind(),
    };
    let addr = socket_text(addr);
    match kind {
        io::ErrorKind::AddrInUse => ControlError::AddressInUse { addr },
        _ => ControlError::Listen { addr, reason: error.to_string() },
    }
}

fn socket_text(addr: &Multiaddr) -> String {
    match (book::ip_of(addr), book::port_of(addr)) {
        (Some(ip), Some(port)) => format!("{}/udp", std::net::SocketAddr::new(ip, port)),
        _ => addr.to_string(),
    }
}
