//! The model repository as the Open Inference Protocol's extension asks for it: the index of what
//! this node itself holds, loading and unloading. What other peers hold is `/mesh/v1/peers`.
//!
//! To load a model that is not here is to pull it from peers. To unload one leaves its files;
//! [`super::models`]' remove deletes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinError;

use super::models::{Operator, models};
use super::v2::ApiError;
use crate::node::Node;
use crate::repository::Settings;

/// What an index is asked with; nothing asks for all.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    ready: bool,
}

/// `POST /v2/repository/index`: name, version and state of each model that this node holds.
pub async fn index(State(node): State<Arc<Node>>, body: Bytes) -> Result<Json<Value>, ApiError> {
    Ok(Json(rows(&node, asked(&body)?.ready).into()))
}

/// One object of the index for each model that this node holds, or only for those that are ready.
pub fn rows(node: &Node, ready: bool) -> Vec<Value> {
    let models = models(node);
    models.iter().filter_map(row).filter(|row| !ready || is_ready(row)).collect()
}

/// What a load or unload may say; nothing of it is needed.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    #[serde(default)]
    parameters: BTreeMap<String, Value>,
}

/// `POST /v2/repository/models/NAME/load`: answered once the model is served.
pub async fn load(
    _: Operator,
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    load_model(&node, name, change(&body)?.parameters).await?;
    Ok(StatusCode::OK)
}

/// `POST /v2/repository/models/NAME/unload`: answered once no new job is taken for it.
pub async fn unload(
    _: Operator,
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    unload_model(&node, name, change(&body)?.parameters).await?;
    Ok(StatusCode::OK)
}

/// Loads every version of a model that is not served, or one as its load says. A client that leaves
/// leaves nothing half done.
pub async fn load_model(
    node: &Arc<Node>,
    name: String,
    parameters: BTreeMap<String, Value>,
) -> Result<(), ApiError> {
    let fault = |error: ApiError| error.about(&format!("failed to load '{name}'"));
    let settings = settings(&name, parameters).map_err(fault)?;
    let (loading, model) = (node.clone(), name.clone());
    let task = node.tasks.spawn(async move { loading.load_model(&model, None, settings).await });
    let loaded = task.await.map_err(failed)?;
    loaded.map(drop).map_err(|error| fault(error.into()))
}

/// Unloads every version of a model, in the same way.
pub async fn unload_model(
    node: &Arc<Node>,
    name: String,
    parameters: BTreeMap<String, Value>,
) -> Result<(), ApiError> {
    // Nothing depends on a model here.
    if let Some(unknown) = parameters.keys().find(|key| *key != "unload_dependents") {
        let message = format!("unknown parameter `{unknown}`; unload_dependents is known");
        return Err(ApiError::unsupported(message));
    }
    let unloading = node.clone();
    let task = node.tasks.spawn(async move { unloading.unload_model(&name, None).await });
    Ok(task.await.map_err(failed)?.map(drop)?)
}

/// How a model is to be served, if its load says so.
fn settings(name: &str, parameters: BTreeMap<String, Value>) -> Result<Option<Settings>, ApiError> {
    let mut settings = None;
    for (key, value) in parameters {
        let text = value.as_str().unwrap_or_default();
        match key.as_str() {
            "config" => {
                let config = serde_json::from_str(text).map_err(|error| error.to_string());
                let read = config.and_then(|config| Settings::read(name, config));
                let fault = |reason| ApiError::malformed(format!("parameter `config`: {reason}"));
                settings = Some(read.map_err(fault)?);
            }
            file if file.starts_with("file:") => {
                return Err(ApiError::unsupported(format!(
                    "parameter `{file}`: files do not come with a load; put them into the \
                     repository's folder, or add them with `hansa models add`"
                )));
            }
            other => {
                let message = format!("unknown parameter `{other}`; config is known");
                return Err(ApiError::unsupported(message));
            }
        }
    }
    Ok(settings)
}

fn failed(error: JoinError) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", error.to_string())
}

fn change(body: &[u8]) -> Result<Change, ApiError> {
    if body.is_empty() {
        return Ok(Change::default());
    }
    let fault = |error| {
        ApiError::malformed(format!(
            "the body is not understood: {error}; send nothing or {{\"parameters\": {{}}}}"
        ))
    };
    serde_json::from_slice(body).map_err(fault)
}

fn asked(body: &[u8]) -> Result<Asked, ApiError> {
    if body.is_empty() {
        return Ok(Asked::default());
    }
    let fault = |error| {
        ApiError::malformed(format!(
            "the body is not an index request: {error}; send nothing or {{\"ready\": true}}"
        ))
    };
    serde_json::from_slice(body).map_err(fault)
}

/// One model as the index shows it; one that has no name here cannot be asked for and is left out.
fn row(model: &Value) -> Option<Value> {
    let name = model["name"].as_str()?;
    let (state, reason) = match model["state"].as_str().unwrap_or_default() {
        "serving" => ("READY", ""),
        other => ("UNAVAILABLE", model["error"].as_str().unwrap_or(other)),
    };
    Some(json!({ "name": name, "version": model["version"], "state": state, "reason": reason }))
}

fn is_ready(row: &Value) -> bool {
    row["state"] == "READY"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_served_is_ready_and_what_has_no_name_is_not_listed() {
        let model =
            |name: Value, state: &str| json!({"name": name, "version": "1", "state": state});
        let served = row(&model("a".into(), "serving")).unwrap();
        assert_eq!(served, json!({"name": "a", "version": "1", "state": "READY", "reason": ""}));
        let held = row(&model("b".into(), "held")).unwrap();
        assert!(!is_ready(&held));
        assert_eq!(held["reason"], "held");
        assert_eq!(row(&model(Value::Null, "partial")), None);
    }

    #[test]
    fn an_index_request_is_empty_or_understood() {
        assert!(!asked(b"").unwrap().ready && !asked(b"{}").unwrap().ready);
        assert!(asked(b"{\"ready\": true}").unwrap().ready);
        for bad in [&b"{\"redy\": true}"[..], b"[]x", b"{\"ready\": 1}"] {
            assert_eq!(asked(bad).err().unwrap().status().as_u16(), 400);
        }
    }
}
