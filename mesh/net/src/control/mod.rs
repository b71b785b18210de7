//! The control plane: a libp2p swarm over QUIC that meets peers and carries gossip frames.
//!
//! [`ControlPlane::start`] opens it and returns a handle to speak with and a receiver to listen to.
//! One task owns the swarm; each gossip stream has its own, so a slow host holds back the peers
//! that send to it and nothing else. Frames are opaque; a lost one is the core's to repair.

mod book;
mod bootstrap;
mod driver;
mod frames;
mod gossip;
mod outbox;
mod peer;
mod seen;
mod swarm;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use hansa_core::id::PeerId;
use libp2p::Multiaddr;
use tokio::sync::{mpsc, oneshot};

use crate::identity::{core_id, keypair};
use crate::limits::*;

/// What a node says of its control plane.
#[derive(Clone, Debug, Default)]
pub struct ControlConfig {
    /// Multiaddrs to listen on: `/ip4/0.0.0.0/udp/4101/quic-v1`. None: dial only.
    pub listen: Vec<String>,
    /// Multiaddrs of peers to meet first, with or without `/p2p/ID`; names (`/dns4/…`) are resolved
    /// at each dial.
    pub bootstrap: Vec<String>,
    /// Whether to look for peers on the local network.
    pub mdns: bool,
    /// Multiaddrs under which others reach this node, when they differ from those listened on.
    pub external: Vec<String>,
}

/// What happens on the control plane. A frame may overtake the [`ControlEvent::Connected`] of its
/// sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlEvent {
    /// An address is listened on (those of the start are not repeated here).
    Listening {
        /// Which.
        addr: String,
    },
    /// Peers that this node dialled see it otherwise than before: see
    /// [`ControlHandle::is_translated`].
    Seen,
    /// A peer is connected, whoever dialled.
    Connected {
        /// Who, as its key proved.
        peer: PeerId,
        /// Its address, as seen from here.
        addr: String,
    },
    /// The last connection with a peer is gone.
    Disconnected {
        /// Who.
        peer: PeerId,
    },
    /// A frame came.
    Frame {
        /// From whom.
        from: PeerId,
        /// Its content.
        bytes: Bytes,
    },
    /// A dial failed; frames that waited for the peer are dropped.
    Unreachable {
        /// Who.
        peer: PeerId,
        /// Why.
        reason: String,
    },
    /// A peer is not spoken with for a while: another protocol version, a broken frame.
    Refused {
        /// Who.
        peer: PeerId,
        /// Why.
        reason: String,
    },
}

/// Why the control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Not a multiaddr of this plane.
    #[error(
        "`{addr}` is not an address of the control plane: {reason}; expected e.g. /ip4/0.0.0.0/udp/4101/quic-v1"
    )]
    Address {
        /// As configured.
        addr: String,
        /// What is wrong.
        reason: String,
    },
    /// Another process has the port.
    #[error("address in use: {addr}; set [mesh] listen to a free port")]
    AddressInUse {
        /// Which, as `host:port/udp`.
        addr: String,
    },
    /// The system refuses the address.
    #[error("cannot listen on {addr}: {reason}; check [mesh] listen")]
    Listen {
        /// Which.
        addr: String,
        /// What the system said.
        reason: String,
    },
}

/// Why a frame is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Larger than a frame may be.
    #[error("a frame of {0} bytes, the limit is {FRAME_BYTES_MAX}")]
    TooLarge(usize),
    /// Too much waits already.
    #[error("the control plane is behind; the frame is dropped")]
    Full,
    /// It was shut down.
    #[error("the control plane is closed")]
    Closed,
}

/// Starts the plane; see [`ControlPlane::start`].
#[derive(Debug)]
pub struct ControlPlane;

impl ControlPlane {
    /// Listens, then begins to look for peers. Returns when every address is listened on, or with
    /// the reason why one cannot be.
    pub async fn start(
        seed: &[u8; 32],
        config: ControlConfig,
    ) -> Result<(ControlHandle, mpsc::Receiver<ControlEvent>), ControlError> {
        let keypair = keypair(seed);
        let local = core_id(&keypair.public().to_peer_id()).expect("the key is Ed25519");
        let external = parse_all(&config.external)?;
        let bootstrap = parse_all(&config.bootstrap)?;
        let listen = parse_all(&config.listen)?;
        let shared = Arc::new(Shared::default());
        let opened = swarm::open(&keypair, &listen, &external, config.mdns).await?;
        shared.set_addrs(&external, &opened.listening);
        let (commands, receiver) = mpsc::channel(CONTROL_COMMANDS_MAX);
        let (events, incoming) = mpsc::channel(CONTROL_EVENTS_MAX);
        let driver =
            driver::Driver::new(opened.swarm, bootstrap, external, Arc::clone(&shared), events);
        tokio::spawn(driver.run(opened.early, receiver));
        Ok((ControlHandle { local, commands, shared }, incoming))
    }
}

