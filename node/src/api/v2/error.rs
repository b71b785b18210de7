//! What the API answers when it does not answer: a status, a code for programs, a message for
//! people. One table from the mesh's refusals to HTTP.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hansa_core::plan::Refusal;
use hansa_core::policy::ConstraintError;
use hansa_core::scatter::Unsplittable;
use hansa_runtime::labels::LabelsError;
use hansa_runtime::tensor::InputError;
use serde_json::{Value, json};

use crate::api::receipts::RECEIPT;
use crate::bundles::{PullError, SaidFault};

/// A client that met a draining node may try another, or this one's successor after this time.
const DRAINING_RETRY_AFTER: Duration = Duration::from_secs(5);
/// A peer that does not answer is probed anew within this time.
const UNAVAILABLE_RETRY_AFTER: Duration = Duration::from_secs(2);

/// An error as the API shows it: `{"error": MESSAGE, "code": CODE, …}`.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// One more member of the body.
    detail: Option<Box<(&'static str, Value)>>,
    retry_after: Option<Duration>,
    /// What `Hansa-Receipt` says.
    receipt: Option<String>,
}

impl ApiError {
    /// An error without detail.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            detail: None,
            retry_after: None,
            receipt: None,
        }
    }

    /// The request is not the protocol.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", message)
    }

    /// The request asks for something that the protocol has and this version lacks.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "unsupported", message)
    }

    /// The request is larger than this node takes.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether nobody has the model.
    pub fn is_unknown_model(&self) -> bool {
        self.code == "unknown_model"
    }

    /// The kind of error, for programs and metrics.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// When it may be worth trying again, if ever.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The same in whole seconds, and never "at once": a refused client must not spin.
    pub fn retry_after_s(&self) -> Option<u64> {
        let seconds = |delay: Duration| delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        self.retry_after.map(|delay| seconds(delay).max(1))
    }

    /// The receipt that the failed job left: what `Hansa-Receipt` says.
    pub fn receipt(&self) -> Option<&str> {
        self.receipt.as_deref()
    }

    /// The body of the answer.
    pub fn body(&self) -> Value {
        let mut body = json!({ "error": self.message, "code": self.code });
        if let Some((key, value)) = self.detail.as_deref() {
            body[*key] = value.clone();
        }
        body
    }

    /// The same error, of what was being done.
    pub fn about(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The error of a job that left this receipt.
    pub fn receipted(mut self, receipt: Option<String>) -> Self {
        self.receipt = receipt;
        self
    }

    fn with(mut self, key: &'static str, value: Value) -> Self {
        self.detail = Some(Box::new((key, value)));
        self
    }

    /// The same, with when it may be worth trying again.
    pub fn after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ApiError {}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after_s() {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        if let Some(receipt) = self.receipt {
            let value = HeaderValue::try_from(receipt).expect("an id is a header");
            response.headers_mut().insert(RECEIPT, value);
        }
        response
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let (status, code) = match &refusal {
            Refusal::UnknownModel { .. } => (StatusCode::NOT_FOUND, "unknown_model"),
            Refusal::AmbiguousModel { .. } => (StatusCode::CONFLICT, "ambiguous_model"),
            Refusal::PolicyUnsatisfiable { .. } => (StatusCode::FORBIDDEN, "policy_unsatisfiable"),
            Refusal::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Refusal::Gap { .. } => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Refusal::Unsplittable { why: Unsplittable::OnePeer } => {
                (StatusCode::FORBIDDEN, "unsplittable")
            }
            Refusal::Unsplittable { .. } => (StatusCode::BAD_REQUEST, "unsplittable"),
            Refusal::Unsupported { .. } => (StatusCode::BAD_REQUEST, "unsupported_constraint"),
            Refusal::NotServed { .. } => (StatusCode::FORBIDDEN, "not_served"),
            Refusal::HopLimit => (StatusCode::BAD_GATEWAY, "hop_limit"),
            Refusal::Failed { .. } => (StatusCode::BAD_GATEWAY, "failed"),
            Refusal::Deadline => (StatusCode::GATEWAY_TIMEOUT, "deadline"),
            Refusal::Busy { .. } => (StatusCode::TOO_MANY_REQUESTS, "busy"),
            Refusal::BadInput { .. } => (StatusCode::BAD_REQUEST, "bad_input"),
            Refusal::Malformed { .. } => (StatusCode::BAD_REQUEST, "malformed"),
            Refusal::Execution { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "execution"),
            Refusal::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            Refusal::Loading { .. } => (StatusCode::SERVICE_UNAVAILABLE, "loading"),
            Refusal::NoReceipt { .. } => (StatusCode::SERVICE_UNAVAILABLE, "no_receipt"),
        };
        let message = match &refusal {
            // In words that Triton's clients look for.
            Refusal::UnknownModel { .. } => format!("Request for unknown model: {refusal}"),
            _ => refusal.to_string(),
        };
        let error = Self::new(status, code, message);
        match refusal {
            Refusal::AmbiguousModel { digests, .. } => error.with("digests", json!(digests)),
            Refusal::PolicyUnsatisfiable { failed } => error.with("failed", json!(failed)),
            Refusal::Unavailable { failed } => {
                error.with("failed", json!(failed)).after(UNAVAILABLE_RETRY_AFTER)
            }
            Refusal::Unsupported { clause } => error.with("clause", json!(clause)),
            Refusal::NotServed { rule } => error.with("rule", json!(rule)),
            Refusal::Busy { retry_after_ms } => {
                error.after(Duration::from_millis(u64::from(retry_after_ms)))
            }
            Refusal::Draining | Refusal::NoReceipt { .. } => error.after(DRAINING_RETRY_AFTER),
            Refusal::Loading { ready_in_ms, percent } => {
                let after = Duration::from_millis(u64::from(ready_in_ms));
                error.with("percent", json!(percent)).after(after)
            }
            _ => error,
        }
    }
}

