//! Owns the devices and the engines on them: loads what the config names, keeps the advert's
//! device figures fresh. Jobs go to an engine's own bounded queue, not through this mailbox.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::limits::DEVICES_EVERY;
use crate::models;
use crate::node::Node;

/// Owns the engines.
pub struct Engines;

/// Time to read the devices anew.
pub struct ReadDevices;

impl Actor for Engines {
    type Msg = ReadDevices;
    type State = Arc<Node>;
    type Arguments = Arc<Node>;

    async fn pre_start(
        &self,
        myself: ActorRef<ReadDevices>,
        node: Arc<Node>,
    ) -> Result<Arc<Node>, ActorProcessingErr> {
        let loading = node.clone();
        // Loading models takes seconds and blocks.
        let engines = tokio::task::spawn_blocking(move || models::load(&loading)).await??;
        node.set_devices(models::read_devices(&node));
        node.set_engines(engines);
        myself.send_interval(DEVICES_EVERY, || ReadDevices);
        Ok(node)
    }

    async fn handle(
        &self,
        _: ActorRef<ReadDevices>,
        ReadDevices: ReadDevices,
        node: &mut Arc<Node>,
    ) -> Result<(), ActorProcessingErr> {
        let fresh = models::read_devices(node);
        if models::differ(&node.devices(), &fresh) {
            node.set_devices(fresh);
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<ReadDevices>,
        node: &mut Arc<Node>,
    ) -> Result<(), ActorProcessingErr> {
        node.set_engines(Default::default());
        Ok(())
    }
}
