//! Starts the node's actors, restarts what fails, and gives up when restarting does not help.
//!
//! The mesh side (swarm, peer, data) stands or falls together: each would talk to a dead one's
//! remains. The others are restarted alone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::{api, data, engine, peer, swarm};
use crate::limits::{RESTARTS_MAX, RESTARTS_WITHIN};
use crate::node::Node;
use crate::run::StartError;

/// The root of the tree.
pub struct Supervisor;

/// What the supervisor is asked.
pub enum SupervisorMessage {
    /// Stop everything, mesh last.
    Stop,
}

/// The children and the restart budget.
pub struct Children {
    node: Arc<Node>,
    mesh: Option<Mesh>,
    engine: Option<ActorCell>,
    api: Option<ActorCell>,
    budget: RestartBudget,
    stopping: bool,
}

struct Mesh {
    swarm: ActorCell,
    peer: ActorCell,
    data: ActorCell,
}

impl Mesh {
    fn owns(&self, cell: &ActorCell) -> bool {
        [&self.swarm, &self.peer, &self.data].iter().any(|own| own.get_id() == cell.get_id())
    }

    async fn stop(self) {
        for cell in [self.data, self.peer, self.swarm] {
            let _ = cell.stop_and_wait(None, Some(STOP_WITHIN)).await;
        }
    }
}

/// An actor that has not stopped by then is left behind.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// How often children may be restarted before the node gives up: a fault that a restart does not
/// mend must surface, not spin.
#[derive(Debug, Default)]
pub struct RestartBudget {
    recent: VecDeque<Instant>,
}

impl RestartBudget {
    /// Takes one restart; false when more than [`RESTARTS_MAX`] fell within [`RESTARTS_WITHIN`].
    pub fn take(&mut self, now: Instant) -> bool {
        self.recent.retain(|at| now.duration_since(*at) < RESTARTS_WITHIN);
        self.recent.push_back(now);
        self.recent.len() <= RESTARTS_MAX
    }
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = Children;
    type Arguments = Arc<Node>;

    async fn pre_start(
        &self,
        myself: ActorRef<SupervisorMessage>,
        node: Arc<Node>,
    ) -> Result<Children, ActorProcessingErr> {
        let root = myself.get_cell();
        // Engines before the mesh: the first advert already names the models.
        let engine = start_engine(&node, &root).await?;
        let api = start_api(&node, &root).await?;
        let mesh = start_mesh(&node, &root).await?;
        Ok(Children {
            node,
            mesh: Some(mesh),
            engine: Some(engine),
            api: Some(api),
            budget: RestartBudget::default(),
            stopping: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMessage>,
        SupervisorMessage::Stop: SupervisorMessage,
        children: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        children.stopping = true;
        if let Some(api) = children.api.take() {
            let _ = api.stop_and_wait(None, Some(crate::limits::DRAIN_MAX)).await;
        }
        if let Some(mesh) = children.mesh.take() {
            mesh.stop().await;
        }
        if let Some(engine) = children.engine.take() {
            let _ = engine.stop_and_wait(None, Some(STOP_WITHIN)).await;
        }
        myself.stop(None);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SupervisorMessage>,
        event: SupervisionEvent,
        children: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, why) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell, error.to_string()),
            SupervisionEvent::ActorTerminated(cell, _, why) => (cell, why.unwrap_or_default()),
            _ => return Ok(()),
        };
        if children.stopping {
            return Ok(());
        }
        children.restart(&myself.get_cell(), &cell, &why).await
    }
}

impl Children {
    async fn restart(
        &mut self,
        root: &ActorCell,
        failed: &ActorCell,
        why: &str,
    ) -> Result<(), ActorProcessingErr> {
        let is = |held: &Option<ActorCell>| {
            held.as_ref().is_some_and(|cell| cell.get_id() == failed.get_id())
        };
        let part = if self.mesh.as_ref().is_some_and(|mesh| mesh.owns(failed)) {
            "mesh"
        } else if is(&self.engine) {
            "engine"
        } else if is(&self.api) {
            "api"
        } else {
            return Ok(()); // One of those that a restart has stopped already.
        };
        metrics::counter!("hansa_restarts_total", "part" => part).increment(1);
        tracing::error!(part, why, "failed; restarting");
        if !self.budget.take(Instant::now()) {
            return Err(format!("{part} fails again and again, the last time: {why}").into());
        }
        match part {
            "mesh" => {
                if let Some(mesh) = self.mesh.take() {
                    mesh.stop().await;
                }
                self.mesh = Some(start_mesh(&self.node, root).await?);
            }
            "engine" => self.engine = Some(start_engine(&self.node, root).await?),
            _ => self.api = Some(start_api(&self.node, root).await?),
        }
        Ok(())
    }
}

async fn start_engine(node: &Arc<Node>, root: &ActorCell) -> Result<ActorCell, StartError> {
    let (actor, _) = Actor::spawn_linked(None, engine::Engines, node.clone(), root.clone())
        .await
        .map_err(StartError::from_spawn)?;
    Ok(actor.get_cell())
}

async fn start_api(node: &Arc<Node>, root: &ActorCell) -> Result<ActorCell, StartError> {
    let (actor, _) = Actor::spawn_linked(None, api::Api, node.clone(), root.clone())
        .await
        .map_err(StartError::from_spawn)?;
    Ok(actor.get_cell())
}

/// Opens both planes, then starts the actors that own them.
async fn start_mesh(node: &Arc<Node>, root: &ActorCell) -> Result<Mesh, StartError> {
    let (control, events) = node.open_control().await?;
    let (data, calls) = node.open_data()?;
    let spawn = StartError::from_spawn;
    let args = data::DataArgs { node: node.clone(), endpoint: data.clone(), calls };
    let (serving, _) =
        Actor::spawn_linked(None, data::Data, args, root.clone()).await.map_err(spawn)?;
    let args = peer::PeerArgs { node: node.clone(), control: control.clone(), data };
    let (peer, _) =
        Actor::spawn_linked(None, peer::Peer, args, root.clone()).await.map_err(spawn)?;
    node.write_addresses(&control)?;
    let args = swarm::SwarmArgs { node: node.clone(), control, events, peer: peer.clone() };
    let (swarm, _) =
        Actor::spawn_linked(None, swarm::Swarm, args, root.clone()).await.map_err(spawn)?;
    Ok(Mesh { swarm: swarm.get_cell(), peer: peer.get_cell(), data: serving.get_cell() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_granted_until_they_come_too_often() {
        let mut budget = RestartBudget::default();
        let start = Instant::now();
        assert!((0..RESTARTS_MAX).all(|_| budget.take(start)));
        assert!(!budget.take(start));
        assert!(budget.take(start + RESTARTS_WITHIN * 2));
    }
}
