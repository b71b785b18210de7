//! The way to a peer, around a NAT if need be: whom this node keeps connections with because others
//! reach it through them, and for whom it is such a relay.

use std::collections::BTreeMap;
use std::sync::Arc;

use hansa_core::advert::Advert;
use hansa_core::id::PeerId;
use hansa_net::data::{DataPlane, Relay, Way, silence_max};

use crate::actors::peer::PeerMessage;
use crate::limits::{RELAY_FAILURES, RELAYS_EVERY, RELAYS_TRIED_EVERY};
use crate::node::Node;

impl Node {
    /// How the peer of an advert is reached on the data plane.
    pub(crate) fn way(&self, advert: &Advert) -> Way {
        let view = self.view();
        let relay = |peer: &PeerId| {
            let entry = view.get(*peer)?;
            Some(Relay { peer: *peer, addrs: entry.record.advert.data_addrs.clone() })
        };
        let mut relays: Vec<_> = advert.relays.iter().filter_map(relay).collect();
        // Those that answer first.
        relays.sort_by_key(|relay| view.get(relay.peer).map(|entry| entry.liveness));
        Way { addrs: advert.data_addrs.clone(), relays }
    }

    /// Whether a connection to the peer is open, or opens before a peer that is asked would count as
    /// silent: to dial who is dead takes seconds.
    pub(crate) async fn is_in_reach(&self, peer: PeerId) -> bool {
        let (Some(data), view) = (self.data(), self.view()) else { return true };
        let Some(entry) = view.get(peer) else { return true };
        let patience = silence_max(self.loads().rtt(peer).unwrap_or_default());
        let reaching = data.warm(peer, self.way(&entry.record.advert));
        matches!(tokio::time::timeout(patience, reaching).await, Ok(Ok(())))
    }

    /// Whether a peer that was lost lives and only its relay died: another way leads to it.
    pub(crate) async fn is_in_reach_otherwise(&self, peer: PeerId) -> bool {
        let view = self.view();
        let has_relays = view.get(peer).is_some_and(|entry| !entry.record.advert.relays.is_empty());
        let is_in_reach = has_relays && self.is_in_reach(peer).await;
        if is_in_reach {
            self.loads().heard(peer);
        }
        is_in_reach
    }

    /// Stays connected with this node's relays, and replaces those that do not relay, for as long as
    /// it is polled.
    pub(crate) async fn stay_with_relays(self: Arc<Self>, data: DataPlane) {
        tokio::join!(self.stay_connected(&data), self.try_relays(&data));
    }

    async fn stay_connected(&self, data: &DataPlane) {
        loop {
            tokio::time::sleep(RELAYS_EVERY).await;
            let (own, view) = (self.relays.load(), self.view());
            for entry in own.iter().filter_map(|relay| view.get(*relay)) {
                let advert = &entry.record.advert;
                let relay = Relay { peer: advert.peer, addrs: advert.data_addrs.clone() };
                let data = data.clone();
                tokio::spawn(async move {
                    if let Err(error) = data.stay_with(&relay).await {
                        tracing::debug!(relay = %relay.peer, %error, "the relay is not reached");
                    }
                });
            }
        }
    }

    async fn try_relays(&self, data: &DataPlane) {
        let mut failures: BTreeMap<PeerId, u32> = BTreeMap::new();
        loop {
            tokio::time::sleep(RELAYS_TRIED_EVERY).await;
            let own = self.relays.load_full();
            failures.retain(|relay, _| own.contains(relay));
            let tried = own.iter().map(async |relay| (*relay, data.is_relayed_by(*relay).await));
            for (relay, relays) in futures::future::join_all(tried).await {
                let failed = failures.entry(relay).or_default();
                *failed = if relays { 0 } else { *failed + 1 };
                if *failed >= RELAY_FAILURES {
                    tracing::warn!(%relay, "it does not relay to this node; another is asked");
                    self.tell_peer(PeerMessage::Unrelayed(relay));
                }
            }
        }
    }

    /// Whether a tunnel from one peer to another may run through this node, or end here: a relay of
    /// this node's own may bring one, and between peers that it admits this node carries those to one
    /// that names it.
    pub(crate) fn may_tunnel(&self, from: PeerId, to: PeerId) -> bool {
        if to == self.me {
            return self.relays.load().contains(&from);
        }
        let view = self.view();
        let admitted = |peer| view.get(peer).filter(|entry| entry.record.charter.is_ok());
        let ward = admitted(to).filter(|entry| entry.record.advert.relays.contains(&self.me));
        ward.is_some() && admitted(from).is_some()
    }
}
