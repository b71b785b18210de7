//! The same API over gRPC: `inference.GRPCInferenceService` and `grpc.health.v1.Health`.
//!
//! [`convert`] and [`describe`] are the protocol as pure functions, [`status`] its errors; the services here are thin
//! between them and [`super::call`], by way of `infer` where something runs. Constraints are metadata (`hansa-locations`) or parameters, as
//! over HTTP, and answers carry the same headers.

pub mod convert;
pub mod describe;
mod health;
mod infer;
pub mod status;

use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use futures::{FutureExt, Stream, StreamExt};
use tonic::codec::CompressionEncoding::{Deflate, Gzip};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use self::health::Health;
use self::inference::grpc_inference_service_server::{
    GrpcInferenceService, GrpcInferenceServiceServer,
};
use self::inference::*;
use self::status::of;
use super::call::Named;
use super::{models, regions, repository, statistics, v2};
use crate::limits::BODY_BYTES_MAX;
use crate::node::Node;

/// What the build makes of `proto/inference.proto`.
#[allow(missing_docs, unreachable_pub, unused_qualifications)]
#[allow(clippy::all, clippy::cast_possible_truncation)]
pub mod inference {
    tonic::include_proto!("inference");
}

/// Both services as routes; what they do not have is UNIMPLEMENTED.
pub fn router(node: Arc<Node>) -> Router {
    let health = health::service(Health::new(node.clone()));
    let inference = GrpcInferenceServiceServer::new(Service { node })
        .max_decoding_message_size(BODY_BYTES_MAX)
        .max_encoding_message_size(BODY_BYTES_MAX)
        .accept_compressed(Gzip)
        .accept_compressed(Deflate)
        .send_compressed(Gzip)
        .send_compressed(Deflate);
    Router::new()
        .route_service("/inference.GRPCInferenceService/{method}", inference)
        .route_service("/grpc.health.v1.Health/{method}", health)
        .fallback(|| async {
            Status::unimplemented("this server has no such method").into_http::<axum::body::Body>()
        })
}

struct Service {
    node: Arc<Node>,
}

impl Service {
    fn named(name: String, version: String) -> Named {
        Named { model: name, version: Some(version).filter(|version| !version.is_empty()) }
    }

    /// Whether a request may change the node: as over HTTP, where only its own machine can ask. (No
    /// web page can: browsers speak no HTTP/2 in the clear, and this listener nothing else.)
    fn operate(&self) -> Result<(), Status> {
        match self.node.grpc_address() {
            Some(addr) if addr.ip().is_loopback() => Ok(()),
            _ => Err(of(models::not_operator())),
        }
    }

