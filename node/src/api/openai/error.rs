//! Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`. What they say, and
//! with which status, is the API's in general.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hansa_runtime::text::TextError;
use serde_json::{Value, json};

use crate::api::v2::ApiError;

/// An error as OpenAI's clients read it.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenAiError {
    error: ApiError,
    /// The member of the request that is at fault.
    param: Option<&'static str>,
}

impl OpenAiError {
    /// What a member of the request is wrong with.
    pub fn of(param: &'static str, error: impl Into<ApiError>) -> Self {
        Self { error: error.into(), param: Some(param) }
    }

    /// A member of the request is not what it must be.
    pub fn malformed(param: &'static str, message: impl Into<String>) -> Self {
        Self::of(param, ApiError::malformed(message))
    }

    /// The kind of error, for programs and metrics.
    pub fn code(&self) -> &'static str {
        match self.error.code() {
            "unknown_model" => "model_not_found",
            code => code,
        }
    }

    fn kind(&self) -> &'static str {
        match self.error.status() {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The body of the answer. What else the error tells (counts of failed rules, digests) stands
    /// beside the members that OpenAI has.
    pub fn body(&self) -> Value {
        let mut error = self.error.body();
        error["message"] = error["error"].take();
        error.as_object_mut().expect("an error is an object").remove("error");
        error["type"] = self.kind().into();
        error["param"] = self.param.into();
        error["code"] = self.code().into();
        json!({ "error": error })
    }
}

impl From<ApiError> for OpenAiError {
    fn from(error: ApiError) -> Self {
        let param = matches!(error.code(), "unknown_model" | "ambiguous_model").then_some("model");
        Self { error, param }
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        let body = self.body();
        // Retry-After and the receipt are said as everywhere.
        let (parts, _) = self.error.into_response().into_parts();
        (parts.status, parts.headers, Json(body)).into_response()
    }
}

impl From<TextError> for ApiError {
    fn from(error: TextError) -> Self {
        let (status, code) = match &error {
            TextError::NoTokenizer | TextError::File { .. } => (400, "no_tokenizer"),
            TextError::Input { .. } | TextError::NoEmbedding { .. } | TextError::Module(_) => {
                (400, "no_embedding")
            }
            TextError::TooLong { .. } => (400, "context_length_exceeded"),
            TextError::Empty
            | TextError::TooLarge { .. }
            | TextError::UnknownToken(_)
            | TextError::Tokenizer(_) => (400, "bad_input"),
            TextError::Output { .. } => (502, "bad_answer"),
        };
        let status = StatusCode::from_u16(status).expect("one of these");
        Self::new(status, code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use axum::http::header::RETRY_AFTER;
    use hansa_core::gate::Rule;
    use hansa_core::plan::Refusal;

    use super::*;

    #[test]
    fn an_error_has_the_members_that_openais_clients_read_and_the_status_of_the_api() {
        let unknown = Refusal::UnknownModel { model: "m".into(), hint: String::new() };
        let unknown = OpenAiError::from(ApiError::from(unknown));
        let body = unknown.body();
        let error = body["error"].as_object().unwrap();
        assert_eq!(error.keys().collect::<Vec<_>>(), ["code", "message", "param", "type"]);
        assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().unwrap().contains("`m`"), "{body}");
        assert_eq!(unknown.into_response().status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn what_the_api_says_beside_the_message_is_said_here_too() {
        let failed = [(Rule::Location, 3)].into();
        let refused = OpenAiError::from(ApiError::from(Refusal::PolicyUnsatisfiable { failed }));
        assert_eq!(refused.body()["error"]["failed"], json!({"location": 3}));
        assert_eq!(refused.body()["error"]["type"], "permission_error");
        let busy = OpenAiError::from(ApiError::from(Refusal::Busy { retry_after_ms: 1 }));
        assert_eq!(busy.body()["error"]["type"], "rate_limit_error");
        let response = busy.into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
    }

    #[test]
    fn too_long_a_text_is_a_400_that_counts_its_tokens() {
        let error = OpenAiError::of("input", TextError::TooLong { tokens: 700, limit: 256 });
        let body = error.body();
        assert_eq!(body["error"]["code"], "context_length_exceeded");
        assert_eq!(body["error"]["param"], "input");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("700 tokens") && message.contains("256 tokens"), "{message}");
        assert_eq!(error.into_response().status(), StatusCode::BAD_REQUEST);
    }
}
