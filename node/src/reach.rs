//! The way to a peer, around a NAT if need be: whom this node keeps connections with because others
//! reach it through them, and for whom it is such a relay.

use std::sync::Arc;

use hansa_core::advert::Advert;
use hansa_core::id::PeerId;
use hansa_net::data::{DataPlane, Relay, Way, silence_max};

use crate::limits::RELAYS_EVERY;
use crate::node::Node;

impl Node {
    /// How the peer of an advert is reached on the data plane.
    pub(crate) fn way(&self, advert: &Advert) -> Way {
        let view = self.view();
        let relay = |peer: &PeerId| {
            let entry = view.get(*peer)?;
            Some(Relay { peer: *peer, addrs: entry.record.advert.data_addrs.clone() })
        };
        let relays = advert.relays.iter().filter_map(relay).collect();
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

    /// Stays connected with those that this node's own advert names as relays, for as long as it is
    /// polled.
    pub(crate) async fn stay_with_relays(self: Arc<Self>, data: DataPlane) {
        loop {
            tokio::time::sleep(RELAYS_EVERY).await;
            let view = self.view();
            let Some(own) = view.get(self.me) else { continue };
            for relay in self.way(&own.record.advert).relays {
                let data = data.clone();
                tokio::spawn(async move {
                    if let Err(error) = data.stay_with(&relay).await {
                        tracing::debug!(relay = %relay.peer, %error, "the relay is not reached");
                    }
                });
            }
        }
    }

    /// Whether this node carries what others send to a peer: one that it admits, and that names it.
    pub(crate) fn is_relay_of(&self, peer: PeerId) -> bool {
        self.view().get(peer).is_some_and(|entry| {
            let record = &entry.record;
            record.charter.is_ok() && record.advert.relays.contains(&self.me)
        })
    }
}
