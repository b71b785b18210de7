//! Moves bytes between peers, and decides nothing.
//!
//! Two planes, one identity. The *control plane* ([`ControlPlane`]) is a libp2p swarm over QUIC: it
//! meets peers (mDNS, a bootstrap list) and carries gossip frames. The *data plane* ([`DataPlane`])
//! is a quinn endpoint: one warm connection per pair of peers, one stream per job. Both are pinned
//! to the [`PeerId`](hansa_core::id::PeerId) of the peer's Ed25519 key, and to both every frame,
//! header and body is opaque [`Bytes`](bytes::Bytes).
//!
//! Left out on purpose: what a frame or header means (`hansa-core`), who may be asked what
//! (`hansa_core::gate`), when to try again (`hansa_core::flight`).

pub mod control;
pub mod data;
mod identity;
pub mod limits;

pub use control::{ControlConfig, ControlError, ControlEvent, ControlHandle, ControlPlane};
pub use data::{Answer, Body, BodyError, Call, CallError, DataError, DataLimits, DataPlane, Reply};
