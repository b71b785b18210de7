//! TLS of the data plane: libp2p's own rustls configurations (mutual, 1.3 only, keys in the
//! certificate, post-quantum key exchange first) with Hansa's ALPN.
//!
//! They name their crypto provider themselves, so it does not matter which default the process
//! has. What they leave on and this plane does not want is turned off here: resumption (it would
//! skip the certificate, and the pin with it) and the key log.

use std::sync::Arc;

use hansa_core::id::PeerId;
use libp2p::identity::Keypair;
use libp2p::tls::{certificate, make_client_config, make_server_config};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::CertificateDer;

use crate::identity::{core_id, libp2p_id};
use crate::limits::DATA_ALPN;

/// TLS towards one peer: any other key fails the handshake. `None` when the id is no key.
pub(super) fn client(keypair: &Keypair, peer: &PeerId) -> Option<Arc<QuicClientConfig>> {
    let mut tls = make_client_config(keypair, Some(libp2p_id(peer)?))
        .expect("an Ed25519 key signs a certificate");
    tls.alpn_protocols = vec![DATA_ALPN.to_vec()];
    tls.key_log = Arc::new(rustls::NoKeyLog {});
    tls.resumption = rustls::client::Resumption::disabled();
    Some(Arc::new(QuicClientConfig::try_from(tls).expect("libp2p's TLS has QUIC's initial suite")))
}

/// TLS for whoever dials, provided that it shows a key.
pub(super) fn server(keypair: &Keypair) -> Arc<QuicServerConfig> {
    let mut tls = make_server_config(keypair).expect("an Ed25519 key signs a certificate");
    tls.alpn_protocols = vec![DATA_ALPN.to_vec()];
    tls.key_log = Arc::new(rustls::NoKeyLog {});
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    Arc::new(QuicServerConfig::try_from(tls).expect("libp2p's TLS has QUIC's initial suite"))
}

/// Who is at the other end, as the handshake proved; `None` when its key is not Ed25519.
pub(super) fn peer_of(connection: &quinn::Connection) -> Option<PeerId> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    core_id(&certificate::parse(chain.first()?).ok()?.peer_id())
}

/// Whether a handshake of ours failed because another key answered: rustls then raises the alert
/// `access_denied`, which QUIC carries as a crypto error.
pub(super) fn is_mismatch(error: &quinn::ConnectionError) -> bool {
    const ACCESS_DENIED: u8 = 49;
    matches!(error, quinn::ConnectionError::TransportError(e)
        if e.code == quinn::TransportErrorCode::crypto(ACCESS_DENIED))
}
