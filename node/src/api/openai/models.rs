//! `GET /v1/models`: what any peer serves that the request's constraints permit, whether this node
//! holds it or not.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use hansa_core::chain;
use hansa_core::limits::DEADLINE_DEFAULT;
use hansa_core::plan::{Job, Refusal, Resolved, candidates, may_run_here};
use hansa_core::policy::Policy;
use serde_json::{Value, json};

use super::OpenAiError;
use crate::api::call::{Named, demand};
use crate::node::Node;

/// `GET /v1/models`
pub async fn models(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
) -> Result<Json<Value>, OpenAiError> {
    let policy = demand(&node, &headers, &Default::default())?.policy;
    let view = node.view();
    let names: BTreeSet<&str> = view
        .entries()
        .iter()
        .flat_map(|entry| {
            let models = entry.record.advert.models.iter().map(|model| &*model.name);
            models.chain(entry.record.stages.iter().map(|stage| &*stage.name))
        })
        .collect();
    let mut data = Vec::new();
    for name in names {
        // Where a name means several bundles, each has a name that means it alone.
        let exact = match served(&node, name, &policy) {
            Err(Refusal::AmbiguousModel { digests, .. }) => {
                digests.iter().map(|digest| format!("{name}@{digest}")).collect()
            }
            _ => vec![name.to_owned()],
        };
        let served = exact.into_iter().filter_map(|id| {
            let resolved = served(&node, &id, &policy).ok()?;
            Some(told(&node, &id, &resolved))
        });
        data.extend(served);
    }
    Ok(Json(json!({ "object": "list", "data": data })))
}

/// `GET /v1/models/NAME`
pub async fn model(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, OpenAiError> {
    let policy = demand(&node, &headers, &Default::default())?.policy;
    let resolved = served(&node, &name, &policy).map_err(crate::api::v2::ApiError::from)?;
    Ok(Json(told(&node, &name, &resolved)))
}

/// What a name means, if somebody whom `policy` permits serves it now, whole or in stages.
fn served(node: &Node, name: &str, policy: &Policy) -> Result<Resolved, Refusal> {
    let named = Named { model: name.to_owned(), version: None };
    let resolved = named.resolve(node, policy)?;
    let (now, view, bundle) = (node.clock.now(), node.view(), resolved.bundle);
    if node.hosted(bundle).is_some() && may_run_here(now, &view, policy, bundle) {
        return Ok(resolved);
    }
    let deadline = now.mono + DEADLINE_DEFAULT;
    let job = Job::new(node.draw_job(), bundle, policy.clone(), &node.send, deadline);
    let loads = node.loads();
    if chain::holders(now, &view, &loads, &job).is_empty() {
        candidates(now, &view, &loads, &job)?;
    }
    Ok(resolved)
}

/// One model. Nobody knows when it was made.
fn told(node: &Node, id: &str, resolved: &Resolved) -> Value {
    json!({
        "id": id,
        "object": "model",
        "created": 0,
        "owned_by": owners(node, resolved).join(", "),
        "version": resolved.version,
        "bundle": resolved.bundle,
    })
}

/// The operators of the peers that serve a bundle, as their charters say.
fn owners(node: &Node, resolved: &Resolved) -> Vec<String> {
    let view = node.view();
    let whole = view.holders(resolved.bundle).map(|entry| &entry.record);
    let stages = view.stages(resolved.bundle).map(|(entry, _)| &entry.record);
    let operators = whole.chain(stages).filter_map(|record| record.charter.as_ref().ok());
    let operators: BTreeSet<String> =
        operators.map(|charter| charter.operator.to_string()).collect();
    operators.into_iter().collect()
}
