//! Measures how far peers can be: numbers that nobody can guess, echoed over the data plane's own
//! connections. Where connections stand anyway, they are measured; a job that demands evidence has
//! the others measured, too, a few at a time. What follows from it is the core's to say.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hansa_core::physics::Evidence;
use hansa_core::view::Liveness;

use crate::actors::peer::PeerMessage;
use crate::limits::{ECHO_EVERY, MEASURED_AT_ONCE, MEASURED_MAX};
use crate::node::Node;

impl Node {
    /// Asks for echoes and hands on what comes, for as long as it is polled.
    pub(super) async fn measure_peers(self: &Arc<Self>) {
        loop {
            tokio::time::sleep(ECHO_EVERY).await;
            let (Some(data), view) = (self.data(), self.view()) else { continue };
            let wants = self.law.wants_evidence.load(Ordering::Relaxed);
            let (mut dialled, mut contradicted) = (0, 0u32);
            let known = |evidence| evidence != Evidence::None;
            let measured = view.entries().iter().filter(|e| known(e.record.evidence)).count();
            for entry in view.entries() {
                let (record, peer) = (&entry.record, entry.record.advert.peer);
                contradicted += u32::from(record.evidence == Evidence::Contradicted);
                if peer == self.me || record.charter.is_err() || entry.liveness == Liveness::Down {
                    continue;
                }
                if data.is_connected(&peer) {
                    for rtt in data.take_echoes(&peer) {
                        self.tell_peer(PeerMessage::Echo { peer, rtt });
                    }
                    if record.evidence == Evidence::None {
                        data.echo(&peer);
                    }
                } else if wants
                    && record.evidence == Evidence::None
                    && dialled < MEASURED_AT_ONCE
                    && measured < MEASURED_MAX
                {
                    dialled += 1;
                    let (data, way) = (Arc::clone(&data), self.way(&record.advert));
                    tokio::spawn(async move { drop(data.warm(peer, way).await) });
                }
            }
            metrics::gauge!("hansa_peers_contradicted").set(f64::from(contradicted));
        }
    }
}
