//! The protocol `/hansa/gossip/1` in libp2p's terms: opens an outbound stream when told to, hands
//! on those that peers open. What runs on them is in `frames`.
//!
//! Also the doorman: connections of peers whose key is not Ed25519, or who were refused a moment
//! ago, are denied here, before anything else sees them.

use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll};
use std::time::Instant;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, Stream, StreamUpgradeError, SubstreamProtocol, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol};

use crate::identity::core_id;
use crate::limits::{FRAME_TIMEOUT, GOSSIP_PROTOCOL, REFUSED_PAUSE};

const PROTOCOL: StreamProtocol = StreamProtocol::new(GOSSIP_PROTOCOL);
/// Peers remembered as refused; beyond it the oldest is forgotten.
const REFUSED_MAX: usize = 1_024;

/// What a connection tells.
#[derive(Debug)]
pub(super) enum FromHandler {
    /// The peer opened a stream to send on.
    Inbound(Stream),
    /// The stream that was asked for.
    Outbound(Stream),
    /// The peer does not speak this protocol.
    Unsupported,
    /// The stream that was asked for failed.
    Failed,
}

/// An event, with whose it is.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) peer: PeerId,
    pub(super) connection: ConnectionId,
    pub(super) what: FromHandler,
}

/// Why a connection is denied.
#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("the peer's key is not Ed25519")]
    Key,
    #[error("the peer was refused a moment ago")]
    Refused,
}

/// The behaviour.
#[derive(Debug, Default)]
pub(super) struct Gossip {
    actions: VecDeque<ToSwarm<Event, ()>>,
    refused: HashMap<PeerId, Instant>,
}

impl Gossip {
    /// Asks for a stream to send on.
    pub(super) fn open(&mut self, peer_id: PeerId, connection: ConnectionId) {
        let handler = NotifyHandler::One(connection);
        self.actions.push_back(ToSwarm::NotifyHandler { peer_id, handler, event: () });
    }

    /// Denies a peer's connections for a while. Says whether that is news.
    pub(super) fn refuse(&mut self, peer: PeerId) -> bool {
        if self.is_refused(&peer) {
            return false;
        }
        if self.refused.len() >= REFUSED_MAX {
            let oldest =
                self.refused.iter().min_by_key(|(_, until)| **until).map(|(peer, _)| *peer);
            oldest.map(|oldest| self.refused.remove(&oldest));
        }
        self.refused.insert(peer, Instant::now() + REFUSED_PAUSE);
        true
    }

    /// Whether a peer is refused now.
    pub(super) fn is_refused(&mut self, peer: &PeerId) -> bool {
        match self.refused.get(peer) {
            Some(until) if *until > Instant::now() => true,
            Some(_) => {
                self.refused.remove(peer);
                false
            }
            None => false,
        }
    }

    fn admit(&mut self, peer: &PeerId) -> Result<Handler, ConnectionDenied> {
        if core_id(peer).is_none() {
            return Err(ConnectionDenied::new(Denied::Key));
        }
        if self.is_refused(peer) {
            return Err(ConnectionDenied::new(Denied::Refused));
        }
        Ok(Handler::default())
    }
}

impl NetworkBehaviour for Gossip {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        self.admit(&peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        self.admit(&peer)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        what: FromHandler,
    ) {
        self.actions.push_back(ToSwarm::GenerateEvent(Event { peer, connection, what }));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Event, ()>> {
        self.actions.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// The protocol on one connection. An open stream keeps the connection alive.
#[derive(Debug, Default)]
pub(super) struct Handler {
    wanted: bool,
    events: VecDeque<FromHandler>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = ();
    type ToBehaviour = FromHandler;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), FromHandler>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event));
        }
        if std::mem::take(&mut self.wanted) {
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ());
            let protocol = protocol.with_timeout(FRAME_TIMEOUT);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, (): ()) {
        self.wanted = true;
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        self.events.push_back(match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol, ..
            }) => FromHandler::Inbound(protocol),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol, ..
            }) => FromHandler::Outbound(protocol),
            ConnectionEvent::DialUpgradeError(failed) => match failed.error {
                StreamUpgradeError::NegotiationFailed => FromHandler::Unsupported,
                _ => FromHandler::Failed,
            },
            _ => return,
        });
    }
}
