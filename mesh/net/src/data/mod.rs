//! The data plane: one warm QUIC connection per pair of peers, one stream per job, both ends
//! pinned to their keys.
//!
//! [`DataPlane::call`] asks, the receiver that [`DataPlane::bind`] returns is asked. A header and a
//! body go each way. Dropping the future of a call, or an unfinished answer, cancels it at the
//! peer. A connection with calls on it that goes silent is closed in under a second, and all its
//! calls fail with [`CallError::Lost`].

mod call;
mod dial;
mod link;
mod liveness;
mod pool;
mod relay;
mod stream;
mod tls;
mod transport;
mod tunnel;
mod way;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hansa_core::id::PeerId;
use tokio::sync::{Notify, Semaphore, mpsc};

pub use self::call::{Answer, Call, CallError, Reply, ReplyError};
pub use self::liveness::silence_max;
use self::pool::Pool;
pub use self::stream::{Body, BodyError};
use self::stream::{Sender, Upload};
use self::tunnel::Tunnels;
pub use self::way::{Relay, Way};
use crate::control::ControlHandle;
use crate::identity::{core_id, keypair};
use crate::limits::*;

/// The limits that a host may want to set; the rest are in [`crate::limits`].
#[derive(Clone, Debug)]
pub struct DataLimits {
    /// Inbound calls at once, over all peers.
    pub inbound_calls_max: usize,
    /// Connections in all.
    pub connections_max: usize,
    /// A stream's header arrives within this.
    pub header_timeout: Duration,
    /// A started body goes on within this.
    pub body_stall: Duration,
}

impl Default for DataLimits {
    fn default() -> Self {
        Self {
            inbound_calls_max: INBOUND_CALLS_MAX,
            connections_max: CONNECTIONS_MAX,
            header_timeout: HEADER_TIMEOUT,
            body_stall: BODY_STALL,
        }
    }
}

