//! gRPC's own health checks, for load balancers and orchestrators.

use std::pin::Pin;
use std::sync::Arc;

use futures::{FutureExt, Stream, StreamExt, stream};
use tonic::{Request, Response, Status};

use self::health::health_check_response::ServingStatus;
use self::health::health_server::{Health as Check, HealthServer};
use self::health::{HealthCheckRequest, HealthCheckResponse};
use crate::node::Node;

/// What the build makes of `proto/health.proto`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// Services that may be asked for; the empty name is the whole server.
const SERVICES: [&str; 3] = ["", "inference.GRPCInferenceService", "grpc.health.v1.Health"];

/// Tells whether the node takes jobs.
pub(super) struct Health {
    node: Arc<Node>,
}

impl Health {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

/// The service.
pub(super) fn service(health: Health) -> HealthServer<Health> {
    HealthServer::new(health)
}

fn told(is_draining: bool) -> HealthCheckResponse {
    let status = if is_draining { ServingStatus::NotServing } else { ServingStatus::Serving };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Check for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !SERVICES.contains(&&*service) {
            return Err(Status::not_found(format!("this server has no service `{service}`")));
        }
        Ok(Response::new(told(self.node.is_draining())))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        if !SERVICES.contains(&&*service) {
            let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
            let mut draining = self.node.draining.subscribe();
            let drained = async move { drop(draining.wait_for(|is_draining| *is_draining).await) };
            let told = stream::once(async move { Ok(unknown) }).chain(stream::pending());
            return Ok(Response::new(told.take_until(drained.boxed()).boxed()));
        }
        let draining = self.node.draining.subscribe();
        // A drain waits for every stream to end: this one ends with the word that it drains.
        let states = stream::unfold(Some((draining, false)), |state| async {
            let (mut draining, is_told) = state?;
            if is_told {
                draining.wait_for(|is_draining| *is_draining).await.ok()?;
            }
            let is_draining = *draining.borrow();
            Some((Ok(told(is_draining)), (!is_draining).then_some((draining, true))))
        });
        Ok(Response::new(states.boxed()))
    }
}
