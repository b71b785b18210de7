//! Errors and deadlines in gRPC's words.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use hansa_core::limits::DEADLINE_MAX;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::api::v2::ApiError;

/// An error as gRPC tells it: the code nearest to HTTP's, the same message, and as trailing metadata
/// `hansa-code`, `retry-after` (seconds), `hansa-receipt`, and `hansa-error`, the body that HTTP
/// would have.
pub fn of(error: ApiError) -> Status {
    let code = match error.status() {
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Code::PermissionDenied,
        StatusCode::CONFLICT => Code::FailedPrecondition,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::INSUFFICIENT_STORAGE => Code::ResourceExhausted,
        StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => Code::DeadlineExceeded,
        StatusCode::NOT_IMPLEMENTED => Code::Unimplemented,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => Code::Unavailable,
        status if status.is_client_error() => Code::InvalidArgument,
        _ => Code::Internal,
    };
    let mut headers = HeaderMap::new();
    let mut tell = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    tell("hansa-code", error.code().into());
    tell("hansa-error", error.body().to_string());
    if let Some(delay) = error.retry_after_s() {
        tell("retry-after", delay.to_string());
    }
    if let Some(receipt) = error.receipt() {
        tell("hansa-receipt", receipt.to_owned());
    }
    Status::with_metadata(code, error.to_string(), MetadataMap::from_headers(headers))
}

/// The time that a client gives its call: `grpc-timeout`, up to eight digits and a unit.
///
/// # Errors
/// It is not such a time.
pub fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let fault = || ApiError::malformed("grpc-timeout is not up to eight digits and a unit");
    let text = value.to_str().map_err(|_| fault())?;
    let (digits, unit) = text.split_at_checked(text.len().wrapping_sub(1)).ok_or_else(fault)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(fault());
    }
    let count: u64 = digits.parse().map_err(|_| fault())?;
    let time = match unit {
        "H" => Duration::from_secs(3_600 * count),
        "M" => Duration::from_secs(60 * count),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return Err(fault()),
    };
    // Clients that would wait for ever send very long times.
    Ok((time <= DEADLINE_MAX).then_some(time))
}

#[cfg(test)]
mod tests {
    use hansa_core::gate::Rule;
    use hansa_core::plan::Refusal;

    use super::*;

    #[test]
    fn errors_keep_their_words_their_counts_and_when_to_come_back() {
        let failed = [(Rule::Location, 3)].into();
        let status = of(Refusal::PolicyUnsatisfiable { failed }.into());
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(status.metadata().get("hansa-code").unwrap(), "policy_unsatisfiable");
        let body = status.metadata().get("hansa-error").unwrap().to_str().unwrap();
        assert!(body.contains("\"failed\":{\"location\":3}"), "{body}");
        let busy = of(Refusal::Busy { retry_after_ms: 1_500 }.into());
        assert_eq!(busy.code(), Code::ResourceExhausted);
        assert_eq!(busy.metadata().get("retry-after").unwrap(), "2");
        assert_eq!(of(Refusal::Deadline.into()).code(), Code::DeadlineExceeded);
        assert_eq!(of(Refusal::Draining.into()).code(), Code::Unavailable);
        assert_eq!(of(ApiError::malformed("x")).code(), Code::InvalidArgument);
        let lacking = ApiError::new(StatusCode::NOT_IMPLEMENTED, "decoupled", "x");
        assert_eq!(of(lacking).code(), Code::Unimplemented);
    }

    #[test]
    fn a_timeout_is_read_strictly() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            timeout(&headers)
        };
        assert_eq!(read("250m").unwrap(), Some(Duration::from_millis(250)));
        assert_eq!(read("2S").unwrap(), Some(Duration::from_secs(2)));
        assert_eq!(read("99999999H").unwrap(), None);
        for bad in ["", "m", "1", "1x", "123456789m", "-1m", "1.5S"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), None);
    }
}
