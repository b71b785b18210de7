//! Planes on loopback, and a host that echoes.
#![allow(dead_code)] // Each test binary uses its part.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use hansa_net::{Call, DataLimits, DataPlane};
use tokio::sync::mpsc;

/// Longer than anything here takes; a test that hits it has hung.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The outcome of something that does not hang.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("done in time")
}

/// A data plane on a free port of loopback.
pub(crate) fn plane(seed: u8) -> (DataPlane, mpsc::Receiver<Call>) {
    plane_within(seed, DataLimits::default())
}

/// A data plane with its own limits.
pub(crate) fn plane_within(seed: u8, limits: DataLimits) -> (DataPlane, mpsc::Receiver<Call>) {
    let addr: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    DataPlane::bind(&[seed; 32], addr, limits).expect("a free port")
}

/// Answers every call with its own header and body.
pub(crate) async fn echo(mut incoming: mpsc::Receiver<Call>) {
    while let Some(Call { header, mut body, reply, .. }) = incoming.recv().await {
        tokio::spawn(async move {
            let mut parts = Vec::new();
            while let Ok(Some(chunk)) = body.chunk().await {
                parts.push(chunk);
            }
            let _ = reply.send(header, parts).await;
        });
    }
}

/// A plane that echoes, until the runtime ends.
pub(crate) fn echoing(seed: u8) -> DataPlane {
    let (plane, incoming) = plane(seed);
    tokio::spawn(echo(incoming));
    plane
}

/// Bytes in which any shift or swap shows.
pub(crate) fn pattern(bytes: usize) -> Bytes {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut all = Vec::with_capacity(bytes + 8);
    while all.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.extend_from_slice(&state.to_le_bytes());
    }
    all.truncate(bytes);
    all.into()
}
