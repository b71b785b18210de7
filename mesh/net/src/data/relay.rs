//! This node as a relay: tunnels of others, carried on to peers that keep a connection with it.

use std::sync::{Arc, OnceLock};

use hansa_core::id::PeerId;
use tokio::sync::Semaphore;

use super::link::Link;
use super::pool::Pool;
use super::stream::{Body, Sender};
use crate::limits::*;

/// For whom this node relays, and how much.
pub(super) struct Relaying {
    wards: OnceLock<Wards>,
    /// One for each tunnel that another peer began.
    pub(super) permits: Arc<Semaphore>,
}

/// Which peers those are.
pub(super) type Wards = Box<dyn Fn(&PeerId) -> bool + Send + Sync>;

impl Relaying {
    /// For nobody yet.
    pub(super) fn new() -> Self {
        Self { wards: OnceLock::new(), permits: Arc::new(Semaphore::new(TUNNELS_MAX)) }
    }

    /// From now on for those that `wards` names.
    pub(super) fn begin(&self, wards: Wards) {
        let _ = self.wards.set(wards);
    }

    /// Whether it is for this peer.
    pub(super) fn is_for(&self, peer: &PeerId) -> bool {
        self.wards.get().is_some_and(|wards| wards(peer))
    }
}

impl Pool {
    /// A peer opened a tunnel: to this node, through a relay of its own, or through this node to a
    /// peer for which it is one.
    pub(super) async fn take_tunnel(&self, from: &Link, to: PeerId, near: (Sender, Body)) {
        let Ok(permit) = Arc::clone(&self.relaying.permits).try_acquire_owned() else {
            return near.0.reset(code::BUSY);
        };
        if to == self.local && from.ours {
            return self.tunnels.open(near, Some(permit)).keep();
        }
        let Ok(_share) = from.tunnels.try_acquire() else {
            return near.0.reset(code::BUSY);
        };
        let ward = self.live(&to).filter(|link| !link.ours && self.relaying.is_for(&to));
        let Some(ward) = ward else { return near.0.reset(code::NO_WAY) };
        match self.open_tunnel(&ward, to).await {
            Ok(far) => carry(near, far).await,
            Err(_) => near.0.reset(code::NO_WAY),
        }
    }
}

/// Carries a stream of another peer on to the one that it is meant for, both ways, until either
/// ends or nothing has come for [`DATA_IDLE_MAX`]. What is carried is not looked at.
async fn carry(near: (Sender, Body), far: (Sender, Body)) {
    let ((near_sender, near_body), (far_sender, far_body)) = (near, far);
    tokio::select! {
        () = pass_on(near_body, far_sender) => {}
        () = pass_on(far_body, near_sender) => {}
    }
}

async fn pass_on(mut from: Body, mut to: Sender) {
    while let Ok(Some(chunk)) = from.chunk().await {
        if to.write(chunk).await.is_err() {
            return;
        }
    }
}
