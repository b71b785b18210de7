//! The API that apps and operators speak: HTTP with the Open Inference Protocol v2 under `/v2`,
//! the mesh's own questions under `/mesh/v1`, health and metrics.
//!
//! [`v2`] is the protocol as pure functions; [`server`] the listener with its limits; the others
//! are handlers, thin between the two.

pub mod aside;
pub mod events;
pub mod infer;
pub mod mesh;
pub mod models;
pub mod packed;
pub mod receipts;
pub mod repository;
pub mod server;
pub mod trace;
pub mod v2;

use std::sync::Arc;

use axum::Router;
use axum::middleware::map_request;
use axum::routing::{delete, get, post};
use tower_http::compression::CompressionLayer;
use tower_http::decompression::RequestDecompressionLayer;

use crate::node::Node;

/// Every route of the API.
pub fn router(node: Arc<Node>) -> Router {
    let model = Router::new()
        .route("/", get(infer::metadata))
        .route("/config", get(infer::config))
        .route("/ready", get(infer::model_ready))
        .route("/infer", post(infer::infer));
    Router::new()
        .route("/v2", get(infer::server_metadata))
        .route("/v2/", get(infer::server_metadata))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{model}", get(infer::metadata))
        .nest("/v2/models/{model}/", model.clone())
        .route("/v2/models/{model}/versions/{version}", get(infer::metadata))
        .nest("/v2/models/{model}/versions/{version}/", model)
        .route("/v2/repository/index", post(repository::index))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/mesh/v1/peers", get(mesh::peers))
        .route("/mesh/v1/plan", get(mesh::plan))
        .route("/mesh/v1/models", get(models::list))
        .route("/mesh/v1/models/pull", post(models::pull))
        .route("/mesh/v1/models/add", post(models::add))
        .route("/mesh/v1/models/{model}", delete(models::remove))
        .route("/mesh/v1/receipts/{id}", get(receipts::one))
        .route("/mesh/v1/events", get(events::events))
        .route("/mesh/v1/usage", get(receipts::usage))
        .route("/metrics", get(mesh::metrics))
        .fallback(mesh::not_found)
        .layer(RequestDecompressionLayer::new().gzip(true).deflate(true))
        .layer(map_request(packed::count))
        .layer(CompressionLayer::new().gzip(true).deflate(true))
        .with_state(node)
}

/// The process answers.
async fn live() -> &'static str {
    ""
}

/// The node takes jobs.
async fn ready(
    axum::extract::State(node): axum::extract::State<Arc<Node>>,
) -> axum::http::StatusCode {
    if node.is_draining() {
        axum::http::StatusCode::SERVICE_UNAVAILABLE
    } else {
        axum::http::StatusCode::OK
    }
}
