//! The data plane against peers that vanish, lie or babble, and over a bad path.

mod common;
mod relay;

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{echoing, pattern, plane, plane_within, within};
use hansa_net::limits::{HEADER_BYTES_MAX, code};
use hansa_net::{BodyError, CallError, DataLimits, DataPlane};
use libp2p::identity::Keypair;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, ReadError, VarInt};
use relay::{Path, Relay};

const HEADER: Bytes = Bytes::from_static(b"header");
/// A peer that vanishes with calls in flight is noticed within this.
const NOTICED: Duration = Duration::from_secs(1);

/// Tests that take time share the machine with no other of this file.
static MACHINE: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());

/// A peer of flesh and blood that never answers; see
/// [`a_killed_process_is_noticed_within_a_second_by_all_its_calls`].
#[tokio::test]
#[ignore = "run by another test, as the process that it kills"]
#[allow(clippy::print_stdout)] // That is how it speaks to its parent.
async fn process_that_holds_every_call() {
    let (plane, mut incoming) = plane(9);
    println!("\nlistening {}", plane.local_addr());
    let mut held = Vec::new();
    while let Some(call) = incoming.recv().await {
        held.push(call);
        println!("\nholding {}", held.len());
    }
}

#[tokio::test]
async fn a_killed_process_is_noticed_within_a_second_by_all_its_calls() {
    let _machine = MACHINE.write().await;
    const CALLS: usize = 200;
    let child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "process_that_holds_every_call", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn();
    let mut child = Killed(child.expect("starts"));
    let mut lines = std::io::BufReader::new(child.0.stdout.take().expect("piped")).lines();
    let mut say = move |what: &str| {
        let line = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with(what)));
        line.expect("the child speaks").expect("readable")
    };
    let addr = say("listening ").split_once(' ').expect("an address").1.parse::<SocketAddr>();
    let addrs = [addr.expect("an address")];
    let (victim, _) = plane(9);
    let peer = victim.local_peer();
    let (client, _) = plane(2);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..CALLS {
        let client = client.clone();
        calls.spawn(async move { client.call(peer, &addrs, HEADER, vec![pattern(1_000)]).await });
    }
    let all_held = tokio::task::spawn_blocking(move || say(&format!("holding {CALLS}")));
    tokio::select! {
        held = within(all_held) => drop(held.expect("no panic")),
        early = calls.join_next() => panic!("a call ended before the kill: {early:?}"),
    }
    child.0.kill().expect("SIGKILL");
    let killed = Instant::now();
    while let Some(failed) = within(calls.join_next()).await {
        let error = failed.expect("no panic").expect_err("nobody answers");
        assert!(matches!(&error, CallError::Lost(_)), "{error}");
    }
    assert!(killed.elapsed() < NOTICED, "{:?}", killed.elapsed());
}

/// A child that is gone with the test, however it ends.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_path_that_goes_dark_is_noticed_within_a_second() {
    let _machine = MACHINE.write().await;
    let (server, mut incoming) = plane(1);
    let relay = Relay::start(server.local_addr(), Path::default()).await;
    let (client, _) = plane(2);
    let (peer, addrs) = (server.local_peer(), [relay.addr()]);
    let caller = client.clone();
    let call = tokio::spawn(async move { caller.call(peer, &addrs, HEADER, vec![]).await });
    let held = within(incoming.recv()).await.expect("a call");
    // Long enough that echoes carry the connection, and nothing else.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!call.is_finished(), "a false alarm");
    relay.vanish();
    let dark = Instant::now();
    let error = within(call).await.expect("no panic").expect_err("lost");
    assert!(dark.elapsed() < NOTICED, "{:?}", dark.elapsed());
    assert!(error.to_string().contains("was not heard for"), "{error}");
    // The other end has only work to lose, and takes longer to drop it.
    within(held.reply.cancelled()).await;
    assert!(dark.elapsed() < 10 * NOTICED, "{:?}", dark.elapsed());
    assert!(!client.is_connected(&peer));
}

