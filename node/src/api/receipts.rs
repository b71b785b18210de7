//! Handlers of evidence: a receipt's proof by its job, and what the receipts kept here add up to.
//!
//! A job's id is 128 random bits that only its app and the peers on its way were told: whoever asks
//! with it is one of them. What a proof shows, `hansa receipt verify` finds out without this node.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use hansa_core::id::JobId;
use hansa_core::receipt::Salt;
use serde_json::{Value, json};

use super::models::Operator;
use super::v2::ApiError;
use crate::audit::keeper::Keeper;
use crate::audit::totals::Filter;
use crate::audit::writer::KeepError;
use crate::jobs::Receipted;
use crate::node::Node;

/// Says which receipt a job left: its id under `/mesh/v1/receipts`, or that there is none.
pub const RECEIPT: HeaderName = HeaderName::from_static("hansa-receipt");
/// What the header says where a receipt was lost.
const LOST: &str = "none";

/// `GET /mesh/v1/receipts/ID`: the proof, as `hansa receipt verify` reads it.
pub async fn one(
    State(node): State<Arc<Node>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let job = job(&id)?;
    let proof = keeper(&node)?.proof(job).await?.ok_or_else(|| unknown(job))?;
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], proof.to_string()).into_response())
}

/// `GET /mesh/v1/receipts/ID/salt`: what opens the receipt's commitments, for whoever runs the node:
/// others that know the job's id could try what its payloads were.
pub async fn salt(
    _: Operator,
    State(node): State<Arc<Node>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let job = job(&id)?;
    let salt = keeper(&node)?.salt(job).await?.ok_or_else(|| unknown(job))?;
    Ok(Json(json!({ "job": job, "salt": salt.map(Salt::to_hex) })))
}

/// `DELETE /mesh/v1/receipts/ID/salt`: erases that for good. The receipt and its proof stay.
pub async fn erase(
    _: Operator,
    State(node): State<Arc<Node>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let job = job(&id)?;
    keeper(&node)?.erase(job).await?.ok_or_else(|| unknown(job))?;
    Ok(Json(json!({ "job": job, "salt": null })))
}

fn job(id: &str) -> Result<JobId, ApiError> {
    let fault = || ApiError::malformed(format!("`{id}` is not a job's id, 32 hexadecimal digits"));
    id.parse().map_err(|_| fault())
}

fn unknown(job: JobId) -> ApiError {
    let message = format!(
        "no receipt of job {job} is kept here; ask the node that the job was submitted to, or one \
         that ran it"
    );
    ApiError::new(StatusCode::NOT_FOUND, "unknown_receipt", message)
}

/// `GET /mesh/v1/usage?since=…&model=…`: jobs, rows, time on devices and price by country, control,
/// operator and model, over the receipts that are kept here. The query takes the words of
/// `hansa audit show`.
pub async fn usage(
    State(node): State<Arc<Node>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Json<Value>, ApiError> {
    let audit = keeper(&node)?;
    let mut filter = Filter::default();
    for (key, value) in &query {
        filter.set(key, value).map_err(ApiError::malformed)?;
    }
    let totals = audit.totals(filter).await?;
    Ok(Json(json!({ "log": audit.status(), "totals": totals })))
}

fn keeper(node: &Node) -> Result<&Keeper, ApiError> {
    let off = || {
        let message = "this node keeps no receipts: they need a charter, and [audit] receipts";
        ApiError::new(StatusCode::NOT_FOUND, "no_receipts", message)
    };
    node.audit.as_ref().ok_or_else(off)
}

/// The proof of a receipt that was just kept, for an answer that is to carry it.
pub async fn inline(node: &Node, receipted: Receipted) -> Option<String> {
    let Receipted::Kept { job, .. } = receipted else { return None };
    let proof = node.audit.as_ref()?.proof(job).await;
    proof.inspect_err(|error| tracing::warn!(%error, %job, "no proof")).ok()?.map(|p| p.to_string())
}

/// What the header says of a receipt; nothing where none is kept.
pub fn told(receipted: Receipted) -> Option<String> {
    match receipted {
        Receipted::Off => None,
        Receipted::Kept { job, .. } => Some(job.to_string()),
        Receipted::Lost => Some(LOST.to_owned()),
    }
}

impl From<KeepError> for ApiError {
    fn from(error: KeepError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "audit_log", error.to_string())
    }
}
