//! Owns the directory, or one for each shard: feeds it what the network and the node say, and does what it answers.
//!
//! The mirror image of the simulator's world: the same `handle`, the same outputs, other hands.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use hansa_core::advert::Advert;
use hansa_core::directory::{Event, Input, Message, Output, Shards};
use hansa_core::id::PeerId;
use hansa_core::revocation::RevocationList;
use hansa_net::control::ControlHandle;
use hansa_net::data::DataPlane;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use crate::node::Node;

/// Owns the peer's directories.
pub struct Peer;

/// What the actor is started with.
pub struct PeerArgs {
    /// The node it serves.
    pub node: Arc<Node>,
    /// Where frames leave.
    pub control: ControlHandle,
    /// The data plane, whose addresses the advert names.
    pub data: DataPlane,
}

/// What the network says, verified.
pub enum NetworkEvent {
    /// A gossip message.
    Message {
        /// Who sent it.
        from: PeerId,
        /// What it says.
        message: Box<Message>,
    },
    /// A connection stands.
    Connected(PeerId),
    /// The last connection is gone.
    Disconnected(PeerId),
    /// A frame could not be delivered.
    Unreachable(PeerId),
    /// The control plane listens on other addresses than before, or is seen at others.
    Listening,
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
    /// A relay of this node's own does not relay.
    Unrelayed(PeerId),
    /// The node's own content changed: models, devices, its charter.
    Refresh,
    /// A file has a list of revocations.
    Revocations(Arc<RevocationList>),
    /// A peer echoed on the data plane.
    Echo {
        /// Which.
        peer: PeerId,
        /// From the question to its answer.
        rtt: Duration,
    },
    /// Say goodbye to the mesh, then answer.
    Leave(RpcReplyPort<()>),
}

