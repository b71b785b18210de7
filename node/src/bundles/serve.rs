//! What other peers ask of this node's bundles. The gate was asked before: see `jobs::serve`.

use std::sync::Arc;

use bytes::Bytes;
use hansa_core::id::Digest;
use hansa_core::plan::Refusal;
use hansa_runtime::bundle::Bundle;
use hansa_runtime::manifest::Span;
use tokio::sync::OwnedSemaphorePermit;

use super::{aside, key};
use crate::limits::BUSY_RETRY_MS;
use crate::node::Node;

/// The canonical manifest of a bundle that is here.
pub(crate) async fn manifest(node: &Node, bundle: Digest) -> Result<Bytes, Refusal> {
    let place = place(node)?;
    let bundle = held(node, bundle).await?;
    Ok(lend(bundle.manifest.encode(), place))
}

/// Chunks of a bundle that is here, as they lie on disk: who asked holds them against the manifest,
/// and a disk that lies is found out there.
pub(crate) async fn chunks(node: &Node, bundle: Digest, span: Span) -> Result<Bytes, Refusal> {
    let place = place(node)?;
    let bundle = held(node, bundle).await?;
    let read = aside(move || Ok(bundle.read(span)?)).await;
    let bytes = read.map_err(|error| Refusal::Execution { reason: error.to_string() })?;
    metrics::counter!("hansa_bundle_bytes_sent_total").increment(bytes.len() as u64);
    Ok(lend(bytes, place))
}

pub(super) async fn held(node: &Node, digest: Digest) -> Result<Arc<Bundle>, Refusal> {
    if let Some(hosted) = node.hosted(digest) {
        return Ok(hosted.bundle);
    }
    let store = node.shelf.store().clone();
    match aside(move || store.get(key(digest))).await {
        Ok(Some(bundle)) => Ok(Arc::new(bundle)),
        Ok(None) => Err(Refusal::UnknownModel { model: digest.to_string(), hint: String::new() }),
        Err(error) => Err(Refusal::Execution { reason: error.to_string() }),
    }
}

/// One of the places for bytes that are read and not yet sent.
fn place(node: &Node) -> Result<OwnedSemaphorePermit, Refusal> {
    let place = node.shelf.reads.clone().try_acquire_owned();
    place.map_err(|_| Refusal::Busy { retry_after_ms: BUSY_RETRY_MS })
}

/// Bytes that keep their place until the peer has them.
fn lend(bytes: Vec<u8>, place: OwnedSemaphorePermit) -> Bytes {
    struct Lent {
        bytes: Vec<u8>,
        _place: OwnedSemaphorePermit,
    }
    impl AsRef<[u8]> for Lent {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    Bytes::from_owner(Lent { bytes, _place: place })
}
