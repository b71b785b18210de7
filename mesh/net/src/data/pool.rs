//! The warm connections: one per peer, dialled once however many callers wait, the same one kept
//! on both sides when both dial at the same moment.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hansa_core::id::PeerId;
use libp2p::identity::Keypair;
use quinn::{Connection, Endpoint};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::call::{Call, CallError};
use super::link::Link;
use super::{Shared, tls, transport};
use crate::limits::*;

/// The connections of one endpoint.
pub(super) struct Pool {
    pub(super) local: PeerId,
    pub(super) endpoint: Endpoint,
    pub(super) shared: Arc<Shared>,
    keypair: Keypair,
    calls: mpsc::Sender<Call>,
    slots: Mutex<HashMap<PeerId, Slot>>,
}

type Dialled = Option<Result<Arc<Link>, CallError>>;

#[derive(Default)]
struct Slot {
    link: Option<Arc<Link>>,
    dial: Option<Dial>,
}

/// A dial that goes on.
struct Dial {
    addrs: Vec<SocketAddr>,
    task: AbortHandle,
    /// Whoever waits for it is told.
    told: watch::Sender<Dialled>,
}

impl Slot {
    fn live(&self) -> Option<&Arc<Link>> {
        self.link.as_ref().filter(|link| link.is_alive())
    }
}

impl Pool {
    pub(super) fn new(
        local: PeerId,
        endpoint: Endpoint,
        keypair: Keypair,
        shared: Arc<Shared>,
        calls: mpsc::Sender<Call>,
    ) -> Arc<Self> {
        Arc::new(Self { local, endpoint, shared, keypair, calls, slots: Mutex::default() })
    }

    /// The live connection with a peer.
    pub(super) fn live(&self, peer: &PeerId) -> Option<Arc<Link>> {
        self.slots().get(peer).and_then(Slot::live).cloned()
    }

    /// The live connection with a peer, or a new one.
    pub(super) async fn link(
        self: &Arc<Self>,
        peer: PeerId,
        addrs: &[SocketAddr],
    ) -> Result<Arc<Link>, CallError> {
        let addrs = &addrs[..addrs.len().min(ADDRS_PER_PEER_MAX)];
        let mut dialled = {
            let mut slots = self.slots();
            let slot = slots.entry(peer).or_default();
            if let Some(link) = slot.live() {
                return Ok(Arc::clone(link));
            }
            let dial = match &mut slot.dial {
                Some(dial) if addrs.is_empty() || dial.addrs == addrs => dial,
                dial => {
                    // A peer that runs anew listens elsewhere: nobody waits any more for where it was.
                    let told = match dial.take() {
                        Some(old) => {
                            old.task.abort();
                            old.told
                        }
                        None => watch::Sender::new(None),
                    };
                    // Its own task: the others wait on it even when the first caller leaves.
                    let task = tokio::spawn(Arc::clone(self).dial(peer, addrs.to_vec()));
                    dial.insert(Dial { addrs: addrs.to_vec(), task: task.abort_handle(), told })
                }
            };
            dial.told.subscribe()
        };
        // Its own, and one that it gives way to.
        let patience = 2 * DIAL_TIMEOUT;
        match tokio::time::timeout(patience, dialled.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone().expect("waited for it"),
            Ok(Err(_)) => Err(unreachable(peer, "the data plane is closed")),
            Err(_) => Err(unreachable(peer, format!("no answer anywhere in {patience:?}"))),
        }
    }

    /// Takes a connection in, whoever dialled, and returns the one to use from now on.
    pub(super) fn adopt(
        self: &Arc<Self>,
        connection: Connection,
        peer: PeerId,
        ours: bool,
    ) -> Arc<Link> {
        let new = Link::new(connection, peer, ours);
        tokio::spawn(Arc::clone(&new).watch());
        let serving = Arc::clone(&new).serve(Arc::clone(&self.shared), self.calls.clone());
        let pool = Arc::downgrade(self);
        let link = Arc::clone(&new);
        tokio::spawn(async move {
            serving.await;
            if let Some(pool) = pool.upgrade() {
                pool.forget(&link);
            }
        });
        let mut slots = self.slots();
        let slot = slots.entry(peer).or_default();
        let kept = match slot.live() {
            // Both dialled at once: both keep the dial of the smaller id.
            Some(old) if old.ours != ours && old.since.elapsed() < DIAL_TIMEOUT => {
                let new_wins = ours == (self.local < peer);
                let (winner, loser) = if new_wins { (&new, old) } else { (old, &new) };
                loser.retire();
                Arc::clone(winner)
            }
            // A dial that gave way had come through all the same.
            Some(old) if old.ours && ours && old.since.elapsed() < DIAL_TIMEOUT => {
                new.retire();
                Arc::clone(old)
            }
            // Who dials anew has lost the old one, whether we have noticed or not.
            Some(old) => {
                old.close(code::REPLACED);
                new
            }
            None => new,
        };
        slot.link = Some(Arc::clone(&kept));
        if let Some(dial) = slot.dial.take() {
            dial.told.send_replace(Some(Ok(Arc::clone(&kept))));
        }
        kept
    }

    /// Lets go of the connection with a peer, unless a call is on it.
    pub(super) fn renew(&self, peer: &PeerId) {
        let mut slots = self.slots();
        let link =
            slots.get_mut(peer).and_then(|slot| slot.link.take_if(|own| own.idle().is_some()));
        if let Some(link) = link {
            link.retire();
        }
    }

