//! Every bound of the two transports in one place, each with its reason. Sizes of frames and
//! headers are the core's, since both ends must agree on them.

use std::time::Duration;

pub use hansa_core::limits::{FRAME_BYTES_MAX, HEADER_BYTES_MAX};

// Control plane.

/// The gossip protocol's name; another version has another name.
pub const GOSSIP_PROTOCOL: &str = "/hansa/gossip/1";
/// Events that wait for the host. When it is full, readers wait, and with them their peers.
pub const CONTROL_EVENTS_MAX: usize = 1_024;
/// Commands of the host that wait for the swarm. When it is full, a send is refused.
pub const CONTROL_COMMANDS_MAX: usize = 4_096;
/// Frames that wait for one peer; one more drops the oldest, since gossip repairs itself and new
/// news is worth more.
pub const OUTBOX_FRAMES_MAX: usize = 256;
/// Bytes that wait for one peer, for the same reason.
pub const OUTBOX_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Frames per second that one peer may send; beyond this its reader slows down. A partial view of
/// 32 neighbours batches every 100 ms, so honest peers stay far below.
pub const FRAMES_PER_SECOND: u32 = 2_000;
/// Bytes per second that one peer may send: a join that brings 10,000 adverts takes about a second.
pub const FRAME_BYTES_PER_SECOND: u32 = 8 * 1024 * 1024;
/// Longest that a started frame or a write may take; a stream that stalls longer is closed.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections of the control plane in all. 32 neighbours each way, and room for a bootstrap peer.
pub const CONTROL_CONNECTIONS_MAX: u32 = 4_096;
/// Connections with one peer: one each way when both dial at once, and one that replaces a dead one.
pub const CONTROL_CONNECTIONS_PER_PEER_MAX: u32 = 3;
/// Handshakes under way, each way.
pub const CONTROL_HANDSHAKES_MAX: u32 = 128;
/// Streams that one peer may have open on a connection: gossip, identify, and some slack.
pub const CONTROL_STREAMS_MAX: u32 = 16;
/// Bytes in flight on a gossip stream: four of the largest frames.
pub const CONTROL_STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// A control connection whose streams are all closed goes after this.
pub const CONTROL_IDLE: Duration = Duration::from_secs(60);
/// A silent control connection is dead after this (the core's suspicion is much faster).
pub const CONTROL_SILENCE_MAX: Duration = Duration::from_secs(20);
/// Keeps a control connection and its NAT binding alive.
pub const CONTROL_KEEP_ALIVE: Duration = Duration::from_secs(6);
/// Peers whose addresses are remembered.
pub const BOOK_PEERS_MAX: usize = hansa_core::limits::PEERS_MAX;
/// Addresses remembered, or tried at once, for one peer.
pub const ADDRS_PER_PEER_MAX: usize = hansa_core::limits::ADVERT_ADDRS_MAX;
/// Peers that mDNS may make this node dial; more are met through gossip.
pub const MDNS_PEERS_MAX: usize = 32;
/// First pause before a bootstrap address is dialled again; doubles up to the next.
pub const BOOTSTRAP_PAUSE_MIN: Duration = Duration::from_millis(250);
/// Longest pause before a bootstrap address is dialled again.
pub const BOOTSTRAP_PAUSE_MAX: Duration = Duration::from_secs(15);
/// A peer of another protocol version is left alone for this long.
pub const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// Listening takes no longer than this to begin, or start fails.
pub const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);

// Data plane.

/// The data plane's protocol name in TLS (ALPN); another version has another name.
pub const DATA_ALPN: &[u8] = b"hansa/1";
/// Connections of the data plane in all. quinn has no limit of its own.
pub const CONNECTIONS_MAX: usize = 4_096;
/// Handshakes under way that others began. Above half of it, an address must first be proven
/// (retry), so that a spoofed flood costs no signature.
pub const HANDSHAKES_MAX: usize = 256;
/// First packets buffered for handshakes not yet accepted, per handshake and in all; quinn's
/// defaults are 10 MiB and 100 MiB.
pub const INCOMING_BYTES_MAX: u64 = 64 * 1024;
/// See [`INCOMING_BYTES_MAX`].
pub const INCOMING_TOTAL_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// A connection is made within this, all addresses together, or the peer is unreachable. Long
/// enough for two lost packets, short enough that a job can still go elsewhere.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// A peer's addresses are tried this far apart.
pub const DIAL_STAGGER: Duration = Duration::from_millis(150);
/// Round trip assumed before one is measured: lost handshake packets are repeated after three of
/// these. quinn's 333 ms would leave room for one repeat within [`DIAL_TIMEOUT`].
pub const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Streams that one peer may have open at once; more of its calls wait on its side.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 1_024;
/// Inbound calls at once, over all peers; one more is reset with [`code::BUSY`].
pub const INBOUND_CALLS_MAX: usize = 4_096;
/// Calls that wait for the host; when it is full, streams wait.
pub const INBOUND_QUEUE_MAX: usize = 1_024;
/// Bytes in flight on one stream: 8 MiB carry 1 Gbit/s over 64 ms.
pub const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Bytes in flight, or unread, on one connection: what a hostile peer can make this node hold.
pub const CONNECTION_WINDOW_BYTES: u32 = 24 * 1024 * 1024;
/// Bytes taken from callers and not yet acknowledged, per connection.
pub const SEND_WINDOW_BYTES: u64 = 24 * 1024 * 1024;
/// First flight of a fresh connection: a typical tensor goes out in one round trip.
pub const INITIAL_WINDOW_BYTES: u64 = 64 * 1024;
/// Largest UDP payload searched for: a jumbo frame of 9,000 bytes. What the path cannot carry is
/// found out, once per connection.
pub const MTU_SEARCH_MAX: u16 = 8_952;
/// Kernel buffers of the socket. The default holds a few hundred packets, less than one window.
pub const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Unread or unsent liveness datagrams; each has 9 bytes.
pub const DATAGRAM_BYTES_MAX: usize = 4 * 1024;
/// An idle connection on which nothing is heard is dead after this.
pub const DATA_IDLE_MAX: Duration = Duration::from_secs(30);
/// The dialler keeps an idle connection (and its NAT binding) warm at this pace.
pub const DATA_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The header of a stream arrives within this.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A body that has begun goes on within this.
pub const BODY_STALL: Duration = Duration::from_secs(10);
/// A connection that lost a race of two dials is closed once nothing used it for this long.
pub const RETIRED_IDLE: Duration = Duration::from_secs(2);

