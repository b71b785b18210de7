//! Handlers of the mesh's own questions: who is there, what would be done and why, figures.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hansa_core::view::Entry;
use serde_json::{Value, json};

use super::call::Named;
use super::v2::ApiError;
use crate::node::Node;

/// `GET /mesh/v1/peers`: the mesh as this peer sees it.
pub async fn peers(State(node): State<Arc<Node>>) -> Json<Value> {
    let view = node.view();
    let now = node.clock.now();
    let rtts = node.loads();
    let peer = |entry: &Entry| {
        let advert = &entry.record.advert;
        let charter = match &entry.record.charter {
            Ok(charter) => json!({
                "location": charter.location,
                "control": charter.control,
                "operator": charter.operator,
                "lei": charter.lei,
                "data_classes": charter.data_classes,
                "authorities": charter.authorities,
                "serial": charter.serial,
                "not_after": charter.not_after,
                "valid": charter.valid_at(now.utc),
            }),
            Err(fault) => json!({ "fault": fault.to_string() }),
        };
        json!({
            "name": advert.name,
            "peer_id": advert.peer,
            "me": advert.peer == node.me,
            "liveness": entry.liveness,
            "since_s": now.mono.since(entry.since).as_secs(),
            "rtt_ms": rtts.rtt(advert.peer).map(|rtt| rtt.as_secs_f64() * 1e3),
            "charter": charter,
            "charter_note": advert.charter.as_ref().filter(|_| advert.peer == node.me),
            "rtt_evidence": entry.record.evidence,
            "purposes": entry.record.terms.purposes,
            "keeps_receipts": entry.record.terms.keeps_receipts,
            "devices": advert.devices,
            "models": advert.models,
            "stages": entry.record.stages,
            "price": advert.price,
            "control_addrs": advert.control_addrs,
            "data_addrs": advert.data_addrs,
            "relays": advert.relays,
            "version": advert.version,
        })
    };
    let peers: Vec<Value> = view.entries().iter().map(peer).collect();
    Json(json!({ "peers": peers }))
}

/// `GET /mesh/v1/plan?model=NAME&locations=EU,…`: what would be done with a job and why. The query
/// takes every constraint under the name that it has as a parameter of v2, and `rows` and `bytes`.
pub async fn plan(
    State(node): State<Arc<Node>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, ApiError> {
    let model = query.get("model").cloned();
    let mut explanation = json!(Named::explain(&node, query).await?);
    explanation["model"] = json!(model);
    Ok(Json(explanation).into_response())
}

/// `GET /metrics`, in Prometheus' text format.
pub async fn metrics(State(node): State<Arc<Node>>) -> String {
    node.record_gauges();
    node.metrics.render()
}

/// Everything else.
pub async fn not_found(uri: Uri) -> Response {
    let error = format!(
        "there is nothing at {}; the API is under /v2, /v1, /mesh/v1, /health, /metrics",
        uri.path()
    );
    (StatusCode::NOT_FOUND, Json(json!({ "error": error, "code": "not_found" }))).into_response()
}