/// The directory and what carries its outputs out.
pub struct PeerState {
    node: Arc<Node>,
    directory: Shards,
    control: ControlHandle,
    data: DataPlane,
    own: Advert,
    connected: BTreeSet<PeerId>,
    /// In which of its boots each peer is, and how it is reached.
    lives: BTreeMap<PeerId, (u64, u64)>,
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
        let PeerArgs { node, control, data } = args;
        let own = node.advert(&control, &data);
        let (key, trust, now) = (&node.key, &node.trust, node.clock.now());
        let (shards, seed) = (&node.config.mesh.shards, node.draw_seed());
        let directory = Shards::new(shards, key, &own, trust, seed, now, &node.params())?;
        node.publish_view(directory.view());
        node.set_peer(Some(myself.clone()));
        let mut state = PeerState {
            node,
            directory,
            control,
            data,
            own,
            connected: BTreeSet::new(),
            lives: BTreeMap::new(),
            outputs: Vec::new(),
            alarm: None,
        };
        for list in state.node.law.lists() {
            state.feed(&myself, Input::Revocations(list));
        }
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
                NetworkEvent::Connected(peer) => {
                    state.connected.insert(peer);
                    state.feed(&myself, Input::Connected { peer });
                }
                NetworkEvent::Disconnected(peer) => {
                    state.connected.remove(&peer);
                    state.feed(&myself, Input::Disconnected { peer });
                }
                NetworkEvent::Unreachable(peer) => state.feed(&myself, Input::Unreachable { peer }),
                NetworkEvent::Listening => state.publish(&myself),
            },
            PeerMessage::Tick => state.feed(&myself, Input::Tick),
            PeerMessage::Lost(peer) => state.feed(&myself, Input::Unreachable { peer }),
            PeerMessage::Unrelayed(peer) => state.feed(&myself, Input::Unrelayed { peer }),
            PeerMessage::Refresh => state.publish(&myself),
            PeerMessage::Revocations(list) => state.feed(&myself, Input::Revocations(list)),
            PeerMessage::Echo { peer, rtt } => state.feed(&myself, Input::Echo { peer, rtt }),
            PeerMessage::Leave(reply) => {
                state.feed(&myself, Input::Leave);
                tokio::time::sleep(LEAVE_FLUSH).await;
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

/// What is queued on the control plane leaves within this.
const LEAVE_FLUSH: Duration = Duration::from_millis(150);

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

    /// Signs the node's content anew if the advert would say something else.
    fn publish(&mut self, myself: &ActorRef<PeerMessage>) {
        let own = self.node.advert(&self.control, &self.data);
        if own != self.own {
            self.own = own.clone();
            self.feed(myself, Input::Publish(Box::new(own)));
        }
    }

    /// Hands a message to the control plane, with the peer's addresses if it must dial.
    fn send(&mut self, to: PeerId, message: &Message) {
        let bytes = message.encode();
        metrics::counter!("hansa_gossip_bytes_total", "direction" => "out")
            .increment(bytes.len() as u64);
        if !self.connected.contains(&to)
            && let Some(record) = self.directory.record(to)
        {
            let _ = self.control.learn(to, record.advert.control_addrs.clone());
        }
        let _ = self.control.send(to, bytes.into());
    }

    /// A peer that runs anew, or is reached otherwise than before, is met without a grudge, in a new
    /// life on new connections.
    fn renew(&mut self, event: &Event) {
        match event {
            Event::PeerJoined { peer, version } | Event::PeerUpdated { peer, version } => {
                let Some(record) = self.directory.record(*peer) else { return };
                let mut way = DefaultHasher::new();
                (&record.advert.data_addrs, &record.advert.relays).hash(&mut way);
                let life = (version.epoch, way.finish());
                let Some(before) = self.lives.insert(*peer, life) else { return };
                if before != life {
                    self.node.loads().heard(*peer);
                }
                if before.0 < life.0
                    && let Some(data) = self.node.data()
                {
                    data.renew(peer);
                }
            }
            Event::PeerDropped { peer } => drop(self.lives.remove(peer)),
            _ => {}
        }
    }

    fn perform(&mut self, myself: &ActorRef<PeerMessage>, output: Output) {
        match output {
            Output::Send { to, message } => self.send(to, &message),
            Output::Dial { peer, addrs } => {
                // The control plane counts what it cannot take; gossip repairs what is lost.
                let _ = self.control.dial(peer, addrs);
            }
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
            Output::Revocations(list) => self.node.keep_list(&list),
            Output::ViewChanged => {
                // In each shard others.
                let own = self.directory.each().iter().map(|shard| &shard.own().advert);
                let relays: BTreeSet<PeerId> =
                    own.flat_map(|advert| advert.relays.iter().copied()).collect();
                self.node.relays.store(Arc::new(relays));
                self.node.publish_view(self.directory.view());
            }
            Output::Event(event) => {
                self.renew(&event);
                report(&event);
            }
        }
    }
}

/// Membership events for logs and metrics.
fn report(event: &Event) {
    let name = match event {
        Event::Published { .. } => "published",
        Event::PublishRefused { .. } => "publish_refused",
        Event::PeerJoined { .. } => "joined",
        Event::PeerUpdated { .. } => "updated",
        Event::PeerSuspect { .. } => "suspect",
        Event::PeerAlive { .. } => "alive",
        Event::PeerDown { .. } => "down",
        Event::DownWithheld { .. } => "down_withheld",
        Event::PeerLeft { .. } => "left",
        Event::PeerDropped { .. } => "dropped",
        Event::AdvertRefused { .. } => "advert_refused",
        Event::Refuted { .. } => "refuted",
        Event::Outbid { .. } => "outbid",
        Event::RevocationsDisputed { .. } => "revocations_disputed",
        Event::PeerContradicted { .. } => "contradicted",
        Event::Stalled { .. } => "stalled",
    };
    metrics::counter!("hansa_membership_events_total", "event" => name).increment(1);
    match event {
        Event::PublishRefused { .. }
        | Event::AdvertRefused { .. }
        | Event::Outbid { .. }
        | Event::RevocationsDisputed { .. }
        | Event::PeerContradicted { .. }
        | Event::PeerDown { .. } => {
            tracing::warn!(?event, "membership");
        }
        Event::Published { .. } | Event::PeerUpdated { .. } => {
            tracing::debug!(?event, "membership");
        }
        _ => tracing::info!(?event, "membership"),
    }
}