impl From<InputError> for ApiError {
    fn from(error: InputError) -> Self {
        match error {
            InputError::TooLarge { .. } | InputError::RequestTooLarge { .. } => {
                Self::too_large(error.to_string())
            }
            _ => Self::new(StatusCode::BAD_REQUEST, "bad_input", error.to_string()),
        }
    }
}

impl From<LabelsError> for ApiError {
    fn from(error: LabelsError) -> Self {
        // Its holder said that it has them, and loads none that are broken.
        Self::new(StatusCode::BAD_GATEWAY, "bad_labels", error.to_string())
    }
}

impl<E: Error + Into<Self>> From<SaidFault<E>> for ApiError {
    fn from(fault: SaidFault<E>) -> Self {
        let message = fault.to_string();
        match fault {
            SaidFault::Said(error) => error.into(),
            SaidFault::InStages(code, _) => Self::new(StatusCode::BAD_REQUEST, code, message),
            SaidFault::Pull(PullError::Refused(refusal)) => refusal.into(),
            SaidFault::Pull(_) => Refusal::Failed { attempts: 1, last: message }.into(),
            SaidFault::Disk(_) => Refusal::Execution { reason: message }.into(),
        }
    }
}

impl From<ConstraintError> for ApiError {
    fn from(error: ConstraintError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_constraint", error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use hansa_core::gate::Rule;
    use hansa_core::id::Digest;

    use super::*;

    #[test]
    fn every_refusal_has_the_status_that_the_design_names() {
        let text = || "x".to_owned();
        let cases = [
            (Refusal::UnknownModel { model: text(), hint: text() }, 404, "unknown_model"),
            (Refusal::AmbiguousModel { model: text(), digests: vec![] }, 409, "ambiguous_model"),
            (Refusal::PolicyUnsatisfiable { failed: [].into() }, 403, "policy_unsatisfiable"),
            (Refusal::Unavailable { failed: [].into() }, 503, "unavailable"),
            (Refusal::Gap { at: 1, of: 2 }, 503, "unavailable"),
            (Refusal::Loading { ready_in_ms: 1, percent: 50 }, 503, "loading"),
            (Refusal::NoReceipt { reason: "full".into() }, 503, "no_receipt"),
            (Refusal::Unsplittable { why: Unsplittable::OneRow }, 400, "unsplittable"),
            (Refusal::Unsplittable { why: Unsplittable::OnePeer }, 403, "unsplittable"),
            (Refusal::Unsupported { clause: text() }, 400, "unsupported_constraint"),
            (Refusal::NotServed { rule: Rule::Location }, 403, "not_served"),
            (Refusal::HopLimit, 502, "hop_limit"),
            (Refusal::Failed { attempts: 2, last: text() }, 502, "failed"),
            (Refusal::Deadline, 504, "deadline"),
            (Refusal::Busy { retry_after_ms: 1 }, 429, "busy"),
            (Refusal::BadInput { reason: text() }, 400, "bad_input"),
            (Refusal::Malformed { reason: text() }, 400, "malformed"),
            (Refusal::Execution { reason: text() }, 500, "execution"),
            (Refusal::Draining, 503, "draining"),
        ];
        for (refusal, status, code) in cases {
            let message = refusal.to_string();
            let error = ApiError::from(refusal);
            assert_eq!((error.status().as_u16(), error.code()), (status, code));
            let said = error.body()["error"].as_str().unwrap().to_owned();
            assert!(said.ends_with(&message), "{said}");
            assert_eq!(error.body()["code"], code);
        }
    }

    #[test]
    fn a_policy_that_nobody_satisfies_is_answered_with_counts_and_an_ambiguous_model_with_digests()
    {
        let failed = [(Rule::Location, 3), (Rule::NoCharter, 1)].into();
        let body = ApiError::from(Refusal::PolicyUnsatisfiable { failed }).body();
        assert_eq!(body["failed"], json!({"location": 3, "no_charter": 1}));
        let digest = Digest::of(b"bundle");
        let model = "m".to_owned();
        let body = ApiError::from(Refusal::AmbiguousModel { model, digests: vec![digest] }).body();
        assert_eq!(body["digests"], json!([digest.to_string()]));
    }

    #[test]
    fn retry_after_is_in_whole_seconds_and_never_zero() {
        for (refusal, seconds) in [
            (Refusal::Busy { retry_after_ms: 0 }, "1"),
            (Refusal::Busy { retry_after_ms: 1_001 }, "2"),
            (Refusal::Draining, "5"),
            (Refusal::Unavailable { failed: [].into() }, "2"),
        ] {
            let response = ApiError::from(refusal).into_response();
            assert_eq!(response.headers()[RETRY_AFTER], seconds);
        }
        let response = ApiError::from(Refusal::Deadline).into_response();
        assert_eq!(response.headers().get(RETRY_AFTER), None);
    }

    #[test]
    fn inputs_over_the_limit_are_413_and_others_400() {
        let large = InputError::TooLarge { name: "x".into(), bytes: 9, limit: 1 };
        assert_eq!(ApiError::from(large).status(), StatusCode::PAYLOAD_TOO_LARGE);
        let both = InputError::RequestTooLarge { bytes: 9, limit: 1 };
        assert_eq!(ApiError::from(both).status(), StatusCode::PAYLOAD_TOO_LARGE);
        let missing = ApiError::from(InputError::Missing("x".into()));
        assert_eq!((missing.status(), missing.code()), (StatusCode::BAD_REQUEST, "bad_input"));
    }
}