#[tokio::test]
async fn a_long_and_lossy_path_raises_no_false_alarm() {
    let _machine = MACHINE.read().await;
    let path = Path { delay: Duration::from_millis(100), loss_permille: 20, seed: 7 };
    eprintln!("seed {}", path.seed);
    let (server, mut incoming) = plane(1);
    let relay = Relay::start(server.local_addr(), path).await;
    let (client, _) = plane(2);
    let (peer, addrs) = (server.local_peer(), [relay.addr()]);
    tokio::spawn(async move {
        while let Some(call) = incoming.recv().await {
            tokio::spawn(async move {
                // A slow job: only echoes keep it company.
                tokio::time::sleep(Duration::from_secs(4)).await;
                let _ = call.reply.send(call.header, vec![pattern(100_000)]).await;
            });
        }
    });
    for _ in 0..3 {
        let mut answer = within(client.call(peer, &addrs, HEADER, vec![pattern(100_000)]))
            .await
            .expect("no false alarm");
        let body = within(answer.body.read_exact(100_000)).await.expect("whole");
        assert!(body == pattern(100_000));
    }
    // Nothing is faster than its path; how much slower depends on how busy the machine is.
    let rtt = client.rtt(&peer).expect("measured");
    assert!(rtt >= 2 * path.delay, "{rtt:?}");
}

