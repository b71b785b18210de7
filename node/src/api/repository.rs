//! The model repository as the Open Inference Protocol's extension asks for it: the index of what
//! this node itself holds. What other peers hold is `/mesh/v1/peers`; loading and unloading are
//! [`super::models`]' pull and remove.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::models::models;
use super::v2::ApiError;
use crate::node::Node;

/// What an index is asked with; nothing asks for all.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    ready: bool,
}

/// `POST /v2/repository/index`: name, version and state of each model that this node holds.
pub async fn index(State(node): State<Arc<Node>>, body: Bytes) -> Result<Json<Value>, ApiError> {
    let asked = asked(&body)?;
    let models = models(&node);
    let rows = models.iter().filter_map(row).filter(|row| !asked.ready || is_ready(row));
    Ok(Json(rows.collect()))
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
        other => ("UNAVAILABLE", other),
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
