//! Owns the API's listener.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::server;
use crate::limits::DRAIN_MAX;
use crate::node::Node;

/// Owns the listener.
pub struct Api;

/// The listener ended by itself.
pub struct ServeEnded;

/// What the actor owns.
pub struct ApiState {
    stop: CancellationToken,
    serving: Option<JoinHandle<()>>,
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
        let server = server::Server::bind(&node).await?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let serving = tokio::spawn(async move {
            server.serve(stopped).await;
            let _ = myself.cast(ServeEnded);
        });
        Ok(ApiState { stop, serving: Some(serving) })
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
        if let Some(mut serving) = state.serving.take()
            && tokio::time::timeout(DRAIN_MAX, &mut serving).await.is_err()
        {
            serving.abort();
        }
        Ok(())
    }
}
