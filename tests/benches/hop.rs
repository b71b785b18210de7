//! What one hop costs: the same request at the node that holds the model and through one that does
//! not, beside an echo of the same bytes over plain quinn with the same TLS. Node processes are
//! real, the echo is a process of its own, and all are measured in turns so that noise meets each.
//!
//! Bars: remote − local p50 ≤ echo + 100 µs at 4 KiB, ≤ 1.25 × echo at 1 MiB. CPU time of both nodes for
//! a tiny request that is forwarded ≤ what it takes where it is not + 1.5 × both ends of the echo + 30 µs.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

mod common;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Client, cpu_ms, infer_request, p50, seconds, us, verdict};
use hansa_core::id::PeerId;
use hansa_net::{Call, DataLimits, DataPlane};
use hansa_tests::mesh::{Mesh, Spec};
use libp2p::identity::Keypair;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Set in the child, which is the echo's other end.
const ECHO: &str = "HANSA_BENCH_ECHO";
/// Bytes of a tiny request.
const TINY_BYTES: usize = 64;
/// A job's header and an answer's are about as long.
const HEADER_BYTES: usize = 300;

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    if std::env::var_os(ECHO).is_some() {
        return runtime.block_on(echo_server());
    }
    let folder = tempfile::tempdir().expect("a folder");
    let model = common::write_identity(folder.path());
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("identity", model),
        Spec::new("paris", "FR", "FR"),
    ]);
    // Last, because an idle connection lapses, and a first run builds the node.
    let (echo, child) = Echo::start(&runtime);
    let mut local = Client::connect(mesh.node("berlin"));
    let mut remote = Client::connect(mesh.node("paris"));
    let ask = |client: &mut Client, request: &[u8], bytes: usize| {
        let started = Instant::now();
        let reply = client.send(request);
        let took = started.elapsed();
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
        assert_eq!(reply.header("hansa-executed-by"), "berlin");
        assert_eq!(reply.tensors().len(), bytes);
        took
    };
    for (name, bytes, rounds) in [("4 KiB", 4 << 10, 4_000), ("1 MiB", 1 << 20, 400)] {
        let data = vec![0u8; bytes];
        let request = infer_request("identity", ("x", "FP32", &[bytes / 4]), &data, "");
        let mut times = [const { Vec::new() }; 4];
        // The first tenth warms: connections open, windows and MTU found.
        for round in 0..rounds + rounds / 10 {
            let turn = [
                ask(&mut local, &request, bytes),
                ask(&mut remote, &request, bytes),
                echo.raw(&runtime, &data),
                echo.call(&runtime, &data),
            ];
            if round >= rounds / 10 {
                times.iter_mut().zip(turn).for_each(|(times, time)| times.push(time));
            }
        }
        let [local, remote, raw, call] = times.each_mut().map(|times| us(p50(times)));
        let hop = remote - local;
        println!(
            "{name}: local {local:.0} µs, remote {remote:.0} µs, hop {hop:.0} µs; \
             raw quinn echo {raw:.0} µs, data plane's echo {call:.0} µs"
        );
        println!("{name}: hop − echo {:+.0} µs, hop / echo {:.2}", hop - raw, hop / raw);
        match bytes {
            4_096 => println!("{name}: bar echo + 100 µs: {}", verdict(hop <= raw + 100.0)),
            _ => println!("{name}: bar 1.25 × echo: {}", verdict(hop <= 1.25 * raw)),
        }
    }
    let nodes = ["berlin", "paris"].map(|name| mesh.node(name).process.id());
    for concurrency in [1, 8, 32] {
        let at = |name| {
            spent(&nodes, concurrency, || {
                let mut client = Client::connect(mesh.node(name));
                let request = infer_request(
                    "identity",
                    ("x", "FP32", &[TINY_BYTES / 4]),
                    &[0; TINY_BYTES],
                    "",
                );
                move || {
                    ask(&mut client, &request, TINY_BYTES);
                }
            })
        };
        let (local, remote) = (at("berlin"), at("paris"));
        // Both ends: the child, and the tasks that call it from here.
        let ends = [child.0.id(), std::process::id()];
        let raw = spent(&ends, concurrency, || {
            || {
                echo.raw(&runtime, &[0; TINY_BYTES]);
            }
        });
        let bar = local + 1.5 * raw + 30.0;
        println!(
            "{TINY_BYTES} bytes, concurrency {concurrency}: local {local:.0} CPU µs, forwarded {remote:.0} \
             at both nodes, raw quinn echo {raw:.0} at both ends; bar {bar:.0}: {}",
            verdict(remote <= bar)
        );
    }
    drop(child);
}

