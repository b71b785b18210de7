//! Compressed bodies: how many bytes came before they were unpacked, so that a small body that
//! unfolds without end is noticed while it is still small.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONTENT_ENCODING;
use http_body_util::BodyExt;

use crate::limits::{UNPACKED_BYTES_FREE, UNPACKING_RATIO_MAX};

/// Bytes of a compressed body that have come so far. An extension of its request.
#[derive(Clone, Debug, Default)]
pub struct Packed(Arc<AtomicUsize>);

impl Packed {
    /// What may have been unpacked from what has come.
    pub fn unpacked_max(&self) -> usize {
        let came = self.0.load(Ordering::Relaxed);
        came.saturating_mul(UNPACKING_RATIO_MAX).max(UNPACKED_BYTES_FREE)
    }
}

/// Counts a compressed body. Stands before the layer that unpacks it.
pub async fn count(request: Request) -> Request {
    if !request.headers().contains_key(CONTENT_ENCODING) {
        return request;
    }
    let packed = Packed::default();
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(packed.clone());
    let body = body.map_frame(move |frame| {
        let bytes = frame.data_ref().map_or(0, |data| data.len());
        packed.0.fetch_add(bytes, Ordering::Relaxed);
        frame
    });
    Request::from_parts(parts, Body::new(body))
}
