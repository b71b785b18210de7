//! The settings of quinn: every default that is unsafe on a public port is replaced here, and the
//! few that cost latency.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use libp2p::identity::Keypair;
use quinn::congestion::CubicConfig;
use quinn::{
    ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig,
    VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;

use super::tunnel::Tunnels;
use super::{DataError, tls};
use crate::limits::*;

/// Binds the endpoint. That the port is taken is known here, not in a later log line.
pub(super) fn bind(addr: SocketAddr, keypair: &Keypair) -> Result<quinn::Endpoint, DataError> {
    let fault = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AddrInUse => DataError::AddressInUse { addr },
        _ => DataError::Bind { addr, source },
    };
    let socket = UdpSocket::bind(addr).map_err(fault)?;
    enlarge_buffers(&socket);
    let runtime = Arc::new(quinn::TokioRuntime);
    let endpoint = endpoint(keypair, "data plane");
    quinn::Endpoint::new(endpoint, Some(server(keypair, false)), socket, runtime).map_err(fault)
}

/// The endpoint of what runs through relays.
pub(super) fn beyond(tunnels: Arc<Tunnels>, keypair: &Keypair) -> quinn::Endpoint {
    // Other secrets: what it says of a connection of the other endpoint must not end that.
    let config = endpoint(keypair, "data plane through relays");
    let runtime = Arc::new(quinn::TokioRuntime);
    quinn::Endpoint::new_with_abstract_socket(config, Some(server(keypair, true)), tunnels, runtime)
        .expect("the socket has an address")
}

fn endpoint(keypair: &Keypair, which: &str) -> EndpointConfig {
    // From the identity, so that a peer that restarted at the same address resets the connections
    // of its former life at their first packet.
    let secret = |what: &str| {
        let label = format!("hansa {which} {what}");
        keypair.derive_secret(label.as_bytes()).expect("Ed25519 derives")
    };
    let reset = secret("stateless reset");
    let reset = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &reset);
    let mut endpoint = EndpointConfig::new(Arc::new(reset));
    // It must know the connection ids of that life for its own.
    let mine = secret("connection ids");
    let mine = u64::from_le_bytes(*mine.first_chunk().expect("32 bytes"));
    endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(mine)));
    endpoint.supported_versions(vec![1]);
    endpoint
}

/// What a dial uses: it also keeps the connection warm, so that only one side pays for that. One that
/// others carry is let go when it is not used.
pub(super) fn client(
    crypto: Arc<quinn::crypto::rustls::QuicClientConfig>,
    is_around: bool,
) -> ClientConfig {
    let mut transport = transport(is_around);
    transport.keep_alive_interval((!is_around).then_some(DATA_KEEP_ALIVE));
    let mut config = ClientConfig::new(crypto);
    config.transport_config(Arc::new(transport));
    config
}

fn server(keypair: &Keypair, is_around: bool) -> ServerConfig {
    let mut config = ServerConfig::with_crypto(tls::server(keypair));
    config
        .transport_config(Arc::new(transport(is_around)))
        .migration(false)
        .max_incoming(HANDSHAKES_MAX)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_TOTAL_BYTES_MAX);
    config
}

fn transport(is_around: bool) -> TransportConfig {
    // The streams of a tunnel take all that they are given, so that nothing is lost that would tell
    // of a slow path: what is on its way is bounded here.
    let send_window = if is_around { TUNNEL_WINDOW_BYTES } else { SEND_WINDOW_BYTES };

    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW_BYTES);
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU_SEARCH_MAX);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_PER_CONNECTION_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(send_window)
        .max_idle_timeout(Some(IdleTimeout::try_from(DATA_IDLE_MAX).expect("seconds fit")))
        .datagram_receive_buffer_size(Some(DATAGRAM_BYTES_MAX))
        .datagram_send_buffer_size(DATAGRAM_BYTES_MAX)
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(Arc::new(congestion))
        .allow_spin(false);
    transport
}

/// Best effort: the kernel caps what it grants, and a small buffer only costs throughput.
fn enlarge_buffers(socket: &UdpSocket) {
    let Ok(state) = quinn::udp::UdpSocketState::new(socket.into()) else { return };
    let _ = state.set_recv_buffer_size(socket.into(), SOCKET_BUFFER_BYTES);
    let _ = state.set_send_buffer_size(socket.into(), SOCKET_BUFFER_BYTES);
}
