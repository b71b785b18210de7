//! The warm connections: one per peer, dialled once however many callers wait, the same one kept
//! on both sides when both dial at the same moment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hansa_core::id::PeerId;
use libp2p::identity::Keypair;
use quinn::{Connection, Endpoint};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::call::{Call, CallError};
use super::dial::unreachable;
use super::link::Link;
use super::relay::Relaying;
use super::tunnel::Tunnels;
use super::way::Way;
use super::{Shared, tls};
use crate::limits::*;

/// The connections of one endpoint.
pub(super) struct Pool {
    pub(super) local: PeerId,
    pub(super) endpoint: Endpoint,
    /// The endpoint of what runs through tunnels.
    pub(super) beyond: Endpoint,
    pub(super) shared: Arc<Shared>,
    pub(super) calls: mpsc::Sender<Call>,
    pub(super) relaying: Relaying,
    pub(super) tunnels: Arc<Tunnels>,
    pub(super) keypair: Keypair,
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
    way: Way,
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
        (endpoint, beyond, tunnels): (Endpoint, Endpoint, Arc<Tunnels>),
        keypair: Keypair,
        shared: Arc<Shared>,
        calls: mpsc::Sender<Call>,
    ) -> Arc<Self> {
        let (relaying, slots) = (Relaying::new(), Mutex::default());
        Arc::new(Self { local, endpoint, beyond, shared, calls, relaying, tunnels, keypair, slots })
    }

    /// Connections that are open, by whatever way.
    pub(super) fn open_connections(&self) -> usize {
        self.endpoint.open_connections() + self.beyond.open_connections()
    }

    /// The live connection with a peer.
    pub(super) fn live(&self, peer: &PeerId) -> Option<Arc<Link>> {
        self.slots().get(peer).and_then(Slot::live).cloned()
    }

    /// The live connection with a peer, or a new one.
    pub(super) async fn link(
        self: &Arc<Self>,
        peer: PeerId,
        way: &Way,
    ) -> Result<Arc<Link>, CallError> {
        let mut dialled = {
            let mut slots = self.slots();
            let slot = slots.entry(peer).or_default();
            if let Some(link) = slot.live() {
                return Ok(Arc::clone(link));
            }
            let dial = match &mut slot.dial {
                Some(dial) if way.is_empty() || dial.way == *way => dial,
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
                    let task = tokio::spawn(Arc::clone(self).dial(peer, way.clone()));
                    dial.insert(Dial { way: way.clone(), task: task.abort_handle(), told })
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
        is_around: bool,
    ) -> Arc<Link> {
        let new = Link::new(connection, peer, ours, is_around);
        tokio::spawn(Arc::clone(&new).watch());
        if is_around {
            self.watch_tunnel(&new);
        }
        let pool = Arc::downgrade(self);
        let serving = Arc::clone(&new).serve(Arc::clone(&self.shared), pool.clone());
        let link = Arc::clone(&new);
        tokio::spawn(async move {
            serving.await;
            link.note_closed();
            if let Some(pool) = pool.upgrade() {
                pool.forget(&link);
            }
        });
        let mut slots = self.slots();
        let slot = slots.entry(peer).or_default();
        let kept = match slot.live() {
            // A way of its own takes the place of one through a relay, whose calls may end.
            Some(old) if old.is_around && !is_around => {
                old.retire();
                new
            }
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

    /// Lets go of the connection with a peer if it may be of a former life of it.
    pub(super) fn renew(&self, peer: &PeerId) {
        let mut slots = self.slots();
        let link = slots.get_mut(peer).and_then(|slot| slot.link.take_if(|own| own.is_outlived()));
        if let Some(link) = link {
            link.retire();
        }
    }

    /// A connection with a peer that no relay carries.
    pub(super) async fn link_straight(
        self: &Arc<Self>,
        peer: PeerId,
        way: &Way,
    ) -> Result<Arc<Link>, CallError> {
        let around = {
            let mut slots = self.slots();
            let slot = slots.get_mut(&peer);
            slot.and_then(|slot| slot.link.take_if(|own| own.is_around))
        };
        if let Some(around) = around {
            around.retire();
        }
        self.link(peer, way).await
    }

    /// Closes the connection that was unused for longest, to make room for another.
    pub(super) fn evict(&self) -> bool {
        let slots = self.slots();
        let links = slots.values().filter_map(Slot::live);
        let idle = links.filter_map(|link| link.spare().map(|idle| (idle, link)));
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

    /// Whoever waits for the dial by this way is told, unless another has taken its place.
    pub(super) fn give_up(&self, peer: PeerId, way: &Way, error: CallError) {
        let mut slots = self.slots();
        let slot = slots.get_mut(&peer);
        let own = slot.and_then(|slot| slot.dial.take_if(|dial| dial.way == *way));
        let Some(dial) = own else { return };
        if slots.get(&peer).is_some_and(|slot| slot.link.is_none()) {
            slots.remove(&peer);
        }
        dial.told.send_replace(Some(Err(error)));
    }

    /// A connection through a tunnel ends with it, and it with the connection.
    fn watch_tunnel(&self, link: &Arc<Link>) {
        let addr = link.connection.remote_address();
        let Some(ended) = self.tunnels.ended(addr) else { return link.close(code::CUT) };
        let (link, tunnels) = (Arc::clone(link), Arc::clone(&self.tunnels));
        tokio::spawn(async move {
            tokio::select! {
                () = ended => link.close(code::CUT),
                _ = link.connection.closed() => {
                    // Lets the goodbye out.
                    tokio::time::sleep(GOODBYE).await;
                    tunnels.close(addr);
                }
            }
        });
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<PeerId, Slot>> {
        self.slots.lock().expect("no holder panics")
    }
}

/// Accepts connections until the endpoint is closed.
pub(super) async fn listen(pool: Arc<Pool>, endpoint: Endpoint, is_around: bool) {
    let handshakes = Arc::new(tokio::sync::Semaphore::new(HANDSHAKES_MAX));
    while let Some(incoming) = endpoint.accept().await {
        let crowded = handshakes.available_permits() < HANDSHAKES_MAX / 2;
        if crowded && incoming.may_retry() {
            let _ = incoming.retry();
            continue;
        }
        let full = pool.open_connections() >= pool.shared.limits.connections_max;
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
                    pool.adopt(connection, peer, false, is_around);
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
