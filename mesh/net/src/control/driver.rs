//! The task that owns the swarm: turns the host's commands into dials and streams, and the swarm's
//! events into the host's.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify, mdns};
use tokio::sync::mpsc;

use super::book::{self, Book};
use super::bootstrap::Bootstrap;
use super::frames;
use super::gossip::{self, FromHandler};
use super::peer::{Note, Peer};
use super::seen::Seen;
use super::swarm::{Behaviour, BehaviourEvent};
use super::{Command, ControlEvent, Shared};
use crate::identity::{core_id, libp2p_id};
use crate::limits::*;

/// Pending bootstrap dials and streams that broke are looked at this often.
const TICK: Duration = Duration::from_millis(250);

/// See the module.
pub(super) struct Driver {
    swarm: Swarm<Behaviour>,
    external: Vec<Multiaddr>,
    shared: Arc<Shared>,
    events: mpsc::Sender<ControlEvent>,
    /// Events that wait for room at the host. While there are many, the swarm is not polled.
    waiting: VecDeque<ControlEvent>,
    peers: HashMap<PeerId, Peer>,
    book: Book,
    seen: Seen,
    bootstrap: Bootstrap,
    bootstrap_dials: HashMap<ConnectionId, usize>,
    resolving: FuturesUnordered<Resolving>,
    notes: (mpsc::Sender<Note>, mpsc::Receiver<Note>),
}

type Resolving = futures::future::BoxFuture<'static, (usize, Result<Multiaddr, String>)>;

impl Driver {
    pub(super) fn new(
        swarm: Swarm<Behaviour>,
        bootstrap: Vec<Multiaddr>,
        external: Vec<Multiaddr>,
        shared: Arc<Shared>,
        events: mpsc::Sender<ControlEvent>,
    ) -> Self {
        Self {
            swarm,
            external,
            shared,
            events,
            waiting: VecDeque::new(),
            peers: HashMap::new(),
            book: Book::default(),
            seen: Seen::default(),
            bootstrap: Bootstrap::new(bootstrap, Instant::now()),
            bootstrap_dials: HashMap::new(),
            resolving: FuturesUnordered::new(),
            notes: mpsc::channel(64),
        }
    }