    /// Ends with the node's drain, which waits for every stream.
    fn drained(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut draining = self.node.draining.subscribe();
        async move { drop(draining.wait_for(|is_draining| *is_draining).await) }
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        let ready = !self.node.is_draining() && self.node.is_complete();
        Ok(Response::new(ServerReadyResponse { ready }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready = Self::named(name, version).ready(&self.node).is_ok();
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(describe::server_metadata(&v2::server_metadata())))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let named = Self::named(name, version);
        let (resolved, signature) = named.describe(&self.node).await.map_err(of)?;
        let signature = signature.for_apps();
        Ok(Response::new(describe::metadata(named.model, resolved.version, &signature)))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let ModelConfigRequest { name, version } = request.into_inner();
        let named = Self::named(name, version);
        let (_, signature) = named.describe(&self.node).await.map_err(of)?;
        let config = Some(describe::config(named.model, &signature));
        Ok(Response::new(ModelConfigResponse { config }))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let rows = match name.is_empty() {
            true => statistics::of_all(&self.node),
            false => statistics::of_model(&self.node, &Self::named(name, version)).map_err(of)?,
        };
        let model_stats = rows.into_iter().map(describe::statistics).collect();
        Ok(Response::new(ModelStatisticsResponse { model_stats }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let answered = infer::once(&self.node, &metadata.into_headers(), request).await;
        let (answer, headers) = answered.map_err(of)?;
        let mut response = Response::new(answer);
        *response.metadata_mut() = MetadataMap::from_headers(headers);
        Ok(response)
    }

    type ModelStreamInferStream =
        Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

    /// A request that fails is told so in its place, and the stream goes on. When the client leaves,
    /// what runs for it is stopped.
    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let (metadata, _, requests) = request.into_parts();
        let requests = requests.take_until(self.drained().boxed());
        let answers = infer::each(self.node.clone(), metadata.into_headers(), requests);
        Ok(Response::new(answers.boxed()))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let rows = repository::rows(&self.node, request.into_inner().ready);
        let models = rows.iter().map(describe::index).collect();
        Ok(Response::new(RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        self.operate()?;
        let RepositoryModelLoadRequest { model_name, parameters, .. } = request.into_inner();
        let parameters = describe::repository_parameters(parameters);
        repository::load_model(&self.node, model_name, parameters).await.map_err(of)?;
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        self.operate()?;
        let RepositoryModelUnloadRequest { model_name, parameters, .. } = request.into_inner();
        let parameters = describe::repository_parameters(parameters);
        repository::unload_model(&self.node, model_name, parameters).await.map_err(of)?;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }

    async fn system_shared_memory_status(
        &self,
        request: Request<SystemSharedMemoryStatusRequest>,
    ) -> Result<Response<SystemSharedMemoryStatusResponse>, Status> {
        let name = request.into_inner().name;
        let regions = self.node.regions.status(model_of(&name)).map_err(of)?;
        let regions = regions.into_iter().map(describe::region).collect();
        Ok(Response::new(SystemSharedMemoryStatusResponse { regions }))
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Result<Response<SystemSharedMemoryRegisterResponse>, Status> {
        self.operate()?;
        regions::check_local(&self.node).map_err(of)?;
        let SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } =
            request.into_inner();
        self.node.regions.register(name, key, offset, byte_size).map_err(of)?;
        Ok(Response::new(SystemSharedMemoryRegisterResponse {}))
    }

    async fn system_shared_memory_unregister(
        &self,
        request: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Result<Response<SystemSharedMemoryUnregisterResponse>, Status> {
        self.operate()?;
        self.node.regions.unregister(model_of(&request.into_inner().name));
        Ok(Response::new(SystemSharedMemoryUnregisterResponse {}))
    }

    async fn cuda_shared_memory_status(
        &self,
        _: Request<CudaSharedMemoryStatusRequest>,
    ) -> Result<Response<CudaSharedMemoryStatusResponse>, Status> {
        Ok(Response::new(CudaSharedMemoryStatusResponse::default()))
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<CudaSharedMemoryUnregisterRequest>,
    ) -> Result<Response<CudaSharedMemoryUnregisterResponse>, Status> {
        Ok(Response::new(CudaSharedMemoryUnregisterResponse {})) // Nothing was registered.
    }

    async fn trace_setting(
        &self,
        request: Request<TraceSettingRequest>,
    ) -> Result<Response<TraceSettingResponse>, Status> {
        let TraceSettingRequest { settings, model_name } = request.into_inner();
        let model = model_of(&model_name);
        if !settings.is_empty() {
            self.operate()?;
            let changes = settings.into_iter().map(describe::trace_change).collect();
            self.node.settings.set_tracing(model, changes).map_err(of)?;
        }
        let settings = self.node.settings.tracing(&self.node, model);
        let settings = settings.into_iter().map(describe::trace_setting).collect();
        Ok(Response::new(TraceSettingResponse { settings }))
    }

    async fn log_settings(
        &self,
        request: Request<LogSettingsRequest>,
    ) -> Result<Response<LogSettingsResponse>, Status> {
        let settings = request.into_inner().settings;
        if !settings.is_empty() {
            self.operate()?;
            let changes = settings.into_iter().map(describe::log_change).collect();
            self.node.settings.set_logging(&self.node, &changes).map_err(of)?;
        }
        let settings = describe::log_settings(&self.node.settings.logging());
        Ok(Response::new(LogSettingsResponse { settings }))
    }
}

fn model_of(name: &str) -> Option<&str> {
    Some(name).filter(|name| !name.is_empty())
}
