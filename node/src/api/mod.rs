//! The API that apps and operators speak: HTTP with the Open Inference Protocol v2 under `/v2`,
//! OpenAI's under `/v1`, the mesh's own questions under `/mesh/v1`, health and metrics; and the first
//! over gRPC.
//!
//! [`v2`] is the protocol as pure functions, [`openai`] the other with its handlers; [`call`] a
//! request's way to its answer, whatever its protocol; [`server`] the listener with its limits; the others are handlers, thin between them.

pub mod aside;
pub mod call;
pub mod events;
pub mod generate;
pub mod grpc;
pub mod infer;
pub mod loops;
pub mod mesh;
pub mod models;
pub mod openai;
pub mod packed;
pub mod receipts;
pub mod regions;
pub mod repository;
pub mod sequences;
pub mod server;
pub mod settings;
pub mod statistics;
pub mod trace;
pub mod v2;
pub mod wanted;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use axum::http::{Extensions, HeaderMap, Request, StatusCode};
use axum::middleware::map_request;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use axum::routing::{delete, get, post};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, Predicate};
use tower_http::decompression::RequestDecompressionLayer;
use tower_service::Service;

use crate::node::Node;

/// The API: every route twice, as it is, and behind the layers that pack and unpack bodies. Most
/// requests need none of that and do not pay for it.
#[derive(Clone)]
pub struct Routes {
    plain: Router,
    packing: Router,
}

impl Routes {
    /// What is asked over gRPC, whose messages are packed each by itself.
    pub fn grpc(node: Arc<Node>) -> Self {
        let plain = grpc::router(node);
        Self { packing: plain.clone(), plain }
    }

    /// Every route of the API over HTTP.
    pub fn http(node: Arc<Node>) -> Self {
        let plain = router(node);
        // Who is refused can read why: Triton's asyncio client unpacks no errors.
        let successful = |status: StatusCode, _, _: &HeaderMap, _: &Extensions| status.is_success();
        let packs = DefaultPredicate::new().and(successful);
        let packing = plain
            .clone()
            .layer(RequestDecompressionLayer::new().gzip(true).deflate(true))
            .layer(map_request(packed::count))
            .layer(CompressionLayer::new().gzip(true).deflate(true).compress_when(packs));
        Self { plain, packing }
    }
}

impl<B> Service<Request<B>> for Routes
where
    Router: Service<
            Request<B>,
            Response = Response,
            Error = Infallible,
            Future = RouteFuture<Infallible>,
        >,
{
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // As routers always are.
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let headers = request.headers();
        let packs = headers.contains_key(ACCEPT_ENCODING) && may_pack(request.uri().path());
        let is_packed = headers.contains_key(CONTENT_ENCODING);
        let router = if packs || is_packed { &mut self.packing } else { &mut self.plain };
        router.call(request)
    }
}

/// Whether an answer may be packed where the client takes that. Of the Open Inference Protocol only
/// inference is: Triton's asyncio client offers it everywhere and unpacks nothing else.
fn may_pack(path: &str) -> bool {
    !path.starts_with("/v2") || path.ends_with("/infer")
}

fn router(node: Arc<Node>) -> Router {
    let mut routes = Router::new();
    for model in ["/v2/models/{model}", "/v2/models/{model}/versions/{version}"] {
        let of = |name: &str| format!("{model}/{name}");
        routes = routes
            .route(model, get(infer::metadata))
            .route(&of(""), get(infer::metadata))
            .route(&of("config"), get(infer::config))
            .route(&of("ready"), get(infer::model_ready))
            .route(&of("stats"), get(statistics::one))
            .route(&of("infer"), post(infer::infer))
            .route(&of("generate"), post(generate::generate))
            .route(&of("generate_stream"), post(generate::generate_stream));
    }
    for setting in ["/v2/trace/setting", "/v2/models/{model}/trace/setting"] {
        routes = routes.route(setting, get(settings::tracing).post(settings::set_tracing));
    }
    routes
        .route("/v2", get(infer::server_metadata))
        .route("/v2/", get(infer::server_metadata))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(complete))
        .route("/v2/models/stats", get(statistics::all))
        .route("/v2/logging", get(settings::logging).post(settings::set_logging))
        .route("/v2/systemsharedmemory/status", get(regions::status))
        .route("/v2/systemsharedmemory/unregister", post(regions::unregister))
        .route("/v2/systemsharedmemory/region/{name}/status", get(regions::status))
        .route("/v2/systemsharedmemory/region/{name}/register", post(regions::register))
        .route("/v2/systemsharedmemory/region/{name}/unregister", post(regions::unregister))
        .route("/v2/cudasharedmemory/status", get(regions::no_cuda))
        .route("/v2/cudasharedmemory/unregister", post(regions::forget_cuda))
        .route("/v2/cudasharedmemory/region/{name}/status", get(regions::no_cuda))
        .route("/v2/cudasharedmemory/region/{name}/register", post(regions::refuse_cuda))
        .route("/v2/cudasharedmemory/region/{name}/unregister", post(regions::forget_cuda))
        .route("/v2/repository/index", post(repository::index))
        .route("/v2/repository/models/{model}/load", post(repository::load))
        .route("/v2/repository/models/{model}/unload", post(repository::unload))
        .route("/v1/embeddings", openai::post(openai::embeddings))
        .route("/v1/models", openai::get(openai::models))
        .route("/v1/models/{model}", openai::get(openai::model))
        .route("/v1/{*rest}", axum::routing::any(openai::not_found))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/mesh/v1/peers", get(mesh::peers))
        .route("/mesh/v1/plan", get(mesh::plan))
        .route("/mesh/v1/models", get(models::list))
        .route("/mesh/v1/models/pull", post(models::pull))
        .route("/mesh/v1/models/add", post(models::add))
        .route("/mesh/v1/models/{model}", delete(models::remove))
        .route("/mesh/v1/receipts/{id}", get(receipts::one))
        .route("/mesh/v1/receipts/{id}/salt", get(receipts::salt).delete(receipts::erase))
        .route("/mesh/v1/events", get(events::events))
        .route("/mesh/v1/usage", get(receipts::usage))
        .route("/metrics", get(mesh::metrics))
        .fallback(mesh::not_found)
        .with_state(node)
}

/// The process answers.
async fn live() -> &'static str {
    ""
}

/// The node takes jobs, and serves all that its config names.
async fn complete(state: axum::extract::State<Arc<Node>>) -> StatusCode {
    if state.is_complete() { ready(state).await } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// The node takes jobs.
async fn ready(axum::extract::State(node): axum::extract::State<Arc<Node>>) -> StatusCode {
    if node.is_draining() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}
