//! A dial: a peer's addresses and relays by turns, a little apart, until one leads to its key.

use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _, TryFutureExt as _};
use hansa_core::id::PeerId;
use quinn::Connection;

use super::call::CallError;
use super::link::Link;
use super::pool::Pool;
use super::stream::{Body, Sender};
use super::way::{Relay, Way};
use super::{tls, transport};
use crate::limits::*;

impl Pool {
    /// Boxed, because a dial may need that of a relay.
    pub(super) fn dial(self: Arc<Self>, peer: PeerId, way: Way) -> BoxFuture<'static, ()> {
        let dialling = async move {
            let dialled = match tokio::time::timeout(DIAL_TIMEOUT, self.race(peer, &way)).await {
                Ok(dialled) => dialled,
                Err(_) => Err(unreachable(peer, format!("no answer by {way} in {DIAL_TIMEOUT:?}"))),
            };
            match dialled {
                Ok((connection, is_around)) => {
                    self.adopt(connection, peer, true, is_around);
                }
                Err(error) => self.give_up(peer, &way, error),
            }
        };
        dialling.boxed()
    }

    /// Tries the addresses and the relays a little apart; the first that leads to the right key
    /// wins. Gives also whether the connection runs through a relay.
    async fn race(
        self: &Arc<Self>,
        peer: PeerId,
        way: &Way,
    ) -> Result<(Connection, bool), CallError> {
        if way.is_empty() {
            return Err(unreachable(peer, "no connection is open and no address is known"));
        }
        if peer == self.local {
            return Err(unreachable(peer, "it is this node itself"));
        }
        if self.open_connections() >= self.shared.limits.connections_max && !self.evict() {
            return Err(unreachable(peer, "this node has as many connections as it may have"));
        }
        let crypto = tls::client(&self.keypair, &peer)
            .ok_or_else(|| unreachable(peer, "its id is not an Ed25519 key"))?;
        let straight = transport::client(Arc::clone(&crypto), false);
        let around = transport::client(crypto, true);
        let addrs = &way.addrs[..way.addrs.len().min(ADDRS_PER_PEER_MAX)];
        let relays = &way.relays[..way.relays.len().min(RELAYS_PER_PEER_MAX)];
        // By turns: addresses of a peer behind NAT are of use to its neighbours only.
        let mut waiting = Vec::new();
        for nth in 0..addrs.len().max(relays.len()) {
            if let Some(addr) = addrs.get(nth) {
                let connecting = self.connect(straight.clone(), peer, *addr);
                waiting.push(connecting.map_ok(|connection| (connection, false)).boxed());
            }
            if let Some(relay) = relays.get(nth) {
                let connecting = self.connect_through(around.clone(), peer, relay);
                waiting.push(connecting.map_ok(|connection| (connection, true)).boxed());
            }
        }
        let mut waiting = waiting.into_iter();
        let mut tries = FuturesUnordered::new();
        let mut failed = Vec::new();
        loop {
            let begun = waiting.next().map(|next| tries.push(next)).is_some();
            tokio::select! {
                biased;
                tried = tries.next() => match tried {
                    Some(Ok(connected)) => return Ok(connected),
                    Some(Err(error)) => failed.push(error),
                    None => break,
                },
                // The next is tried when this one has failed, or has had its time.
                () = tokio::time::sleep(DIAL_STAGGER), if begun => {}
            }
        }
        if way.relays.is_empty()
            && let Some(mismatch) =
                failed.iter().find(|error| matches!(error, CallError::PeerMismatch { .. }))
        {
            return Err(mismatch.clone());
        }
        let reasons = failed.into_iter().map(|error| match error {
            CallError::Unreachable { reason, .. } => reason,
            other => other.to_string(),
        });
        Err(unreachable(peer, reasons.collect::<Vec<_>>().join("; ")))
    }

    async fn connect(
        &self,
        config: quinn::ClientConfig,
        peer: PeerId,
        addr: SocketAddr,
    ) -> Result<Connection, CallError> {
        let failed =
            |reason: &dyn std::fmt::Display| unreachable(peer, format!("{addr}: {reason}"));
        // The name is not used: identity is the key.
        let connecting =
            self.endpoint.connect_with(config, addr, "hansa").map_err(|error| failed(&error))?;
        let connection = connecting.await.map_err(|error| {
            if tls::is_mismatch(&error) {
                CallError::PeerMismatch { peer, addr }
            } else {
                failed(&error)
            }
        })?;
        assert_eq!(tls::peer_of(&connection), Some(peer), "the verifier pins the key");
        Ok(connection)
    }

    /// The same through a relay, which is dialled if need be.
    async fn connect_through(
        self: &Arc<Self>,
        config: quinn::ClientConfig,
        peer: PeerId,
        relay: &Relay,
    ) -> Result<Connection, CallError> {
        let failed = |reason: &dyn std::fmt::Display| {
            unreachable(peer, format!("through {}: {reason}", relay.peer))
        };
        if relay.peer == self.local || relay.peer == peer {
            return Err(failed(&"it has no connection open"));
        }
        let link = self.link(relay.peer, &Way::from(&relay.addrs)).await;
        let link = link.map_err(|error| failed(&error))?;
        let carrying = link
            .carry(TUNNELS_PER_PEER_MAX)
            .ok_or_else(|| failed(&code::meaning(code::BUSY.into())))?;
        let opened = self.open_tunnel(&link, peer).await.map_err(|error| failed(&error))?;
        let fresh = self.tunnels.open(opened, (None, carrying));
        let connecting = self.beyond.connect_with(config, fresh.addr, "hansa");
        let connecting = connecting.map_err(|error| failed(&error))?;
        let connection = tokio::select! {
            connected = connecting => connected.map_err(|error| failed(&error))?,
            () = fresh.ended() => return Err(failed(&code::meaning(code::NO_WAY.into()))),
        };
        assert_eq!(tls::peer_of(&connection), Some(peer), "the verifier pins the key");
        fresh.keep();
        Ok(connection)
    }

    /// A stream at the end of which is `peer`, if the one on the link knows the way.
    pub(super) async fn open_tunnel(
        &self,
        link: &Link,
        peer: PeerId,
    ) -> Result<(Sender, Body), quinn::WriteError> {
        let (send, recv) = link.connection.open_bi().await?;
        let mut sender = Sender::new(send, code::CUT);
        sender.begin_tunnel(peer).await?;
        Ok((sender, Body::of_tunnel(recv)))
    }
}

pub(super) fn unreachable(peer: PeerId, reason: impl Into<String>) -> CallError {
    CallError::Unreachable { peer, reason: reason.into() }
}