// Tunnels; see `data/tunnel.rs`.

/// Relays that are tried for one peer.
pub const RELAYS_PER_PEER_MAX: usize = hansa_core::limits::RELAYS;
/// Tunnels that others have through this node or to it; one more is reset with [`code::BUSY`].
pub const TUNNELS_MAX: usize = 1_024;
/// Tunnels over the connection with one peer, whoever began them; well below
/// [`STREAMS_PER_CONNECTION_MAX`], so that calls find room beside them.
pub const TUNNELS_PER_PEER_MAX: usize = 512;
/// Those of them that one peer may open to others: no few of them take all that there are.
pub const TUNNELS_ASKED_MAX: usize = 64;
/// Packets, or bursts of them, that wait for one tunnel's stream (more are lost), or for quinn from
/// all tunnels (more wait in their streams).
pub const TUNNEL_QUEUE_MAX: usize = 256;
/// Bytes on their way through one tunnel: 160 Mbit/s over 100 ms, and at most 1.6 s of an uplink of
/// 10 Mbit/s, behind which the connection's small answers wait.
pub const TUNNEL_WINDOW_BYTES: u64 = 2 * 1024 * 1024;
/// Packets that quinn hands over at once.
pub const TUNNEL_SEGMENTS_MAX: usize = 10;

/// That a peer runs anew is heard within this of its first dial.
pub const LIFE_TOLD_WITHIN: Duration = Duration::from_secs(5);

/// Closing waits this long for the peers to learn of it.
pub const GOODBYE: Duration = Duration::from_millis(300);

// Liveness of the data plane; see `data/liveness.rs`.

/// The pulse while calls are outstanding.
pub const PULSE: Duration = Duration::from_millis(100);
/// An echo is sent this often; once the peer is quiet for as long, on every pulse.
pub const ECHO_EVERY: Duration = Duration::from_millis(200);
/// Nothing heard for this long is death, on a LAN; four round trips and two echoes on a long path.
pub const SILENCE_MIN: Duration = Duration::from_millis(700);
/// Who only answers gives the peer so many times as long.
pub const SERVING_PATIENCE: u32 = 10;
/// The pulse goes on for this long after the last call, so that back-to-back calls wake nobody.
pub const PULSE_LINGER: Duration = Duration::from_secs(1);

/// Why a stream is reset or a connection closed, as both ends see it.
pub mod code {
    /// The caller left.
    pub const CANCELLED: u32 = 1;
    /// Too many calls at once.
    pub const BUSY: u32 = 2;
    /// The header is truncated or longer than a header may be.
    pub const MALFORMED: u32 = 3;
    /// The header, or the body after it, did not come in time.
    pub const STALLED: u32 = 4;
    /// The host dropped the call without an answer.
    pub const UNANSWERED: u32 = 5;
    /// The node drains.
    pub const DRAINING: u32 = 6;
    /// Another connection with the same peer took over.
    pub const REPLACED: u32 = 7;
    /// The peer was not heard while calls were outstanding.
    pub const SILENT: u32 = 8;
    /// The peer's key is not Ed25519, or not the one that was dialled.
    pub const IDENTITY: u32 = 9;
    /// This node is no relay for that peer, or has lost it.
    pub const NO_WAY: u32 = 10;
    /// The relay on the way to the peer is gone.
    pub const CUT: u32 = 11;

    /// The code in words.
    pub fn meaning(code: u64) -> &'static str {
        match u32::try_from(code).unwrap_or(u32::MAX) {
            CANCELLED => "the other side no longer wants it",
            BUSY => "too many calls at once",
            MALFORMED => "the header was truncated or too long",
            STALLED => "the header or body did not come in time",
            UNANSWERED => "the call was dropped without an answer",
            DRAINING => "the peer is shutting down",
            REPLACED => "another connection took over",
            SILENT => "the peer was not heard",
            IDENTITY => "the peer's key is not acceptable",
            NO_WAY => "there is no way to that peer from here",
            CUT => "the way through a relay was cut",
            _ => "unknown code",
        }
    }
}