/// Why the data plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Another process has the port.
    #[error("address in use: {addr}/udp; set [mesh] data_listen to a free port")]
    AddressInUse {
        /// Which.
        addr: SocketAddr,
    },
    /// The system refuses the address.
    #[error("cannot listen on {addr}/udp: {source}; check [mesh] data_listen")]
    Bind {
        /// Which.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A node's end of the data plane. Clones are handles to the same one; it closes with the last.
#[derive(Clone)]
pub struct DataPlane(Arc<Closer>);

struct Closer(Arc<Pool>);

/// What every call and link of one data plane shares.
#[derive(Debug)]
struct Shared {
    limits: DataLimits,
    inbound: Arc<Semaphore>,
    draining: AtomicBool,
    calls: AtomicUsize,
    calm: Notify,
}

impl Shared {
    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn is_calm(&self) -> bool {
        self.calls.load(Ordering::Acquire) == 0
    }
}

impl DataPlane {
    /// Opens the socket and begins to listen. The receiver yields the calls of other peers. Must be
    /// called within a tokio runtime.
    pub fn bind(
        seed: &[u8; 32],
        addr: SocketAddr,
        limits: DataLimits,
    ) -> Result<(Self, mpsc::Receiver<Call>), DataError> {
        let keypair = keypair(seed);
        let local = core_id(&keypair.public().to_peer_id()).expect("the key is Ed25519");
        let endpoint = transport::bind(addr, &keypair)?;
        let tunnels = Tunnels::new();
        let beyond = transport::beyond(Arc::clone(&tunnels), &keypair);
        let shared = Arc::new(Shared {
            inbound: link::inbound_permits(&limits),
            limits,
            draining: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            calm: Notify::new(),
        });
        let (calls, incoming) = mpsc::channel(INBOUND_QUEUE_MAX);
        let endpoints = (endpoint, beyond, tunnels);
        let pool = Pool::new(local, endpoints, keypair, shared, calls);
        tokio::spawn(pool::listen(Arc::clone(&pool), pool.endpoint.clone(), false));
        tokio::spawn(pool::listen(Arc::clone(&pool), pool.beyond.clone(), true));
        Ok((Self(Arc::new(Closer(pool))), incoming))
    }

    /// The address that is listened on, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.0.endpoint.local_addr().expect("a bound socket has an address")
    }

    /// The addresses under which others may reach this plane: the one that is listened on, or, when
    /// that is `0.0.0.0` or `::`, its port on each interface that the control plane has found.
    pub fn addrs(&self, control: &ControlHandle) -> Vec<SocketAddr> {
        let local = self.local_addr();
        if !local.ip().is_unspecified() {
            return vec![local];
        }
        let mut addrs = Vec::new();
        for ip in control.listen_ips() {
            let addr = SocketAddr::new(ip, local.port());
            if ip.is_ipv4() == local.is_ipv4() && !addrs.contains(&addr) {
                addrs.push(addr);
            }
        }
        addrs
    }

    /// The peer that this node is.
    pub fn local_peer(&self) -> PeerId {
        self.0.0.local
    }

    /// Asks a peer and returns when its answer begins. The way is taken if no connection is open.
    ///
    /// There is no timeout here beyond that of the dial: a job's deadline is its caller's, and
    /// dropping this future cancels the call at the peer.
    pub async fn call(
        &self,
        peer: PeerId,
        way: impl Into<Way>,
        header: Bytes,
        body: Vec<Bytes>,
    ) -> Result<Answer, CallError> {
        let (pool, way) = (&self.0.0, way.into());
        let mut link = pool.link(peer, &way).await?;
        let mut busy = link.busy(&pool.shared, None);
        let (send, recv) = match link.connection.open_bi().await {
            Ok(stream) => stream,
            // It died since it was last looked at, and nothing is sent yet: one more connection.
            Err(_) => {
                link.note_closed();
                link = pool.link(peer, &way).await?;
                busy = link.busy(&pool.shared, None);
                let opened = link.connection.open_bi().await;
                opened.map_err(|error| CallError::Lost(link.why_lost(&error)))?
            }
        };
        let mut sender = Sender::new(send, code::CANCELLED);
        let mut writing = Box::pin(async move {
            let written = sender.message(header, body).await;
            (sender, written)
        });
        let mut answer = Body::new(recv, None, Arc::new(busy));
        let stall = pool.shared.limits.body_stall;
        let (sender, written) = tokio::select! {
            biased;
            written = &mut writing => written,
            // The peer answers before it has read everything; the rest goes on beside the answer.
            header = answer.header() => {
                let header = header?;
                let rest = tokio::spawn(async move { writing.await.0.release() });
                let body = answer.begun(stall, Upload::Going(rest.abort_handle()));
                return Ok(Answer { header, body, rtt: link.rtt() });
            }
        };
        match written {
            // A peer that wants no more of the body may still have answered.
            Ok(()) | Err(quinn::WriteError::Stopped(_)) => {}
            Err(error) => return Err(CallError::Lost(link.why_lost(&error))),
        }
        let header = answer.header().await?;
        let body = answer.begun(stall, Upload::Done(sender));
        Ok(Answer { header, body, rtt: link.rtt() })
    }

    /// The peer runs anew and knows nothing of a connection from before: the next call begins on
    /// another. One with calls in flight stays: it may be of the new run, and if not, silence ends it.
    pub fn renew(&self, peer: &PeerId) {
        self.0.0.renew(peer);
    }

    /// Opens a connection now, unless one is open, so that the first call finds it warm. Dropping the
    /// future stops nothing: the dial goes on for whoever asks next.
    ///
    /// # Errors
    /// As [`Self::call`]'s, before anything is sent.
    pub async fn warm(&self, peer: PeerId, way: impl Into<Way>) -> Result<(), CallError> {
        self.0.0.link(peer, &way.into()).await.map(drop)
    }

    /// Keeps a connection with a relay of this node's own, one that no other relay carries: others reach
    /// this node through it only over such a one.
    ///
    /// # Errors
    /// As [`Self::warm`]'s.
    pub async fn stay_with(&self, relay: &Relay) -> Result<(), CallError> {
        self.0.0.link_straight(relay.peer, &Way::from(&relay.addrs)).await.map(drop)
    }

    /// Whether a relay that this node stays with relays to it: tried, not believed.
    pub async fn is_relayed_by(&self, relay: PeerId) -> bool {
        self.0.0.is_relayed_by(relay).await
    }

    /// From now on this node takes tunnels that `may` admits, by who opens one and to whom it leads:
    /// to itself, or as a relay to a peer that is connected with it. Until then it takes none.
    pub fn admit_tunnels(&self, may: impl Fn(PeerId, PeerId) -> bool + Send + Sync + 'static) {
        self.0.0.relaying.begin(Box::new(may));
    }

    /// Tunnels that others have through this node, or through its relays to it.
    pub fn tunnels(&self) -> usize {
        TUNNELS_MAX - self.0.0.relaying.permits.available_permits()
    }

    /// Whether a connection with the peer is open, whoever dialled.
    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.0.0.live(peer).is_some()
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.0.0.open_connections()
    }

    /// The round trip to a peer, as echoes on the open connection measured it. QUIC's own estimate
    /// begins with the handshake, most of which is arithmetic.
    pub fn rtt(&self, peer: &PeerId) -> Option<Duration> {
        self.0.0.live(peer)?.rtt()
    }

    /// Asks a connected peer for an echo of a number that it cannot guess.
    pub fn echo(&self, peer: &PeerId) {
        if let Some(link) = self.0.0.live(peer) {
            link.echo();
        }
    }

    /// The round trips of echoes that came since the last call, the last few of them.
    pub fn take_echoes(&self, peer: &PeerId) -> Vec<Duration> {
        self.0.0.live(peer).map_or_else(Vec::new, |link| link.take_echoes())
    }

    /// Takes no new calls from others from now on; those in flight, and our own, go on.
    pub fn refuse_new(&self) {
        self.0.0.shared.draining.store(true, Ordering::Relaxed);
    }

    /// Takes no new calls from others, waits until those in flight are done (at most `deadline`),
    /// then closes every connection.
    pub async fn drain(&self, deadline: Duration) {
        let pool = &self.0.0;
        self.refuse_new();
        pool::calm(&pool.shared, deadline).await;
        // What runs through others goes first.
        for endpoint in [&pool.beyond, &pool.endpoint] {
            endpoint.close(code::DRAINING.into(), b"the peer is shutting down");
            // Lets the goodbyes out; a dead peer would hold this up for a whole timeout.
            let _ = tokio::time::timeout(GOODBYE, endpoint.wait_idle()).await;
        }
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        for endpoint in [&self.0.beyond, &self.0.endpoint] {
            endpoint.close(code::DRAINING.into(), b"the peer is shutting down");
        }
    }
}
