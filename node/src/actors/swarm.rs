//! Owns the control plane's socket: carries frames in to the peer actor, verified on the way.
//!
//! Verification happens here, at the edge and off the peer's mailbox; what fails it is counted,
//! logged and dropped. A permit is taken before anything from the network enters the mailbox.

use std::sync::Arc;

use hansa_core::directory::Message;
use hansa_net::control::{ControlEvent, ControlHandle};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{Semaphore, mpsc};

use super::Task;
use super::peer::PeerMessage;
use crate::limits::PEER_MAILBOX_MAX;
use crate::node::Node;

/// Owns the control plane; its work is the pump that it starts.
pub struct Swarm;

/// What the actor is started with.
pub struct SwarmArgs {
    /// The node it serves.
    pub node: Arc<Node>,
    /// The running control plane.
    pub control: ControlHandle,
    /// What it reports.
    pub events: mpsc::Receiver<ControlEvent>,
    /// Where frames go.
    pub peer: ActorRef<PeerMessage>,
}

/// The pump ended: the control plane is gone.
pub struct PumpEnded;

/// What the actor owns.
pub struct SwarmState {
    control: ControlHandle,
    _pump: Task,
}

impl Actor for Swarm {
    type Msg = PumpEnded;
    type State = SwarmState;
    type Arguments = SwarmArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<PumpEnded>,
        args: SwarmArgs,
    ) -> Result<SwarmState, ActorProcessingErr> {
        let SwarmArgs { node, control, events, peer } = args;
        let pumping = async move { pump(&node, events, &peer).await };
        // The actor may be stopping already; then nobody needs to hear.
        let pump = Task::run(pumping, move || drop(myself.cast(PumpEnded)));
        Ok(SwarmState { control, _pump: pump })
    }

    async fn handle(
        &self,
        _: ActorRef<PumpEnded>,
        PumpEnded: PumpEnded,
        _: &mut SwarmState,
    ) -> Result<(), ActorProcessingErr> {
        Err("the control plane ended".into())
    }

    async fn post_stop(
        &self,
        _: ActorRef<PumpEnded>,
        state: &mut SwarmState,
    ) -> Result<(), ActorProcessingErr> {
        state.control.shutdown().await;
        Ok(())
    }
}

/// Carries events to the peer until the control plane or the peer is gone.
async fn pump(node: &Node, mut events: mpsc::Receiver<ControlEvent>, peer: &ActorRef<PeerMessage>) {
    let places = Arc::new(Semaphore::new(PEER_MAILBOX_MAX));
    while let Some(event) = events.recv().await {
        let Some(event) = verify(node, event) else { continue };
        let Ok(permit) = places.clone().acquire_owned().await else { return };
        if peer.cast(PeerMessage::Network { event, _permit: permit }).is_err() {
            return;
        }
    }
}

/// What of an event reaches the directory.
fn verify(node: &Node, event: ControlEvent) -> Option<super::peer::NetworkEvent> {
    use super::peer::NetworkEvent;
    Some(match event {
        ControlEvent::Frame { from, bytes } => {
            metrics::counter!("hansa_gossip_bytes_total", "direction" => "in")
                .increment(bytes.len() as u64);
            let view = node.view();
            let held = |peer, version| view.holds(peer, version);
            match Message::open(&bytes, &node.trust, node.clock.now(), held) {
                Ok(message) => NetworkEvent::Message { from, message: Box::new(message) },
                Err(fault) => {
                    metrics::counter!("hansa_gossip_refused_total").increment(1);
                    tracing::warn!(peer = %from, %fault, "gossip frame refused");
                    return None;
                }
            }
        }
        ControlEvent::Connected { peer, addr } => {
            tracing::debug!(%peer, %addr, "control plane connected");
            NetworkEvent::Connected(peer)
        }
        ControlEvent::Disconnected { peer } => NetworkEvent::Disconnected(peer),
        ControlEvent::Unreachable { peer, reason } => {
            tracing::debug!(%peer, %reason, "control plane cannot reach");
            NetworkEvent::Unreachable(peer)
        }
        ControlEvent::Refused { peer, reason } => {
            tracing::warn!(%peer, %reason, "peer refused");
            return None;
        }
        ControlEvent::Listening { .. } | ControlEvent::Seen => NetworkEvent::Listening,
    })
}
