//! Starts the node's actors, restarts what fails, and gives up when restarting does not help.
//!
//! The mesh side (swarm, peer, data) stands or falls together: each would talk to a dead one's
//! remains. The others are restarted alone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::{api, data, engine, peer, swarm};
use crate::limits::{RESTART_ATTEMPTS_MAX, RESTART_PAUSE, RESTARTS_MAX, RESTARTS_WITHIN};
use crate::node::Node;
use crate::run::StartError;

/// The root of the tree.
pub struct Supervisor;

/// What the supervisor is asked.
pub enum SupervisorMessage {
    /// Stop everything, mesh last.
    Stop,
    /// Start a part that failed. Said by the supervisor to itself: the states of those that ended,
    /// and with them their sockets, come to it as events and are let go before its next message.
    Start(Part),
}

/// What is restarted as one.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// Swarm, peer, data.
    Mesh,
    /// The engines.
    Engine,
    /// The API.
    Api,
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
        message: SupervisorMessage,
        children: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisorMessage::Start(part) = message {
            return children.start(part, &myself.get_cell()).await;
        }
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
        if let Some(part) = children.clear(&cell, &why).await? {
            myself.cast(SupervisorMessage::Start(part))?;
        }
        Ok(())
    }
}

impl Children {
    /// Makes room for the part of a child that failed: what stands with it falls with it.
    async fn clear(
        &mut self,
        failed: &ActorCell,
        why: &str,
    ) -> Result<Option<Part>, ActorProcessingErr> {
        let is = |held: &Option<ActorCell>| {
            held.as_ref().is_some_and(|cell| cell.get_id() == failed.get_id())
        };
        let part = if self.mesh.as_ref().is_some_and(|mesh| mesh.owns(failed)) {
            Part::Mesh
        } else if is(&self.engine) {
            Part::Engine
        } else if is(&self.api) {
            Part::Api
        } else {
            return Ok(None); // One of those that were stopped already.
        };
        metrics::counter!("hansa_restarts_total", "part" => format!("{part:?}")).increment(1);
        tracing::error!(?part, why, "failed; restarting");
        if !self.budget.take(Instant::now()) {
            tracing::error!(?part, "failed too often; the node gives up");
            return Err(format!("{part:?} fails again and again, the last time: {why}").into());
        }
        match part {
            Part::Mesh => {
                if let Some(mesh) = self.mesh.take() {
                    mesh.stop().await;
                }
                // An actor that failed hard did not clean up; these would keep its sockets.
                self.node.set_data(None);
                self.node.set_peer(None);
            }
            Part::Engine => self.engine = None,
            Part::Api => self.api = None,
        }
        Ok(Some(part))
    }

    async fn start(&mut self, part: Part, root: &ActorCell) -> Result<(), ActorProcessingErr> {
        let node = &self.node;
        match part {
            Part::Mesh => self.mesh = Some(again(part, || start_mesh(node, root)).await?),
            Part::Engine => self.engine = Some(again(part, || start_engine(node, root)).await?),
            Part::Api => self.api = Some(again(part, || start_api(node, root)).await?),
        }
        Ok(())
    }
}

/// Starts a part again, patiently: its predecessor's sockets may be closing still.
async fn again<T, F: Future<Output = Result<T, StartError>>>(
    part: Part,
    start: impl Fn() -> F,
) -> Result<T, StartError> {
    let mut attempts = 0;
    loop {
        match start().await {
            Err(error) if attempts < RESTART_ATTEMPTS_MAX => {
                attempts += 1;
                tracing::warn!(?part, %error, attempts, "cannot be started again yet");
                tokio::time::sleep(RESTART_PAUSE).await;
            }
            Err(error) => {
                tracing::error!(?part, %error, "cannot be started again; the node gives up");
                return Err(error);
            }
            Ok(started) => return Ok(started),
        }
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
    let rest = async {
        let args = peer::PeerArgs { node: node.clone(), control: control.clone(), data };
        let (peer, _) =
            Actor::spawn_linked(None, peer::Peer, args, root.clone()).await.map_err(spawn)?;
        node.write_addresses(&control)?;
        let args = swarm::SwarmArgs { node: node.clone(), control, events, peer: peer.clone() };
        let (swarm, _) =
            Actor::spawn_linked(None, swarm::Swarm, args, root.clone()).await.map_err(spawn)?;
        Ok((swarm.get_cell(), peer.get_cell()))
    };
    match rest.await {
        Ok((swarm, peer)) => Ok(Mesh { swarm, peer, data: serving.get_cell() }),
        Err(error) => {
            // Half a mesh side would keep the ports from the next try.
            let _ = serving.stop_and_wait(None, Some(STOP_WITHIN)).await;
            if let Some(peer) = node.peer() {
                let _ = peer.stop_and_wait(None, Some(STOP_WITHIN)).await;
            }
            Err(error)
        }
    }
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
