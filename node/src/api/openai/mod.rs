//! OpenAI's API under `/v1`: embeddings and the list of models. The constraints, and what an answer
//! says of who ran it, are the headers that `/v2` has; errors are in OpenAI's shape.
//!
//! ```text
//! request ─► Call::find ─► Found::text ─► tokens ─► batches ─► Found::order ─► Found::run ─► response
//! ```
//!
//! Text becomes tokens here, at the entry, so that what travels is a job's inputs like any others.

mod embeddings;
mod error;
mod models;
mod request;
mod response;

use std::sync::Arc;

use axum::handler::Handler;
use axum::http::{Method, StatusCode, Uri};
use axum::routing::{self, MethodRouter};

pub use self::embeddings::embeddings;
pub use self::error::OpenAiError;
pub use self::models::{model, models};
use super::v2::ApiError;
use crate::node::Node;

/// A route that takes `GET`, and says so in OpenAI's shape to who tries something else.
pub fn get<T: 'static>(handler: impl Handler<T, Arc<Node>>) -> MethodRouter<Arc<Node>> {
    routing::get(handler).fallback(not_allowed)
}

/// A route that takes `POST`, and says so in OpenAI's shape to who tries something else.
pub fn post<T: 'static>(handler: impl Handler<T, Arc<Node>>) -> MethodRouter<Arc<Node>> {
    routing::post(handler).fallback(not_allowed)
}

/// Everything else under `/v1`.
pub async fn not_found(uri: Uri) -> OpenAiError {
    let message =
        format!("there is nothing at {}; /v1 has embeddings, models and models/NAME", uri.path());
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message).into()
}

async fn not_allowed(method: Method, uri: Uri) -> OpenAiError {
    let message = format!("{} does not take {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).into()
}
