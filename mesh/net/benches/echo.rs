//! A call and its answer beside a raw quinn echo of the same bytes: same TLS, same machine, two
//! runtimes of their own, measured in turns so that noise meets both. Prints p50 and the ratios, also
//! of the same call to a peer behind NAT, through a relay on the same machine.
#![allow(clippy::print_stdout)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hansa_core::id::PeerId;
use hansa_net::data::{Relay, Way};
use hansa_net::{Call, DataLimits, DataPlane};
use libp2p::identity::Keypair;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

const HEADER_BYTES: usize = 300;

fn main() {
    let client = Runtime::new().expect("a runtime");
    let server = Runtime::new().expect("a runtime");
    let raw_addr = server.block_on(raw_server());
    let raw = client.block_on(raw_client(raw_addr));
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let bind = |seed: u8| DataPlane::bind(&[seed; 32], loopback, DataLimits::default());
    let (ours, incoming) = server.block_on(async { bind(1) }).expect("a free port");
    server.spawn(echo(incoming));
    let (plane, _incoming) = client.block_on(async { bind(2) }).expect("a free port");
    let between = Runtime::new().expect("a runtime");
    let (relay, _unasked) = between.block_on(async { bind(3) }).expect("a free port");
    relay.admit_tunnels(|_, _| true);
    let relay = Relay { peer: relay.local_peer(), addrs: vec![relay.local_addr()] };
    let (hidden, incoming) = server.block_on(async { bind(4) }).expect("a free port");
    server.spawn(echo(incoming));
    hidden.admit_tunnels(|_, _| true);
    server.block_on(hidden.stay_with(&relay)).expect("the relay is there");
    let straight = Way::from(&[ours.local_addr()]);
    let around = Way { addrs: Vec::new(), relays: vec![relay] };
    let (ours, hidden) = (ours.local_peer(), hidden.local_peer());
    client.block_on(async {
        // Warm: connections open, windows and MTU found.
        for _ in 0..20 {
            raw_call(&raw, &vec![7; 1 << 20]).await;
            call(&plane, ours, &straight, vec![7; 1 << 20].into()).await;
            call(&plane, hidden, &around, vec![7; 1 << 20].into()).await;
        }
        for (name, bytes, rounds) in
            [("4 KiB", 4 << 10, 4_000), ("1 MiB", 1 << 20, 200), ("64 MiB", 64 << 20, 7)]
        {
            let body = vec![7u8; bytes];
            let shared = Bytes::from(body.clone());
            let (mut theirs, mut mine, mut relayed) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..rounds {
                theirs.push(timed(raw_call(&raw, &body)).await);
                mine.push(timed(call(&plane, ours, &straight, shared.clone())).await);
                relayed.push(timed(call(&plane, hidden, &around, shared.clone())).await);
            }
            let (theirs, mine, relayed) = (p50(theirs), p50(mine), p50(relayed));
            let ratio = mine.as_secs_f64() / theirs.as_secs_f64();
            let mib_s = (2 * bytes) as f64 / mine.as_secs_f64() / f64::from(1 << 20);
            println!(
                "{name:>6}: call {mine:>10.1?}  raw quinn {theirs:>10.1?}  ratio {ratio:.3}  \
                 difference {:>8.1} µs  {mib_s:.0} MiB/s both ways  \
                 through a relay {relayed:>10.1?}, {:.2} ×",
                (mine.as_secs_f64() - theirs.as_secs_f64()) * 1e6,
                relayed.as_secs_f64() / mine.as_secs_f64()
            );
        }
    });
}

async fn timed(work: impl Future<Output = ()>) -> Duration {
    let start = Instant::now();
    work.await;
    start.elapsed()
}

fn p50(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// The host: it takes the whole body, as one that runs a model must, and sends it back.
async fn echo(mut incoming: mpsc::Receiver<Call>) {
    while let Some(Call { header, mut body, reply, .. }) = incoming.recv().await {
        tokio::spawn(async move {
            let bytes = u64::from_le_bytes(header[..8].try_into().expect("8 bytes"));
            let bytes = usize::try_from(bytes).expect("fits");
            let whole = body.read_exact(bytes).await.expect("whole");
            body.expect_end(bytes).await.expect("its end");
            reply.send(header, [whole]).await.expect("taken");
        });
    }
}

async fn call(plane: &DataPlane, peer: PeerId, way: &Way, body: Bytes) {
    let bytes = body.len();
    let mut header = vec![1; HEADER_BYTES];
    header[..8].copy_from_slice(&(bytes as u64).to_le_bytes());
    let answer = plane.call(peer, way.clone(), header.into(), vec![body]).await;
    let mut answer = answer.expect("answered");
    let whole = answer.body.read_exact(bytes).await.expect("whole");
    answer.body.expect_end(bytes).await.expect("its end");
    assert_eq!(whole.len(), bytes);
}

async fn raw_server() -> SocketAddr {
    let tls = libp2p::tls::make_server_config(&Keypair::generate_ed25519()).expect("a key");
    let crypto = QuicServerConfig::try_from(tls).expect("QUIC's suite");
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let endpoint = quinn::Endpoint::server(config, loopback).expect("a free port");
    let addr = endpoint.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let connection = incoming.await.expect("a handshake");
            tokio::spawn(async move {
                while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                    tokio::spawn(async move {
                        let whole = recv.read_to_end(usize::MAX).await.expect("whole");
                        send.write_all(&whole).await.expect("taken");
                        send.finish().expect("open");
                    });
                }
            });
        }
    });
    addr
}

async fn raw_client(addr: SocketAddr) -> quinn::Connection {
    let tls = libp2p::tls::make_client_config(&Keypair::generate_ed25519(), None).expect("a key");
    let crypto = QuicClientConfig::try_from(tls).expect("QUIC's suite");
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address"));
    let endpoint = endpoint.expect("a free port");
    endpoint.connect_with(config, addr, "any").expect("a config").await.expect("a handshake")
}

async fn raw_call(connection: &quinn::Connection, body: &[u8]) {
    let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
    send.write_all(body).await.expect("taken");
    send.finish().expect("open");
    let whole = recv.read_to_end(usize::MAX).await.expect("whole");
    assert_eq!(whole.len(), body.len());
}
