//! This node as a relay: tunnels of others, carried on to peers that keep a connection with it.

use std::sync::{Arc, OnceLock};

use hansa_core::id::PeerId;
use tokio::sync::Semaphore;

use super::link::Link;
use super::pool::Pool;
use super::stream::{Body, Sender};
use crate::limits::*;

/// Which tunnels this node takes, and how many.
pub(super) struct Relaying {
    may: OnceLock<May>,
    /// One for each tunnel that another peer began.
    pub(super) permits: Arc<Semaphore>,
}

/// By who opens one and to whom it leads.
pub(super) type May = Box<dyn Fn(PeerId, PeerId) -> bool + Send + Sync>;

impl Relaying {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { may: OnceLock::new(), permits: Arc::new(Semaphore::new(TUNNELS_MAX)) }
    }

    /// From now on those that `may` admits.
    pub(super) fn begin(&self, may: May) {
        let _ = self.may.set(may);
    }

    fn admits(&self, from: PeerId, to: PeerId) -> bool {
        self.may.get().is_some_and(|may| may(from, to))
    }
}

impl Pool {
    /// A peer opened a tunnel: to this node, as one of its relays, or through it to another.
    pub(super) async fn take_tunnel(&self, from: &Arc<Link>, to: PeerId, near: (Sender, Body)) {
        if !self.relaying.admits(from.peer, to) {
            return near.0.reset(code::NO_WAY);
        }
        let Ok(permit) = Arc::clone(&self.relaying.permits).try_acquire_owned() else {
            return near.0.reset(code::BUSY);
        };
        let most = if to == self.local { TUNNELS_PER_PEER_MAX } else { TUNNELS_ASKED_MAX };
        let Some(carrying) = from.carry(most) else { return near.0.reset(code::BUSY) };
        if to == self.local {
            from.relayed.notify_waiters();
            return self.tunnels.open(near, (Some(permit), carrying)).keep();
        }
        // Through another relay there would be no end of it.
        let ward = self.live(&to).filter(|link| !link.is_around);
        let Some(ward) = ward else { return near.0.reset(code::NO_WAY) };
        let Some(_carrying_on) = ward.carry(TUNNELS_PER_PEER_MAX) else {
            return near.0.reset(code::BUSY);
        };
        // A peer that takes no streams must not hold this up.
        match tokio::time::timeout(DIAL_TIMEOUT, self.open_tunnel(&ward, to)).await {
            Ok(Ok(far)) => splice(near, far).await,
            _ => near.0.reset(code::NO_WAY),
        }
    }
}

impl Pool {
    /// Whether a peer brings tunnels to this node: it is asked for one to this node itself.
    pub(super) async fn is_relayed_by(&self, relay: PeerId) -> bool {
        let Some(link) = self.live(&relay) else { return false };
        let brought = link.relayed.notified();
        tokio::pin!(brought);
        brought.as_mut().enable();
        let asking = async {
            let Ok((_sender, mut body)) = self.open_tunnel(&link, self.local).await else { return };
            // Nothing comes on it but a refusal.
            let _ = body.chunk().await;
        };
        tokio::select! {
            () = brought => true,
            () = asking => false,
            () = tokio::time::sleep(DIAL_TIMEOUT) => false,
        }
    }
}

/// Passes a stream of another peer on to the one that it is meant for, both ways, until either
/// ends, or nothing has come or been taken for [`DATA_IDLE_MAX`]. What passes is not looked at.
async fn splice(near: (Sender, Body), far: (Sender, Body)) {
    let ((near_sender, near_body), (far_sender, far_body)) = (near, far);
    tokio::select! {
        () = pass_on(near_body, far_sender) => {}
        () = pass_on(far_body, near_sender) => {}
    }
}

async fn pass_on(mut from: Body, mut to: Sender) {
    while let Ok(Some(chunk)) = from.chunk().await {
        let taken = tokio::time::timeout(DATA_IDLE_MAX, to.write(chunk)).await;
        if !matches!(taken, Ok(Ok(()))) {
            return;
        }
    }
}