#[tokio::test]
async fn a_dead_connection_is_replaced_by_the_next_call() {
    let _machine = MACHINE.read().await;
    let (first, mut incoming) = plane(1);
    let (client, _) = plane(2);
    let (peer, old) = (first.local_peer(), first.local_addr());
    let caller = client.clone();
    let call = tokio::spawn(async move { caller.call(peer, &[old], HEADER, vec![]).await });
    drop(within(incoming.recv()).await.expect("a call"));
    drop((first, incoming));
    let _ = within(call).await.expect("no panic").expect_err("it is gone");
    // The same peer, restarted elsewhere.
    let second = echoing(1);
    let addrs = [second.local_addr()];
    within(async {
        while client.call(peer, &addrs, HEADER, vec![]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_peer_restarted_at_its_address_resets_what_it_has_forgotten() {
    let _machine = MACHINE.read().await;
    let former = tokio::runtime::Runtime::new().expect("a runtime");
    let (first, mut incoming) = former.spawn(async { plane(1) }).await.expect("no panic");
    let (client, _) = plane(2);
    let (peer, addr) = (first.local_peer(), first.local_addr());
    let caller = client.clone();
    let call = tokio::spawn(async move { caller.call(peer, &[addr], HEADER, vec![]).await });
    let held = within(incoming.recv()).await.expect("a call");
    // Like kill -9: its tasks are gone before they can say goodbye.
    let gone = move || former.shutdown_timeout(Duration::from_secs(5));
    tokio::task::spawn_blocking(gone).await.expect("no panic");
    drop((first, incoming, held));
    let second = within(async {
        loop {
            match DataPlane::bind(&[1; 32], addr, DataLimits::default()) {
                Ok((second, incoming)) => break (second, incoming),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await;
    tokio::spawn(common::echo(second.1));
    let error = within(call).await.expect("no panic").expect_err("forgotten");
    assert!(error.to_string().contains("reset by peer"), "{error}");
    within(client.call(peer, &[addr], HEADER, vec![])).await.expect("answered");
}

#[tokio::test]
async fn another_key_than_the_one_dialled_is_refused() {
    let _machine = MACHINE.read().await;
    let (server, mut incoming) = plane(1);
    let (other, _) = plane(3);
    let (client, _) = plane(2);
    let addr = server.local_addr();
    let error = within(client.call(other.local_peer(), &[addr], HEADER, vec![])).await;
    let expected = CallError::PeerMismatch { peer: other.local_peer(), addr };
    assert_eq!(error.expect_err("refused"), expected);
    assert!(incoming.try_recv().is_err(), "no byte of the call arrived");
}

/// A peer that speaks QUIC and TLS as it should and anything it likes above.
async fn raw(server: &DataPlane, alpn: &[u8]) -> Result<quinn::Connection, ConnectionError> {
    let mut tls =
        libp2p::tls::make_client_config(&Keypair::generate_ed25519(), None).expect("a certificate");
    tls.alpn_protocols = vec![alpn.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).expect("QUIC's suite");
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address"));
    let endpoint = endpoint.expect("a free port");
    endpoint.connect_with(config, server.local_addr(), "any").expect("a config").await
}

#[tokio::test]
async fn another_protocol_version_is_refused_in_the_handshake() {
    let _machine = MACHINE.read().await;
    let server = echoing(1);
    let error = within(raw(&server, b"hansa/2")).await.expect_err("refused");
    assert!(
        error.to_string().contains("no_application_protocol")
            || error.to_string().contains("error 120"),
        "{error}"
    );
    assert!(within(raw(&server, b"hansa/1")).await.is_ok());
}

#[tokio::test]
async fn a_broken_stream_ends_alone() {
    let _machine = MACHINE.read().await;
    let header_timeout = Duration::from_millis(200);
    let limits = DataLimits { header_timeout, ..DataLimits::default() };
    let (server, incoming) = plane_within(1, limits);
    tokio::spawn(common::echo(incoming));
    let connection = within(raw(&server, b"hansa/1")).await.expect("connected");
    let too_long = u32::try_from(HEADER_BYTES_MAX + 1).expect("small").to_le_bytes();
    let cases: [(&str, &[u8], bool, u32); 6] = [
        ("nothing at all", b"", true, code::MALFORMED),
        ("half a length", &[3, 0], true, code::MALFORMED),
        ("half a header", &[9, 0, 0, 0, 1, 2], true, code::MALFORMED),
        ("a header over the limit", &too_long, false, code::MALFORMED),
        ("random bytes", &pattern(4_096), true, code::MALFORMED),
        ("a header that stalls", &[9, 0, 0, 0, 1, 2], false, code::STALLED),
    ];
    for (what, bytes, finish, expected) in cases {
        let (mut send, mut recv) = connection.open_bi().await.expect("the connection goes on");
        let _ = send.write_all(bytes).await;
        if finish {
            let _ = send.finish();
        }
        let reset = within(recv.read_to_end(10)).await.expect_err(what);
        let expected = quinn::ReadToEndError::Read(ReadError::Reset(VarInt::from_u32(expected)));
        assert_eq!(reset, expected, "{what}");
    }
    let (mut send, mut recv) = connection.open_bi().await.expect("the connection goes on");
    send.write_all(&[2, 0, 0, 0, b'o', b'k', b'!']).await.expect("taken");
    send.finish().expect("open");
    let answer = within(recv.read_to_end(100)).await.expect("answered");
    assert_eq!(answer, [2, 0, 0, 0, b'o', b'k', b'!']);
}

#[tokio::test]
async fn a_gigabyte_declared_and_ten_bytes_sent_costs_nothing() {
    let _machine = MACHINE.read().await;
    let (server, mut incoming) = plane(1);
    let (client, _) = plane(2);
    let (peer, addrs) = (server.local_peer(), [server.local_addr()]);
    tokio::spawn(async move { client.call(peer, &addrs, HEADER, vec![pattern(10)]).await });
    let mut call = within(incoming.recv()).await.expect("a call");
    let error = within(call.body.read_exact(1 << 30)).await;
    assert_eq!(error, Err(BodyError::Short { got: 10, expected: 1 << 30 }));
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up() {
    let _machine = MACHINE.read().await;
    let body_stall = Duration::from_millis(200);
    let (server, mut incoming) =
        plane_within(1, DataLimits { body_stall, ..DataLimits::default() });
    let connection = within(raw(&server, b"hansa/1")).await.expect("connected");
    let (mut send, _recv) = connection.open_bi().await.expect("open");
    send.write_all(&[1, 0, 0, 0, b'h', b'b']).await.expect("taken");
    let mut call = within(incoming.recv()).await.expect("a call");
    let error = within(call.body.read_exact(2)).await;
    assert_eq!(error, Err(BodyError::Stalled(body_stall)));
}

#[tokio::test]
async fn junk_packets_leave_the_endpoint_alone() {
    let _machine = MACHINE.read().await;
    let server = echoing(1);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let noise = pattern(200 * 1_200);
    for packet in noise.chunks(1_200) {
        let _ = socket.send_to(packet, server.local_addr());
    }
    let (client, _) = plane(2);
    let addrs = [server.local_addr()];
    within(client.call(server.local_peer(), &addrs, HEADER, vec![])).await.expect("answered");
}
