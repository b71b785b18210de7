//! `GET /mesh/v1/events`: what changes at this node, as server-sent events (the WHATWG's
//! `text/event-stream`). First all that is, then each change; so whoever comes back after a break has
//! missed nothing that still matters.
//!
//! | event | data |
//! | --- | --- |
//! | `peer` | `name`, `peer_id`, `liveness` (`gone` when it left the view) |
//! | `model` | as in `/mesh/v1/models`, progress of pulls included; `state` is `gone` when it is |
//! | `log` | how the log of receipts does, if there is one |
//! | `node` | `draining` |

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::models::models;
use super::v2::ApiError;
use crate::limits::{EVENTS_EVERY, EVENTS_SILENCE_MAX};
use crate::node::Node;

/// What a listener was told last, by kind and subject.
type Told = BTreeMap<(&'static str, String), Value>;

/// One who listens.
struct Listener {
    node: Arc<Node>,
    told: Told,
    is_first: bool,
    _place: OwnedSemaphorePermit,
}

/// `GET /mesh/v1/events`
pub async fn events(State(node): State<Arc<Node>>) -> Result<Response, ApiError> {
    let place = Arc::clone(&node.listeners).try_acquire_owned().map_err(|_| {
        let message = "as many listen to events as may; ask /mesh/v1/peers and /mesh/v1/models";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_listeners", message)
    })?;
    let listener = Listener { node, told: Told::new(), is_first: true, _place: place };
    let changes = stream::unfold(listener, |mut listener| async move {
        let changes = listener.next().await?;
        Some((stream::iter(changes), listener))
    });
    let silence = KeepAlive::new().interval(EVENTS_SILENCE_MAX);
    Ok(Sse::new(changes.flatten()).keep_alive(silence).into_response())
}

impl Listener {
    /// What changed, once something did; none when the node stops.
    async fn next(&mut self) -> Option<Vec<Result<Event, Infallible>>> {
        loop {
            if !std::mem::take(&mut self.is_first) {
                tokio::time::sleep(EVENTS_EVERY).await;
            }
            let ends = self.node.is_draining();
            let now = state(&self.node);
            let changes = changes(&self.told, &now);
            self.told = now;
            if !changes.is_empty() {
                let event = |(kind, data): (&str, Value)| {
                    Ok(Event::default().event(kind).data(data.to_string()))
                };
                return Some(changes.into_iter().map(event).collect());
            }
            if ends {
                return None;
            }
        }
    }
}

/// All that is told of, as it is now.
fn state(node: &Node) -> Told {
    let view = node.view();
    let peers = view.entries().iter().map(|entry| {
        let advert = &entry.record.advert;
        let id = advert.peer.to_string();
        let told = json!({ "name": advert.name, "peer_id": id, "liveness": entry.liveness });
        (("peer", id), told)
    });
    let models = models(node).into_iter().map(|model| {
        let bundle = model["bundle"].as_str().unwrap_or_default().to_owned();
        (("model", bundle), model)
    });
    let log = node.audit.as_ref().and_then(|audit| audit.status());
    // Its counters go up with every job; what matters is whether it can be written.
    let log = log.map(|status| (("log", String::new()), json!({ "log": status.state })));
    let own = json!({ "draining": node.is_draining() });
    peers.chain(models).chain(log).chain([(("node", String::new()), own)]).collect()
}

/// What is new or other than it was, and what is gone.
fn changes(before: &Told, now: &Told) -> Vec<(&'static str, Value)> {
    let gone = before.iter().filter(|(key, _)| !now.contains_key(key)).map(|((kind, _), told)| {
        let mut told = told.clone();
        let member = if *kind == "peer" { "liveness" } else { "state" };
        told[member] = json!("gone");
        (*kind, told)
    });
    let changed = now.iter().filter(|(key, told)| before.get(*key) != Some(*told));
    gone.chain(changed.map(|((kind, _), told)| (*kind, told.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_told_once_and_what_went_is_gone() {
        let told = |liveness: &str| json!({ "name": "a", "liveness": liveness });
        let one: Told = [(("peer", "a".to_owned()), told("alive"))].into();
        let other: Told = [(("peer", "a".to_owned()), told("suspect"))].into();
        assert_eq!(changes(&Told::new(), &one), [("peer", told("alive"))]);
        assert!(changes(&one, &one).is_empty());
        assert_eq!(changes(&one, &other), [("peer", told("suspect"))]);
        assert_eq!(changes(&other, &Told::new()), [("peer", told("gone"))]);
    }
}