/// Speaks to the running plane. Clones are handles to the same one; it closes with the last.
#[derive(Clone, Debug)]
pub struct ControlHandle {
    local: PeerId,
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

/// What the plane has carried since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames received.
    pub received: u64,
    /// Frames written to a peer's stream.
    pub sent: u64,
    /// Frames dropped before they were written: the peer was slow, unreachable or refused.
    pub dropped: u64,
}

impl ControlHandle {
    /// The peer that this node is.
    pub fn local_peer(&self) -> PeerId {
        self.local
    }

    /// The addresses under which others may reach this node: configured ones first, then those
    /// listened on (`0.0.0.0` expanded to each interface, real ports), loopback last and only when
    /// none is configured. They change with the host's interfaces.
    pub fn addrs(&self) -> Vec<String> {
        self.shared.addrs.read().expect("no holder panics").clone()
    }

    /// Whether most peers that this node dialled see it at an address that is none of its own: it is
    /// behind a NAT.
    pub fn is_translated(&self) -> bool {
        self.shared.translated.load(Ordering::Relaxed)
    }

    /// The IPs listened on, loopback last.
    pub(crate) fn listen_ips(&self) -> Vec<std::net::IpAddr> {
        self.shared.listening.read().expect("no holder panics").clone()
    }

    /// Sends a frame, dialling the peer by its known addresses if need be. Never waits; success
    /// means that it is queued.
    pub fn send(&self, peer: PeerId, bytes: Bytes) -> Result<(), SendError> {
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(SendError::TooLarge(bytes.len()));
        }
        self.command(Command::Send { peer, bytes }).inspect_err(|_| self.shared.dropped.add(1))
    }

    /// Remembers where a peer can be reached, for later sends.
    pub fn learn(&self, peer: PeerId, addrs: Vec<String>) -> Result<(), SendError> {
        self.command(Command::Learn { peer, addrs, dial: false })
    }

    /// Connects with a peer, at these addresses or known ones.
    pub fn dial(&self, peer: PeerId, addrs: Vec<String>) -> Result<(), SendError> {
        self.command(Command::Learn { peer, addrs, dial: true })
    }

    /// Closes all connections with a peer.
    pub fn disconnect(&self, peer: PeerId) -> Result<(), SendError> {
        self.command(Command::Disconnect { peer })
    }

    /// What was carried so far.
    pub fn counters(&self) -> Counters {
        let Shared { received, sent, dropped, .. } = &*self.shared;
        Counters { received: received.get(), sent: sent.get(), dropped: dropped.get() }
    }

    /// Closes the plane and its sockets.
    pub async fn shutdown(&self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Shutdown { done }).await.is_ok() {
            let _ = closed.await;
        }
    }

    fn command(&self, command: Command) -> Result<(), SendError> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::Full,
            mpsc::error::TrySendError::Closed(_) => SendError::Closed,
        })
    }
}

enum Command {
    Send { peer: PeerId, bytes: Bytes },
    Learn { peer: PeerId, addrs: Vec<String>, dial: bool },
    Disconnect { peer: PeerId },
    Shutdown { done: oneshot::Sender<()> },
}

#[derive(Debug, Default)]
struct Shared {
    addrs: RwLock<Vec<String>>,
    listening: RwLock<Vec<std::net::IpAddr>>,
    translated: AtomicBool,
    received: Counter,
    sent: Counter,
    dropped: Counter,
}

#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn set_addrs(&self, external: &[Multiaddr], listening: &[Multiaddr]) {
        let (loopback, lan): (Vec<_>, Vec<_>) =
            listening.iter().partition(|addr| book::ip_of(addr).is_some_and(|ip| ip.is_loopback()));
        let ips = lan.iter().chain(&loopback).filter_map(|addr| book::ip_of(addr)).collect();
        // Who can be reached from afar is no use at everybody else's own loopback.
        let loopback = loopback.into_iter().filter(|_| external.is_empty());
        let all = external.iter().chain(lan).chain(loopback).map(ToString::to_string).collect();
        *self.listening.write().expect("no holder panics") = ips;
        *self.addrs.write().expect("no holder panics") = all;
    }
}

fn parse_all(addrs: &[String]) -> Result<Vec<Multiaddr>, ControlError> {
    addrs.iter().map(|addr| book::parse(addr)).collect()
}
