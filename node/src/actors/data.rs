//! Owns the data plane's endpoint: takes in jobs from other peers, each in a task of its own.

use std::sync::Arc;

use hansa_net::data::DataPlane;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::JoinHandle;

use crate::jobs;
use crate::node::Node;

/// Owns the data endpoint.
pub struct Data;

/// What the actor is started with.
pub struct DataArgs {
    /// The node it serves.
    pub node: Arc<Node>,
    /// The bound endpoint.
    pub endpoint: DataPlane,
}

/// The endpoint takes no more jobs.
pub struct AcceptEnded;

/// What the actor owns.
pub struct DataState {
    node: Arc<Node>,
    endpoint: DataPlane,
    accepting: JoinHandle<()>,
}

impl Actor for Data {
    type Msg = AcceptEnded;
    type State = DataState;
    type Arguments = DataArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<AcceptEnded>,
        DataArgs { node, endpoint }: DataArgs,
    ) -> Result<DataState, ActorProcessingErr> {
        node.set_data(Some(endpoint.clone()));
        let (serving, calls) = (node.clone(), endpoint.clone());
        let accepting = tokio::spawn(async move {
            // The endpoint bounds how many calls are open; each ends with its deadline.
            while let Some(call) = calls.accept().await {
                let node = serving.clone();
                serving.tasks.spawn(async move { jobs::serve(&node, call).await });
            }
            let _ = myself.cast(AcceptEnded);
        });
        Ok(DataState { node, endpoint, accepting })
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
        state.accepting.abort();
        state.node.set_data(None);
        state.endpoint.close().await;
        Ok(())
    }
}
