//! Owns the API's listeners.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::join_all;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio_util::sync::CancellationToken;

use super::Task;
use crate::api::server::Server;
use crate::limits::DRAIN_MAX;
use crate::node::Node;

/// Owns the listeners.
pub struct Api;

/// The listener ended by itself.
pub struct ServeEnded;

/// What the actor owns.
pub struct ApiState {
    stop: CancellationToken,
    serving: Task,
}

impl Actor for Api {
    type Msg = ServeEnded;
    type State = ApiState;
    type Arguments = Arc<Node>;

    async fn pre_start(
        &self,
        myself: ActorRef<ServeEnded>,
        node: Arc<Node>,
    ) -> Result<ApiState, ActorProcessingErr> {
        let servers = Server::bind(&node).await?;
        let stop = CancellationToken::new();
        let serving = servers.into_iter().map(|server| server.serve(stop.clone()));
        let serving = join_all(serving).map(drop);
        let serving = Task::run(serving, move || drop(myself.cast(ServeEnded)));
        Ok(ApiState { stop, serving })
    }

    async fn handle(
        &self,
        _: ActorRef<ServeEnded>,
        ServeEnded: ServeEnded,
        _: &mut ApiState,
    ) -> Result<(), ActorProcessingErr> {
        Err("the listener ended".into())
    }

    /// Requests in progress get their answers first.
    async fn post_stop(
        &self,
        _: ActorRef<ServeEnded>,
        state: &mut ApiState,
    ) -> Result<(), ActorProcessingErr> {
        state.stop.cancel();
        if tokio::time::timeout(DRAIN_MAX, state.serving.ended()).await.is_err() {
            tracing::warn!("requests cut off by the end of the drain");
        }
        Ok(())
    }
}
