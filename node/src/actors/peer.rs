//! Owns the directory: feeds it what the network and the node say, and does what it answers.
//!
//! The mirror image of the simulator's world: the same `handle`, the same outputs, other hands.

use std::sync::Arc;
use std::time::Duration;

use hansa_core::advert::Advert;
use hansa_core::directory::{Directory, Event, Input, Message, Output, Params};
use hansa_core::id::PeerId;
use hansa_net::control::ControlHandle;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use crate::node::Node;

/// Owns the [`Directory`].
pub struct Peer;

/// What the actor is started with.
pub struct PeerArgs {
    /// The node it serves.
    pub node: Arc<Node>,
    /// Where frames leave.
    pub control: ControlHandle,
    /// What the peer says of itself at first.
    pub own: Advert,
}

/// What the network says, verified.
pub enum NetworkEvent {
    /// A gossip message.
    Message {
        /// Who sent it.
        from: PeerId,
        /// What it says.
        message: Message,
    },
    /// A connection stands.
    Connected(PeerId),
    /// The last connection is gone.
    Disconnected(PeerId),
    /// A frame could not be delivered.
    Unreachable(PeerId),
    /// The control plane listens on one more address.
    Listening(String),
}

/// What the actor is told.
pub enum PeerMessage {
    /// By the network; the permit bounds the mailbox.
    Network {
        /// What happened.
        event: NetworkEvent,
        /// Given back when the event is handled.
        _permit: OwnedSemaphorePermit,
    },
    /// A wake-up that the directory asked for.
    Tick,
    /// A job found this peer unreachable on the data plane.
    Lost(PeerId),
    /// The node's own content changed: models, devices.
    Refresh,
    /// Say goodbye to the mesh, then answer.
    Leave(RpcReplyPort<()>),
}

/// The directory and what carries its outputs out.
pub struct PeerState {
    node: Arc<Node>,
    directory: Directory,
    control: ControlHandle,
    own: Advert,
    outputs: Vec<Output>,
    alarm: Option<JoinHandle<()>>,
}

impl Actor for Peer {
    type Msg = PeerMessage;
    type State = PeerState;
    type Arguments = PeerArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<PeerMessage>,
        args: PeerArgs,
    ) -> Result<PeerState, ActorProcessingErr> {
        let PeerArgs { node, control, own } = args;
        let key = node.key.clone();
        let seed = node.draw_seed();
        let now = node.clock.now();
        let directory = Directory::new(key, own.clone(), seed, now, Params::default());
        node.publish_view(directory.view());
        node.set_peer(Some(myself.clone()));
        let outputs = Vec::new();
        let mut state = PeerState { node, directory, control, own, outputs, alarm: None };
        state.feed(&myself, Input::Tick);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<PeerMessage>,
        message: PeerMessage,
        state: &mut PeerState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PeerMessage::Network { event, _permit } => match event {
                NetworkEvent::Message { from, message } => {
                    state.feed(&myself, Input::Message { from, message });
                }
                NetworkEvent::Connected(peer) => state.feed(&myself, Input::Connected { peer }),
                NetworkEvent::Disconnected(peer) => {
                    state.feed(&myself, Input::Disconnected { peer });
                }
                NetworkEvent::Unreachable(peer) => state.feed(&myself, Input::Unreachable { peer }),
                NetworkEvent::Listening(_) => state.publish(&myself),
            },
            PeerMessage::Tick => state.feed(&myself, Input::Tick),
            PeerMessage::Lost(peer) => state.feed(&myself, Input::Unreachable { peer }),
            PeerMessage::Refresh => state.publish(&myself),
            PeerMessage::Leave(reply) => {
                state.feed(&myself, Input::Leave);
                state.control.flush(LEAVE_FLUSH).await;
                let _ = reply.send(());
            }
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<PeerMessage>,
        state: &mut PeerState,
    ) -> Result<(), ActorProcessingErr> {
        state.node.set_peer(None);
        if let Some(alarm) = state.alarm.take() {
            alarm.abort();
        }
        Ok(())
    }
}

/// A goodbye that has not left by then is not waited for.
const LEAVE_FLUSH: Duration = Duration::from_millis(300);

impl PeerState {
    /// One step: the input goes in, the outputs are done.
    fn feed(&mut self, myself: &ActorRef<PeerMessage>, input: Input) {
        let mut outputs = std::mem::take(&mut self.outputs);
        self.directory.handle(self.node.clock.now(), input, &mut outputs);
        for output in outputs.drain(..) {
            self.perform(myself, output);
        }
        self.outputs = outputs;
    }

    /// Signs the node's content anew if it changed.
    fn publish(&mut self, myself: &ActorRef<PeerMessage>) {
        let own = self.node.advert(&self.control);
        if own != self.own {
            self.own = own.clone();
            self.feed(myself, Input::Publish(own));
        }
    }

    fn perform(&mut self, myself: &ActorRef<PeerMessage>, output: Output) {
        match output {
            Output::Send { to, frame } => self.control.send(to, frame.encode().into()),
            Output::Dial { peer, addrs } => self.control.dial(peer, addrs),
            Output::WakeAt(at) => {
                let delay = at.since(self.node.clock.now().mono);
                let myself = myself.clone();
                let alarm = tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let _ = myself.cast(PeerMessage::Tick);
                });
                if let Some(earlier) = self.alarm.replace(alarm) {
                    earlier.abort();
                }
            }
            Output::Rtt { peer, rtt } => self.node.loads().measured_rtt(peer, rtt),
            Output::ViewChanged => self.node.publish_view(self.directory.view()),
            Output::Event(event) => report(&event),
        }
    }
}

/// Membership events for logs and metrics.
fn report(event: &Event) {
    metrics::counter!("hansa_membership_events_total", "event" => event.name()).increment(1);
    tracing::info!(event = event.name(), "{event}");
}
