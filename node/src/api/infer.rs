//! Handlers of the Open Inference Protocol: metadata, readiness, inference.
//!
//! A model is named, a bundle is meant: the entry resolves the name once, checks the inputs
//! against the bundle's signature (its own, or a holder's, kept by digest) and puts the job in the
//! air.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hansa_core::id::Digest;
use hansa_core::plan::{Refusal, resolve};
use hansa_core::policy::{Demand, Policy};
use serde::Deserialize;

use super::trace;
use super::v2::{self, ApiError};
use crate::jobs::{Answer, Order};
use crate::limits::BODY_BYTES_MAX;
use crate::node::Node;

/// The model that a path names.
#[derive(Deserialize)]
pub struct Named {
    model: String,
    version: Option<String>,
}

/// `GET /v2`
pub async fn server_metadata() -> Response {
    Json(v2::server_metadata()).into_response()
}

/// `GET /v2/models/NAME[/versions/V]`
pub async fn metadata(
    State(node): State<Arc<Node>>,
    Path(named): Path<Named>,
) -> Result<Response, ApiError> {
    let resolved = named.resolve(&node, &Policy::default())?;
    let signature = node.describe(resolved.bundle).await?;
    Ok(Json(v2::model_metadata(&named.model, &resolved, &signature)).into_response())
}

/// `GET /v2/models/NAME[/versions/V]/ready`
pub async fn model_ready(
    State(node): State<Arc<Node>>,
    Path(named): Path<Named>,
) -> Result<StatusCode, ApiError> {
    named.resolve(&node, &Policy::default())?;
    Ok(StatusCode::OK)
}

/// `POST /v2/models/NAME[/versions/V]/infer`
pub async fn infer(
    State(node): State<Arc<Node>>,
    Path(named): Path<Named>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let arrived = Instant::now();
    let outcome = run(&node, &named, &headers, request).await;
    let code = match &outcome {
        Ok(_) => "ok",
        Err(error) => error.code(),
    };
    metrics::counter!("hansa_requests_total", "outcome" => code).increment(1);
    metrics::histogram!("hansa_request_seconds").record(arrived.elapsed());
    outcome.unwrap_or_else(IntoResponse::into_response)
}
