//! Handlers of what this node holds: list, pull, add, remove. What they ask for, [`crate::bundles`]
//! does.
//!
//! The last three change the node, and `add` reads a file of its machine, so they are the
//! operator's: `[api] admin` is to give them an address of their own. Until this version has it they
//! are answered only where the API itself listens on loopback, and to no page of elsewhere.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hansa_core::id::Digest;
use hansa_core::plan::Refusal;
use hansa_runtime::store::StoreError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::v2::ApiError;
use crate::bundles::{KeepError, Model, PullError};
use crate::config::check_name;
use crate::node::Node;

/// What is to be pulled.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    model: String,
    version: Option<String>,
}

/// What is to be added.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gift {
    path: PathBuf,
    name: String,
    version: Option<String>,
}

/// `GET /mesh/v1/models`: what this node holds and what is on its way.
pub async fn list(State(node): State<Arc<Node>>) -> Json<Value> {
    Json(json!({ "models": models(&node) }))
}

/// `POST /mesh/v1/models/pull`: begins to pull a model, which is then served. 202 while it is on its
/// way, 200 when it is served already.
pub async fn pull(
    _: Operator,
    State(node): State<Arc<Node>>,
    wish: Result<Json<Wish>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(wish) = wish.map_err(|error| ApiError::malformed(error.body_text()))?;
    let model = node.meant(&wish.model, wish.version.as_deref())?;
    node.pull_model(model.clone())?;
    let serves = node.hosted(model.bundle).is_some();
    let status = if serves { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(told(&node, &model))).into_response())
}

/// `POST /mesh/v1/models/add`: copies a model of this machine into the store and serves it.
pub async fn add(
    _: Operator,
    State(node): State<Arc<Node>>,
    gift: Result<Json<Gift>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(gift) = gift.map_err(|error| ApiError::malformed(error.body_text()))?;
    let version = gift.version.unwrap_or_else(|| "1".into());
    for text in [&gift.name, &version] {
        check_name(text).map_err(ApiError::malformed)?;
    }
    if !gift.path.is_absolute() {
        return Err(ApiError::malformed("path is to be an absolute one of the node's machine"));
    }
    // A client that leaves must not leave half of it: the task goes on.
    let adding = node.clone();
    let task = node.tasks.spawn(async move {
        let added = adding.add_model(gift.path, gift.name, version).await?;
        Ok::<_, KeepError>(told(&adding, &added))
    });
    let added = task.await.map_err(|error| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", error.to_string())
    })?;
    Ok(Json(added?))
}

/// `DELETE /mesh/v1/models/NAME[?version=V]`: serves a model no more and deletes its files.
pub async fn remove(
    _: Operator,
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Json<Value>, ApiError> {
    let removed = node.remove_model(&name, query.get("version").map(String::as_str)).await?;
    Ok(Json(json!({ "removed": removed.iter().map(named).collect::<Vec<_>>() })))
}

/// Proof that a request may change the node: the API listens on loopback, and the request names it
/// so. A web page that a name leads to this port (DNS rebinding) names itself instead.
pub struct Operator;

impl FromRequestParts<Arc<Node>> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        node: &Arc<Node>,
    ) -> Result<Self, Self::Rejection> {
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = host.or(parts.uri.authority().map(Authority::as_str)).unwrap_or_default();
        let is_own = parts.headers.get(ORIGIN).is_none_or(is_own_page);
        if node.http_address().ip().is_loopback() && is_loopback(host) && is_own {
            return Ok(Self);
        }
        Err(not_operator())
    }
}

/// The error of who may not change the node.
pub(super) fn not_operator() -> ApiError {
    let message = "models are pulled, added, loaded and removed, and salts of receipts are told and \
                   erased, only through an API that listens on loopback and is asked as 127.0.0.1 or \
                   localhost; set [api] so, or name the model in the config: [[model]] bundle = \
                   \"sha256:…\"";
    ApiError::new(StatusCode::FORBIDDEN, "admin_only", message)
}

/// Whether a page that asks came from this machine: a browser names it, and asks for any page without
/// leave what needs none.
fn is_own_page(origin: &HeaderValue) -> bool {
    let uri = origin.to_str().ok().and_then(|text| text.parse::<Uri>().ok());
    uri.is_some_and(|uri| uri.authority().is_some_and(|host| is_loopback(host.as_str())))
}

/// Whether a host, with or without a port, is this machine by its very name.
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_matches(['[', ']']);
    name == "localhost" || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn named(model: &Model) -> Value {
    json!({ "name": model.name, "version": model.version, "bundle": model.bundle })
}

/// One model as [`list`] shows it.
fn told(node: &Node, model: &Model) -> Value {
    let bundle = json!(model.bundle);
    let found = models(node).into_iter().find(|told| told["bundle"] == bundle);
    found.unwrap_or_else(|| named(model))
}

