//! How fast a bundle of 300 MB comes from three holders over loopback, beside the same bytes on one
//! raw quinn stream in the same run. The pull hashes every chunk and writes it to the disk, the raw
//! stream is only read; on a machine with few cores the holders, the puller and the hashing share
//! them. There is no bar; the ratio is what to watch.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

mod common;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::p50;
use hansa_tests::mesh::{Mesh, Node, Spec, request};
use libp2p::identity::Keypair;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Set in the child, which is the raw stream's other end.
const SENDER: &str = "HANSA_BENCH_SENDER";
const BYTES: usize = 300_000_000;
const ROUNDS: usize = 3;

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    if std::env::var_os(SENDER).is_some() {
        return runtime.block_on(send());
    }
    let folder = tempfile::tempdir().expect("a folder");
    let model = common::write_identity(folder.path());
    std::fs::rename(model, folder.path().join("model.onnx")).expect("one folder");
    std::fs::write(folder.path().join("weights.bin"), weights()).expect("weights");
    let mut specs = ["berlin", "paris", "dublin"]
        .map(|name| Spec::new(name, "DE", "DE").with("heavy", folder.path()))
        .to_vec();
    specs.push(Spec::new("austin", "US", "US"));
    let mesh = Mesh::with(&specs);
    let (mut raw, mut pulled, mut served) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        raw.push(stream(&runtime));
        let (came, serves) = pull(mesh.node("austin"));
        pulled.push(came);
        served.push(serves);
    }
    let shares: Vec<u64> = specs[..3]
        .iter()
        .map(|spec| mesh.node(spec.name).metric("hansa_bundle_bytes_sent") / 1_000_000)
        .collect();
    let [raw, pulled, served] = [&mut raw, &mut pulled, &mut served].map(|times| p50(times));
    let rate = |time: Duration| BYTES as f64 / 1e6 / time.as_secs_f64();
    println!("one raw quinn stream: {:.0} MB/s ({raw:.2?})", rate(raw));
    println!(
        "pull from three:      {:.0} MB/s ({pulled:.2?}), served after {served:.2?}",
        rate(pulled)
    );
    println!("pull / raw stream:    {:.2} of its rate", rate(pulled) / rate(raw));
    println!("sent by each holder over {ROUNDS} rounds: {shares:?} MB");
}

/// Bytes of which no chunk is like another.
fn weights() -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    let words = (0..BYTES / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

/// Until all bytes are on the disk, and until the model is served. It is removed again.
fn pull(node: &Node) -> (Duration, Duration) {
    let url = format!("{}/mesh/v1/models", node.url());
    let headers = [("content-type", "application/json")];
    let started = Instant::now();
    let wish = json!({ "model": "heavy" }).to_string();
    assert_eq!(request("POST", &format!("{url}/pull"), &headers, wish.as_bytes()).0, 202);
    let mut came = None;
    loop {
        let told: Value = node.get("/mesh/v1/models")["models"][0].clone();
        assert_ne!(told["state"], "failed", "{told}");
        let is_served = told["state"] == "serving";
        let is_here = told["bytes"].as_u64() > Some(0) && told["bytes"] == told["bytes_done"];
        if is_here || is_served {
            came.get_or_insert(started.elapsed());
        }
        if is_served {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let served = started.elapsed();
    assert_eq!(request("DELETE", &format!("{url}/heavy"), &[], b"").0, 200);
    (came.expect("it came first"), served)
}

/// The same bytes on one stream of plain quinn, from a process of its own.
fn stream(runtime: &Runtime) -> Duration {
    let own = std::env::current_exe().expect("a bench has a path");
    let mut sender =
        Command::new(own).env(SENDER, "1").stdout(Stdio::piped()).spawn().expect("starts");
    let mut lines = BufReader::new(sender.stdout.take().expect("piped")).lines();
    let addr: SocketAddr =
        lines.next().expect("a line").expect("text").parse().expect("an address");
    let receiving = runtime.spawn(async move {
        let tls =
            libp2p::tls::make_client_config(&Keypair::generate_ed25519(), None).expect("a key");
        let crypto = QuicClientConfig::try_from(tls).expect("QUIC's suite");
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address"));
        let connecting = endpoint.expect("a free port").connect_with(config, addr, "any");
        let connection = connecting.expect("a config").await.expect("a handshake");
        let started = Instant::now();
        let (mut ask, mut recv) = connection.open_bi().await.expect("a stream");
        ask.write_all(b"?").await.expect("taken");
        let mut bytes = 0;
        while let Some(chunk) = recv.read_chunk(1 << 20, true).await.expect("bytes") {
            bytes += chunk.bytes.len();
        }
        assert_eq!(bytes, BYTES);
        started.elapsed()
    });
    let took = runtime.block_on(receiving).expect("received");
    let _ = sender.kill().and_then(|()| sender.wait());
    took
}

/// The child: says where it listens and sends the bytes to whoever opens a stream.
async fn send() {
    let tls = libp2p::tls::make_server_config(&Keypair::generate_ed25519()).expect("a key");
    let crypto = QuicServerConfig::try_from(tls).expect("QUIC's suite");
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let endpoint = quinn::Endpoint::server(config, loopback).expect("a free port");
    let weights = Bytes::from(weights());
    println!("{}", endpoint.local_addr().expect("bound"));
    while let Some(incoming) = endpoint.accept().await {
        let connection = incoming.await.expect("a handshake");
        let (mut send, _ask) = connection.accept_bi().await.expect("a stream");
        send.write_chunk(weights.clone()).await.expect("taken");
        let _ = send.finish();
        let _ = send.stopped().await;
    }
}