    /// Closes the connection that was unused for longest, to make room for another.
    fn evict(&self) -> bool {
        let slots = self.slots();
        let links = slots.values().filter_map(Slot::live);
        let idle = links.filter_map(|link| link.idle().map(|idle| (idle, link)));
        match idle.max_by_key(|(idle, _)| *idle) {
            Some((_, link)) => {
                link.close(code::REPLACED);
                true
            }
            None => false,
        }
    }

    /// The dead leave no entry behind.
    fn forget(&self, link: &Arc<Link>) {
        let mut slots = self.slots();
        let Some(slot) = slots.get_mut(&link.peer) else { return };
        if slot.link.as_ref().is_some_and(|held| Arc::ptr_eq(held, link)) {
            slot.link = None;
        }
        if slot.link.is_none() && slot.dial.is_none() {
            slots.remove(&link.peer);
        }
    }

    async fn dial(self: Arc<Self>, peer: PeerId, addrs: Vec<SocketAddr>) {
        let dialled = match tokio::time::timeout(DIAL_TIMEOUT, self.race(peer, &addrs)).await {
            Ok(dialled) => dialled,
            Err(_) => {
                Err(unreachable(peer, format!("no answer from {addrs:?} in {DIAL_TIMEOUT:?}")))
            }
        };
        match dialled {
            Ok(connection) => {
                self.adopt(connection, peer, true);
            }
            Err(error) => {
                let mut slots = self.slots();
                let slot = slots.get_mut(&peer);
                // Unless another has taken its place.
                let own = slot.and_then(|slot| slot.dial.take_if(|dial| dial.addrs == addrs));
                let Some(dial) = own else { return };
                if slots.get(&peer).is_some_and(|slot| slot.link.is_none()) {
                    slots.remove(&peer);
                }
                dial.told.send_replace(Some(Err(error)));
            }
        }
    }

    /// Tries the addresses a little apart; the first that answers with the right key wins.
    async fn race(&self, peer: PeerId, addrs: &[SocketAddr]) -> Result<Connection, CallError> {
        if addrs.is_empty() {
            return Err(unreachable(peer, "no connection is open and no address is known"));
        }
        if peer == self.local {
            return Err(unreachable(peer, "it is this node itself"));
        }
        if self.endpoint.open_connections() >= self.shared.limits.connections_max && !self.evict() {
            return Err(unreachable(peer, "this node has as many connections as it may have"));
        }
        let crypto = tls::client(&self.keypair, &peer)
            .ok_or_else(|| unreachable(peer, "its id is not an Ed25519 key"))?;
        let config = transport::client(crypto);
        let mut tries: FuturesUnordered<_> = (0u32..)
            .zip(addrs)
            .map(|(nth, addr)| {
                let config = config.clone();
                async move {
                    tokio::time::sleep(DIAL_STAGGER * nth).await;
                    self.connect(config, peer, *addr).await
                }
            })
            .collect();
        let mut failed = Vec::new();
        while let Some(tried) = tries.next().await {
            match tried {
                Ok(connection) => return Ok(connection),
                Err(error) => failed.push(error),
            }
        }
        if let Some(mismatch) = failed.iter().find(|e| matches!(e, CallError::PeerMismatch { .. }))
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

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<PeerId, Slot>> {
        self.slots.lock().expect("no holder panics")
    }
}

fn unreachable(peer: PeerId, reason: impl Into<String>) -> CallError {
    CallError::Unreachable { peer, reason: reason.into() }
}

/// Accepts connections until the endpoint is closed.
pub(super) async fn listen(pool: Arc<Pool>) {
    let handshakes = Arc::new(tokio::sync::Semaphore::new(HANDSHAKES_MAX));
    while let Some(incoming) = pool.endpoint.accept().await {
        let crowded = handshakes.available_permits() < HANDSHAKES_MAX / 2;
        if crowded && incoming.may_retry() {
            let _ = incoming.retry();
            continue;
        }
        let full = pool.endpoint.open_connections() >= pool.shared.limits.connections_max;
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            incoming.ignore();
            continue;
        };
        if full || pool.shared.is_draining() {
            incoming.refuse();
            continue;
        }
        let pool = Arc::clone(&pool);
        tokio::spawn(async move {
            let _permit = permit;
            let Ok(connecting) = incoming.accept() else { return };
            let Ok(Ok(connection)) = tokio::time::timeout(DIAL_TIMEOUT, connecting).await else {
                return;
            };
            match tls::peer_of(&connection) {
                Some(peer) if peer != pool.local => {
                    pool.adopt(connection, peer, false);
                }
                _ => connection.close(code::IDENTITY.into(), b"an Ed25519 key is required"),
            }
        });
    }
}

/// Time until all calls are done, or `deadline`.
pub(super) async fn calm(shared: &Shared, deadline: Duration) {
    let end = Instant::now() + deadline;
    loop {
        let calm = shared.calm.notified();
        tokio::pin!(calm);
        calm.as_mut().enable();
        let left = end.saturating_duration_since(Instant::now());
        if shared.is_calm() || tokio::time::timeout(left, calm).await.is_err() {
            return;
        }
    }
}
