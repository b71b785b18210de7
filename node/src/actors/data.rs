//! Owns the data plane's endpoint: takes in jobs from other peers, each in a task of its own.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use hansa_net::data::{Call, DataPlane};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;

use super::Task;
use crate::jobs;
use crate::node::Node;

/// Answers that are being sent have this long to leave.
const GOODBYE: Duration = Duration::from_secs(1);

/// Owns the data endpoint.
pub struct Data;

/// What the actor is started with.
pub struct DataArgs {
    /// The node it serves.
    pub node: Arc<Node>,
    /// The bound endpoint.
    pub endpoint: DataPlane,
    /// What it is asked.
    pub calls: mpsc::Receiver<Call>,
}

/// The endpoint takes no more jobs.
pub struct AcceptEnded;

/// What the actor owns.
pub struct DataState {
    node: Arc<Node>,
    endpoint: Option<DataPlane>,
    _tasks: [Task; 2],
}

impl Actor for Data {
    type Msg = AcceptEnded;
    type State = DataState;
    type Arguments = DataArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<AcceptEnded>,
        DataArgs { node, endpoint, mut calls }: DataArgs,
    ) -> Result<DataState, ActorProcessingErr> {
        let host = Arc::downgrade(&node);
        endpoint.admit_tunnels(move |from, to| {
            host.upgrade().is_some_and(|node| node.may_tunnel(from, to))
        });
        node.set_data(Some(endpoint.clone()));
        let serving = node.clone();
        let accepting = async move {
            // The endpoint bounds how many calls are open; each ends with its deadline.
            while let Some(call) = calls.recv().await {
                let node = serving.clone();
                // Boxed: it is large, and a task is moved some times before it runs.
                serving.tasks.spawn(async move { jobs::serve(&node, call).await }.boxed());
            }
        };
        let accepting = Task::run(accepting, move || drop(myself.cast(AcceptEnded)));
        let staying = Task::run(node.clone().stay_with_relays(endpoint.clone()), || {});
        Ok(DataState { node, endpoint: Some(endpoint), _tasks: [accepting, staying] })
    }

    async fn handle(
        &self,
        _: ActorRef<AcceptEnded>,
        AcceptEnded: AcceptEnded,
        _: &mut DataState,
    ) -> Result<(), ActorProcessingErr> {
        Err("the data endpoint ended".into())
    }

    async fn post_stop(
        &self,
        _: ActorRef<AcceptEnded>,
        state: &mut DataState,
    ) -> Result<(), ActorProcessingErr> {
        state.node.set_data(None);
        // Taken out: what is left of a state outlives its actor for a while.
        if let Some(endpoint) = state.endpoint.take() {
            endpoint.drain(GOODBYE).await;
        }
        Ok(())
    }
}