/// Every model with its digest, size and state: `serving`, those of a pull (see
/// [`Moment`](crate::bundles::Moment)), `held` (whole and not served) or `partial`.
pub(super) fn models(node: &Node) -> Vec<Value> {
    let engines = node.engines();
    let stored: BTreeMap<Digest, (u64, bool)> = node
        .shelf
        .store()
        .list()
        .into_iter()
        .map(|stored| (Digest(stored.digest.0), (stored.bytes, stored.is_whole)))
        .collect();
    let mut models = Vec::new();
    for (bundle, hosted) in engines.iter() {
        let source = if stored.contains_key(bundle) { "store" } else { "path" };
        models.push(json!({
            "name": hosted.name, "version": hosted.version, "bundle": bundle,
            "bytes": hosted.bundle.manifest.bytes(), "state": "serving", "source": source,
        }));
    }
    for model in node.shelf.unloaded() {
        let mut told = named(&model);
        let source = if stored.contains_key(&model.bundle) { "store" } else { "path" };
        told["state"] = json!("unloaded");
        told["source"] = json!(source);
        models.push(told);
    }
    models.extend(node.repository.missing());
    let pulls = node.shelf.pulls();
    for (model, moment) in &pulls {
        if !engines.contains_key(&model.bundle) {
            let mut told = named(model);
            let moment = json!(moment);
            let members = moment.as_object().expect("a moment is an object").clone();
            told.as_object_mut().expect("a model is an object").extend(members);
            told["source"] = json!("store");
            models.push(told);
        }
    }
    let listed = node.shelf.listed();
    for (bundle, (bytes, is_whole)) in stored {
        let is_told =
            engines.contains_key(&bundle) || pulls.iter().any(|(model, _)| model.bundle == bundle);
        if !is_told {
            let name = listed.iter().find(|model| model.bundle == bundle);
            models.push(json!({
                "name": name.map(|model| &model.name), "version": name.map(|model| &model.version),
                "bundle": bundle, "bytes": bytes, "source": "store",
                "state": if is_whole { "held" } else { "partial" },
            }));
        }
    }
    models
}

impl From<KeepError> for ApiError {
    fn from(error: KeepError) -> Self {
        let (status, code) = match error {
            KeepError::Pull(PullError::Refused(refusal)) => return refusal.into(),
            KeepError::Busy => return Refusal::Busy { retry_after_ms: 1_000 }.into(),
            KeepError::NameTaken { .. }
            | KeepError::BundleTaken { .. }
            | KeepError::Unloaded(_)
            | KeepError::Store(StoreError::Taken(_)) => (StatusCode::CONFLICT, "taken"),
            KeepError::TooMany => (StatusCode::CONFLICT, "too_many"),
            KeepError::Unknown(_) => (StatusCode::NOT_FOUND, "unknown_model"),
            KeepError::Polled(_) => (StatusCode::CONFLICT, "polled"),
            KeepError::Configured { .. } => (StatusCode::CONFLICT, "configured"),
            KeepError::Pull(PullError::NoRoom(_)) => (StatusCode::INSUFFICIENT_STORAGE, "no_room"),
            KeepError::Pull(_) => (StatusCode::BAD_GATEWAY, "failed"),
            KeepError::Store(StoreError::TooLarge { .. } | StoreError::Full { .. }) => {
                (StatusCode::INSUFFICIENT_STORAGE, "store_full")
            }
            KeepError::Store(StoreError::Bundle(_) | StoreError::Manifest(_))
            | KeepError::Load(_) => (StatusCode::BAD_REQUEST, "not_a_model"),
            KeepError::Store(_) | KeepError::Listing(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "store")
            }
        };
        Self::new(status, code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_machine_itself_by_its_own_name_may_administer() {
        for host in ["127.0.0.1:8000", "localhost", "localhost:80", "[::1]:8000", "127.9.9.9"] {
            assert!(is_loopback(host), "{host}");
        }
        let own = |origin: &'static str| is_own_page(&HeaderValue::from_static(origin));
        assert!(own("http://localhost:8000") && own("http://127.0.0.1:3000"));
        assert!(
            !own("https://evil.example") && !own("null") && !own("http://127.0.0.1.evil.example")
        );
        for host in ["evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", "", "0.0.0.0:1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn every_fault_has_a_status_and_says_what_to_do() {
        let text = || "m".to_owned();
        let cases = [
            (KeepError::NameTaken { name: text(), version: text() }, 409, "remove that one"),
            (KeepError::BundleTaken { name: text(), version: text() }, 409, "one name"),
            (KeepError::TooMany, 409, "remove one"),
            (KeepError::Busy, 429, "try again"),
            (KeepError::Polled(text()), 409, "explicit"),
            (KeepError::Unknown(text()), 404, "hansa models ls"),
            (KeepError::Unloaded(text()), 409, "load it again"),
            (KeepError::Configured { name: text(), file: "x.toml".into() }, 409, "x.toml"),
            (StoreError::TooLarge { bytes: 2, bytes_max: 1 }.into(), 507, "bundles_gib_max"),
            (PullError::NoHolder { left: 1, last: text() }.into(), 502, "pull again"),
            (PullError::Refused(Refusal::Unavailable { failed: [].into() }).into(), 503, "none"),
        ];
        for (error, status, advice) in cases {
            let error = ApiError::from(error);
            assert_eq!(error.status().as_u16(), status, "{error}");
            assert!(error.to_string().contains(advice), "{error}");
        }
    }
}
