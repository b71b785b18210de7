//! The trace and logging extensions of the Open Inference Protocol: which requests are traced, and
//! how much is logged, asked and changed while the node runs. A restart forgets changes.
//!
//! A traced request leaves one line of JSON in `data_dir/trace.jsonl`: `id`, `model_name`,
//! `model_version`, `trace` (the W3C trace id) and `timestamps` in ns of the node's own clock.
//! Payloads are never traced. Files are the config's matter: neither extension can name one.

mod logging;
mod tracing;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Json;
use axum::extract::{Path, State};
use bytes::Bytes;
use serde_json::{Value, json};

use self::logging::Logging;
use self::tracing::Tracing;
use super::models::Operator;
use super::v2::ApiError;
use crate::limits::{STATISTICS_MAX, TRACE_FILE_BYTES_MAX};
use crate::node::Node;
use crate::telemetry;

/// What is set, for all models and for single ones.
#[derive(Debug, Default)]
pub struct Settings {
    /// Whether any request may be traced: looked at with every one.
    traces: AtomicBool,
    state: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    traces: Tracing,
    of_models: BTreeMap<String, Tracing>,
    logging: Logging,
    /// Requests that were traced since the start.
    traced: u64,
}

/// What is known of a request that was answered, in ns of the node's clock.
#[derive(Clone, Copy, Debug)]
pub struct Traced<'a> {
    /// The model, as the app named it.
    pub model: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The W3C trace id.
    pub trace: [u8; 16],
    /// Its first byte was read.
    pub began: u64,
    /// It ran for so long.
    pub ran: u64,
    /// Its answer was there.
    pub ended: u64,
}

impl Settings {
    /// Traces a request, if it is one that is to be.
    pub fn trace(&self, node: &Node, traced: Traced<'_>) {
        if !self.traces.load(Ordering::Relaxed) {
            return;
        }
        let mut all = self.lock();
        let All { traces, of_models, .. } = &mut *all;
        if !of_models.get_mut(traced.model).unwrap_or(traces).next() {
            return;
        }
        all.traced += 1;
        let stamp = |name: &str, ns: u64| json!({ "name": name, "ns": ns });
        let Traced { model, version, trace, began, ran, ended } = traced;
        let line = json!({
            "id": all.traced,
            "model_name": model,
            "model_version": version,
            "trace": super::trace::Hex(&trace).to_string(),
            "timestamps": [
                stamp("REQUEST_START", began),
                stamp("COMPUTE_START", ended.saturating_sub(ran)),
                stamp("REQUEST_END", ended),
            ],
        });
        // Under the lock, so that lines stay whole.
        if let Err(error) = append(&file(node), &line.to_string()) {
            ::tracing::warn!(%error, "a trace could not be written");
        }
    }

    /// The settings of a model's traces (all, if none is named).
    pub fn tracing(&self, node: &Node, model: Option<&str>) -> BTreeMap<String, Vec<String>> {
        let all = self.lock();
        let own = model.and_then(|model| all.of_models.get(model));
        own.unwrap_or(&all.traces).told(&file(node).display().to_string())
    }

    /// Changes settings, all that are given or none; without a value one goes back to what it was.
    ///
    /// # Errors
    /// One is not understood.
    pub fn set_tracing(
        &self,
        model: Option<&str>,
        changes: BTreeMap<String, Option<Vec<String>>>,
    ) -> Result<(), ApiError> {
        let mut all = self.lock();
        let mut changed = match model {
            Some(model) => all.of_models.get(model).unwrap_or(&all.traces).clone(),
            None => all.traces.clone(),
        };
        for (key, value) in changes {
            changed.set(&key, value).map_err(ApiError::malformed)?;
        }
        match model {
            Some(model) => {
                if all.of_models.len() >= STATISTICS_MAX && !all.of_models.contains_key(model) {
                    let message = format!("settings of {STATISTICS_MAX} models are kept, the most");
                    return Err(ApiError::malformed(message));
                }
                all.of_models.insert(model.to_owned(), changed);
            }
            None => all.traces = changed,
        }
        let is_on = all.traces.is_on || all.of_models.values().any(|own| own.is_on);
        self.traces.store(is_on, Ordering::Relaxed);
        Ok(())
    }

    /// How much is logged, as clients read it.
    pub fn logging(&self) -> Value {
        self.lock().logging.told()
    }

    /// Changes it.
    ///
    /// # Errors
    /// A setting is not understood, or cannot be had.
    pub fn set_logging(
        &self,
        node: &Node,
        changes: &BTreeMap<String, Value>,
    ) -> Result<(), ApiError> {
        let mut all = self.lock();
        let mut changed = all.logging;
        for (key, value) in changes {
            changed.set(key, value).map_err(ApiError::malformed)?;
        }
        let filter = changed.filter(&node.config.telemetry.log).map_err(ApiError::malformed)?;
        telemetry::filter(&filter).map_err(|error| ApiError::unsupported(error.to_string()))?;
        all.logging = changed;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.state.lock().expect("no holder panics")
    }
}

fn file(node: &Node) -> PathBuf {
    node.config.node.data_dir.join("trace.jsonl")
}

fn append(path: &std::path::Path, line: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    if file.metadata()?.len() > TRACE_FILE_BYTES_MAX {
        return Err(std::io::Error::other("trace.jsonl is full; move it away"));
    }
    file.write_all(format!("{line}\n").as_bytes())
}

/// `GET /v2/trace/setting`, `GET /v2/models/NAME/trace/setting`
pub async fn tracing(State(node): State<Arc<Node>>, model: Option<Path<String>>) -> Json<Value> {
    let model = model.as_deref().map(String::as_str);
    Json(told(node.settings.tracing(&node, model)))
}

/// One value is a text, only levels are a list.
fn told(settings: BTreeMap<String, Vec<String>>) -> Value {
    let one = |(key, mut values): (String, Vec<String>)| match &*key {
        "trace_level" => (key, json!(values)),
        _ => (key, values.pop().unwrap_or_default().into()),
    };
    Value::Object(settings.into_iter().map(one).collect())
}

/// `POST` to the same.
pub async fn set_tracing(
    _: Operator,
    State(node): State<Arc<Node>>,
    model: Option<Path<String>>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let text = |value: Value| match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(ApiError::malformed(format!("{other} is no value of a setting"))),
    };
    let mut changes = BTreeMap::new();
    for (key, value) in object(&body)? {
        let value = match value {
            Value::Null => None,
            Value::Array(values) => Some(values.into_iter().map(text).collect::<Result<_, _>>()?),
            value => Some(vec![text(value)?]),
        };
        changes.insert(key, value);
    }
    let model = model.as_deref().map(String::as_str);
    node.settings.set_tracing(model, changes)?;
    Ok(Json(told(node.settings.tracing(&node, model))))
}

/// `GET /v2/logging`
pub async fn logging(State(node): State<Arc<Node>>) -> Json<Value> {
    Json(node.settings.logging())
}

/// `POST /v2/logging`
pub async fn set_logging(
    _: Operator,
    State(node): State<Arc<Node>>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    node.settings.set_logging(&node, &object(&body)?)?;
    Ok(Json(node.settings.logging()))
}

fn object(body: &[u8]) -> Result<BTreeMap<String, Value>, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        ApiError::malformed(format!("the body is not an object of settings: {error}"))
    })
}
