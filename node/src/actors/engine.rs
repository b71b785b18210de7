//! Owns the devices and the engines on them: loads what the config names, keeps the advert's
//! device figures fresh. Jobs go to an engine's own bounded queue, not through this mailbox.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::limits::DEVICES_EVERY;
use crate::models;
use crate::node::Node;

/// Owns the engines.
pub struct Engines;

/// The devices and the node that they serve.
pub struct EnginesState {
    node: Arc<Node>,
    devices: models::Owned,
}

/// Time to read the devices anew.
pub struct ReadDevices;

impl Actor for Engines {
    type Msg = ReadDevices;
    type State = EnginesState;
    type Arguments = Arc<Node>;

    async fn pre_start(
        &self,
        myself: ActorRef<ReadDevices>,
        node: Arc<Node>,
    ) -> Result<EnginesState, ActorProcessingErr> {
        let loading = node.clone();
        // Loading models takes seconds and blocks.
        let loaded = tokio::task::spawn_blocking(move || models::load(&loading)).await?;
        let (mut devices, engines) = loaded?;
        node.set_devices(models::read_devices(&mut devices));
        node.set_engines(engines);
        myself.send_interval(DEVICES_EVERY, || ReadDevices);
        Ok(EnginesState { node, devices })
    }

    async fn handle(
        &self,
        _: ActorRef<ReadDevices>,
        ReadDevices: ReadDevices,
        state: &mut EnginesState,
    ) -> Result<(), ActorProcessingErr> {
        let fresh = models::read_devices(&mut state.devices);
        state.node.set_devices(fresh);
        let view = state.node.view();
        state.node.loads().keep(|peer| view.get(peer).is_some());
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<ReadDevices>,
        state: &mut EnginesState,
    ) -> Result<(), ActorProcessingErr> {
        state.node.set_engines(Default::default());
        Ok(())
    }
}