    /// Runs until the host shuts the plane down or drops its last handle. `early` is what the swarm
    /// said before.
    pub(super) async fn run(
        mut self,
        early: Vec<SwarmEvent<BehaviourEvent>>,
        mut commands: mpsc::Receiver<Command>,
    ) {
        for event in early {
            self.on_swarm(event);
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let events = self.events.clone();
        loop {
            tokio::select! {
                room = events.reserve(), if !self.waiting.is_empty() => {
                    let Ok(room) = room else { return };
                    room.send(self.waiting.pop_front().expect("checked"));
                }
                event = self.swarm.select_next_some(), if self.waiting.len() < CONTROL_EVENTS_MAX => {
                    self.on_swarm(event);
                }
                command = commands.recv() => match command {
                    Some(Command::Send { peer, bytes }) => self.send(peer, bytes),
                    Some(Command::Learn { peer, addrs, dial }) => self.learn(peer, &addrs, dial),
                    Some(Command::Disconnect { peer }) => {
                        if let Some(peer) = libp2p_id(&peer) {
                            let _ = self.swarm.disconnect_peer_id(peer);
                        }
                    }
                    Some(Command::Shutdown { done }) => {
                        drop(self);
                        let _ = done.send(());
                        return;
                    }
                    None => return,
                },
                Some(note) = self.notes.1.recv() => self.on_note(note),
                Some((nth, resolved)) = self.resolving.next() => self.dial_bootstrap(nth, resolved),
                _ = tick.tick() => self.on_tick(),
            }
        }
    }

    fn tell(&mut self, event: ControlEvent) {
        self.waiting.push_back(event);
    }

    fn send(&mut self, peer: hansa_core::id::PeerId, bytes: Bytes) {
        let Some(id) = libp2p_id(&peer).filter(|id| id != self.swarm.local_peer_id()) else {
            return self.shared.dropped.add(1);
        };
        if self.swarm.behaviour_mut().gossip.is_refused(&id) {
            return self.shared.dropped.add(1);
        }
        let entry = self.peers.entry(id).or_default();
        self.shared.dropped.add(entry.outbox.push(bytes));
        if entry.is_connected() {
            self.open_stream(id);
        } else {
            self.dial(id);
        }
    }

    fn learn(&mut self, peer: hansa_core::id::PeerId, addrs: &[String], dial: bool) {
        let Some(id) = libp2p_id(&peer).filter(|id| id != self.swarm.local_peer_id()) else {
            return;
        };
        for addr in addrs.iter().take(ADDRS_PER_PEER_MAX).rev() {
            match book::parse(addr) {
                Ok(addr) => self.book.learn(id, addr),
                Err(error) => tracing::debug!(%peer, %error, "address ignored"),
            }
        }
        if dial {
            self.dial(id);
        }
    }

    /// Dials a peer unless that is under way or it is connected.
    fn dial(&mut self, peer: PeerId) {
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(self.book.addrs(&peer))
            .build();
        match self.swarm.dial(options) {
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => self.unreachable(peer, &error),
        }
    }

    fn unreachable(&mut self, peer: PeerId, error: &DialError) {
        let reason = match error {
            DialError::NoAddresses => "no address of it is known".into(),
            DialError::WrongPeerId { obtained, address } => {
                format!("another key answered at {address}: {obtained}")
            }
            DialError::Denied { cause } => match std::error::Error::source(cause) {
                Some(cause) => cause.to_string(),
                None => cause.to_string(),
            },
            other => other.to_string(),
        };
        if self.peers.get(&peer).is_some_and(Peer::is_connected) {
            return;
        }
        if let Some(entry) = self.peers.remove(&peer) {
            self.shared.dropped.add(entry.outbox.drain().len() as u64);
        }
        if let Some(peer) = core_id(&peer) {
            self.tell(ControlEvent::Unreachable { peer, reason });
        }
    }

    /// Opens the stream that we send on, if something waits and it is not there.
    fn open_stream(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(connection) = peer.wants_stream() {
            peer.opening(connection);
            self.swarm.behaviour_mut().gossip.open(id, connection);
        }
    }

    fn refuse(&mut self, id: PeerId, reason: String) {
        let news = self.swarm.behaviour_mut().gossip.refuse(id);
        let _ = self.swarm.disconnect_peer_id(id);
        if let Some(peer) = core_id(&id).filter(|_| news) {
            tracing::warn!(%peer, reason, "peer refused");
            self.tell(ControlEvent::Refused { peer, reason });
        }
    }

    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(event)) => self.on_gossip(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                connection_id,
                info,
            })) => match speaks_gossip(&info) {
                true => self.on_seen(peer_id, connection_id, &info.observed_addr),
                false => self.refuse(peer_id, other_version(&info.protocols)),
            },
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(found))) => {
                self.on_found(found);
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                if let Some(nth) = self.bootstrap_dials.remove(&connection_id) {
                    self.bootstrap.met(nth);
                }
                let peer = self.peers.entry(peer_id).or_default();
                if endpoint.is_dialer() {
                    let ip = book::ip_of(endpoint.get_remote_address());
                    peer.dialled = ip.map(|ip| (connection_id, ip));
                }
                if peer.gain(connection_id)
                    && let Some(peer) = core_id(&peer_id)
                {
                    let addr = endpoint.get_remote_address().to_string();
                    self.tell(ControlEvent::Connected { peer, addr });
                }
                self.open_stream(peer_id);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => {
                self.on_closed(peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                if let Some(nth) = self.bootstrap_dials.remove(&connection_id) {
                    self.on_bootstrap_failure(nth, &error);
                }
                if let Some(peer) = peer_id {
                    self.unreachable(peer, &error);
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                self.publish_addrs();
                self.tell(ControlEvent::Listening { addr: address.to_string() });
            }
            SwarmEvent::ExpiredListenAddr { .. } => self.publish_addrs(),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::error!(?addresses, ?reason, "a listener of the control plane closed");
                self.publish_addrs();
            }
            _ => {}
        }
    }

    /// A peer says where it sees this node. Only what it sees of a dial tells of a NAT.
    fn on_seen(&mut self, id: PeerId, connection: ConnectionId, observed: &Multiaddr) {
        let dialled = self.peers.get(&id).and_then(|peer| peer.dialled);
        let theirs = dialled.filter(|(dialled, _)| *dialled == connection).map(|(_, ip)| ip);
        let (Some(theirs), Some(observed)) = (theirs, book::ip_of(observed)) else { return };
        let own = self.shared.listening.read().expect("no holder panics").clone();
        let translated = self.seen.note(id, theirs, observed, &own);
        self.judge_seen(translated);
    }

    fn judge_seen(&mut self, translated: Option<bool>) {
        let Some(translated) = translated else { return };
        if self.shared.translated.swap(translated, Ordering::Relaxed) != translated {
            tracing::info!(translated, "peers see this node at another address than its own");
            self.tell(ControlEvent::Seen);
        }
    }

    fn publish_addrs(&self) {
        let listening: Vec<_> = self.swarm.listeners().cloned().collect();
        self.shared.set_addrs(&self.external, &listening);
    }

    fn on_gossip(&mut self, gossip::Event { peer: id, connection, what }: gossip::Event) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let notes = self.notes.0.clone();
        match what {
            FromHandler::Inbound(stream) => {
                let from = core_id(&id).expect("the doorman admits no other key");
                let reading =
                    frames::read(stream, from, self.events.clone(), Arc::clone(&self.shared));
                peer.read_with(connection, async move {
                    if let Err(offence) = reading.await {
                        let _ = notes.send(Note::Offence(id, offence)).await;
                    }
                });
            }
            FromHandler::Outbound(stream) => {
                let (outbox, shared) = (Arc::clone(&peer.outbox), Arc::clone(&self.shared));
                peer.write_with(connection, move |until| async move {
                    if frames::write(stream, &outbox, &shared, until).await.is_err() {
                        let _ = notes.send(Note::WriterBroke(id, connection)).await;
                    }
                });
            }
            // The tick tries again.
            FromHandler::Failed => peer.open_failed(connection),
            FromHandler::Unsupported => self.refuse(id, other_version(&[])),
        }
    }

    fn on_closed(&mut self, id: PeerId, connection: ConnectionId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.lose(connection);
        if peer.is_connected() {
            return;
        }
        self.shared.dropped.add(peer.outbox.drain().len() as u64);
        self.peers.remove(&id);
        let translated = self.seen.forget(&id);
        self.judge_seen(translated);
        if let Some(peer) = core_id(&id) {
            self.tell(ControlEvent::Disconnected { peer });
        }
        if self.swarm.network_info().num_peers() == 0 {
            self.bootstrap.alone(Instant::now());
        }
    }

    fn on_note(&mut self, note: Note) {
        match note {
            Note::WriterBroke(id, connection) => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.writer_broke(connection);
                }
            }
            Note::Offence(id, offence) => self.refuse(id, offence.to_string()),
        }
    }

    /// mDNS found neighbours. A large network is met through gossip, not by dialling all of it.
    fn on_found(&mut self, found: Vec<(PeerId, Multiaddr)>) {
        for (peer, addr) in found {
            self.book.learn(peer, addr);
            if self.peers.len() < MDNS_PEERS_MAX {
                self.dial(peer);
            }
        }
    }

    fn on_tick(&mut self) {
        for (nth, addr) in self.bootstrap.take_due(Instant::now()) {
            self.resolving.push(Box::pin(async move { (nth, book::resolve(addr).await) }));
        }
        let waiting = |(_, peer): &(&PeerId, &Peer)| peer.wants_stream().is_some();
        let broken: Vec<_> = self.peers.iter().filter(waiting).map(|(id, _)| *id).collect();
        for id in broken {
            self.open_stream(id);
        }
        if self.peers.is_empty()
            && let Some(mdns) = self.swarm.behaviour().mdns.as_ref()
        {
            let found: Vec<_> = mdns.discovered_nodes().copied().collect();
            for peer in found.into_iter().take(MDNS_PEERS_MAX) {
                if !self.book.addrs(&peer).is_empty() {
                    self.dial(peer);
                }
            }
        }
    }

    fn dial_bootstrap(&mut self, nth: usize, resolved: Result<Multiaddr, String>) {
        let addr = match resolved {
            Ok(addr) => addr,
            Err(reason) => {
                let (addr, pause) = self.bootstrap.failed(nth, Instant::now());
                return tracing::warn!(%addr, reason, ?pause, "bootstrap address not resolved");
            }
        };
        if let Some(peer) = book::peer_of(&addr) {
            if peer == *self.swarm.local_peer_id() {
                return self.bootstrap.own(nth);
            }
            if self.swarm.is_connected(&peer) {
                return self.bootstrap.met(nth);
            }
        }
        let options = DialOpts::unknown_peer_id().address(addr).build();
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.bootstrap_dials.insert(connection, nth);
            }
            // The swarm leaves out what it listens on itself.
            Err(DialError::NoAddresses) => self.bootstrap.own(nth),
            Err(error) => self.on_bootstrap_failure(nth, &error),
        }
    }

    fn on_bootstrap_failure(&mut self, nth: usize, error: &DialError) {
        if matches!(error, DialError::LocalPeerId { .. }) {
            return self.bootstrap.own(nth);
        }
        let (addr, pause) = self.bootstrap.failed(nth, Instant::now());
        tracing::warn!(%addr, %error, ?pause, "bootstrap peer not reached");
    }
}

fn speaks_gossip(info: &identify::Info) -> bool {
    info.protocols.iter().any(|protocol| *protocol == GOSSIP_PROTOCOL)
}

fn other_version(protocols: &[libp2p::StreamProtocol]) -> String {
    let theirs: Vec<_> = protocols
        .iter()
        .map(|protocol| protocol.as_ref())
        .filter(|protocol| protocol.starts_with("/hansa/"))
        .collect();
    match theirs.as_slice() {
        [] => format!("it does not speak {GOSSIP_PROTOCOL}, which this node does"),
        theirs => format!("it speaks {}, this node {GOSSIP_PROTOCOL}", theirs.join(", ")),
    }
}