/// CPU time, in µs, that `processes` take for each of what so many threads do for a while.
fn spent<W: FnMut() + Send>(
    processes: &[u32],
    threads: usize,
    worker: impl Fn() -> W + Sync,
) -> f64 {
    let round = |lasts: f64| {
        let started = Instant::now();
        let one = || {
            let mut work = worker();
            let mut done = 0u32;
            while started.elapsed().as_secs_f64() < lasts {
                work();
                done += 1;
            }
            done
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum::<u32>()
        })
    };
    // Connections open and caches fill.
    round(seconds() / 5.0);
    let cpu = || processes.iter().map(|process| cpu_ms(*process)).sum::<f64>();
    let before = cpu();
    let done = round(seconds());
    (cpu() - before) * 1e3 / f64::from(done)
}

/// Both echoes, as a client of the child.
struct Echo {
    raw: quinn::Connection,
    plane: DataPlane,
    peer: PeerId,
    addr: SocketAddr,
    _incoming: mpsc::Receiver<Call>,
}

/// Ends with the bench.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Echo {
    fn start(runtime: &Runtime) -> (Self, Killed) {
        let own = std::env::current_exe().expect("a bench has a path");
        let mut child = Command::new(own)
            .env(ECHO, "1")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the bench starts again");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut line = || lines.next().expect("three lines").expect("text");
        let raw: SocketAddr = line().parse().expect("an address");
        let addr = line().parse().expect("an address");
        let peer = line().parse().expect("a peer");
        let raw = runtime.block_on(raw_client(raw));
        let bound = runtime.block_on(async { bind(2) });
        (Self { raw, plane: bound.0, peer, addr, _incoming: bound.1 }, Killed(child))
    }

    /// Timed within a worker of the runtime, as a node's own tasks run.
    fn raw(&self, runtime: &Runtime, data: &[u8]) -> Duration {
        let (connection, data) = (self.raw.clone(), data.to_vec());
        let work = runtime.spawn(async move {
            let started = Instant::now();
            let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
            send.write_all(&data).await.expect("taken");
            send.finish().expect("open");
            let whole = recv.read_to_end(usize::MAX).await.expect("whole");
            assert_eq!(whole.len(), data.len());
            started.elapsed()
        });
        runtime.block_on(work).expect("an echo")
    }

    fn call(&self, runtime: &Runtime, data: &[u8]) -> Duration {
        let (plane, peer, addr) = (self.plane.clone(), self.peer, self.addr);
        let (data, bytes) = (data.to_vec(), data.len());
        let work = runtime.spawn(async move {
            let started = Instant::now();
            let mut header = vec![1; HEADER_BYTES];
            header[..8].copy_from_slice(&(bytes as u64).to_le_bytes());
            let answer = plane.call(peer, &[addr], header.into(), vec![data.into()]).await;
            let mut answer = answer.expect("answered");
            let whole = answer.body.read_exact(bytes).await.expect("whole");
            answer.body.expect_end(bytes).await.expect("its end");
            assert_eq!(whole.len(), bytes);
            started.elapsed()
        });
        runtime.block_on(work).expect("an echo")
    }
}

fn bind(seed: u8) -> (DataPlane, mpsc::Receiver<Call>) {
    let loopback = "127.0.0.1:0".parse().expect("an address");
    DataPlane::bind(&[seed; 32], loopback, DataLimits::default()).expect("a free port")
}

/// The child: says where it listens and echoes until it is killed.
async fn echo_server() {
    let raw = raw_server();
    let (plane, mut incoming) = bind(1);
    println!("{raw}\n{}\n{}", plane.local_addr(), plane.local_peer());
    while let Some(Call { header, mut body, reply, .. }) = incoming.recv().await {
        tokio::spawn(async move {
            let bytes = u64::from_le_bytes(header[..8].try_into().expect("8 bytes"));
            let bytes = usize::try_from(bytes).expect("fits");
            let whole = body.read_exact(bytes).await.expect("whole");
            body.expect_end(bytes).await.expect("its end");
            let _ = reply.send(header, [whole]).await;
        });
    }
}

fn raw_server() -> SocketAddr {
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
                        let _ = send.finish();
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
