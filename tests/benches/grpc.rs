//! What a request over gRPC costs: a node pinned to one core, its clients to another, a tiny model,
//! so many calls in flight over one HTTP/2 connection each eight of them.
//!
//! Linux only: it pins with `taskset`.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use common::{CLIENT_CORE, Load, SERVER_CORE, cpu_ms, p50, pin, seconds, us, verdict};
use h2::client::SendRequest;
use hansa_node::api::grpc::inference::ModelInferRequest;
use hansa_node::api::grpc::inference::model_infer_request::InferInputTensor;
use hansa_tests::mesh::{Mesh, Spec};
use hansa_tests::onnx;
use prost::Message;
use tokio::net::TcpStream;

const WIDTH: usize = 16;
/// CPU of the server for a request, in ms.
const BAR: f64 = 0.04;
/// Calls in flight on one connection.
const ON_ONE: usize = 8;

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let tiny = onnx::write(folder.path(), &onnx::layers(1, WIDTH, 7));
    pin(std::process::id(), SERVER_CORE);
    let mesh = Mesh::with(&[Spec::new("berlin", "DE", "DE").with("tiny", &tiny)]);
    pin(std::process::id(), CLIENT_CORE);
    let node = mesh.node("berlin");
    let address = node.addresses["grpc"].as_str().and_then(|addr| addr.parse().ok());
    let address = address.expect("an address");
    for concurrency in [1, 8, 32] {
        let load = load(node.process.id(), address, concurrency);
        println!("tiny over gRPC, concurrency {concurrency}: {load}");
        println!("  bar {BAR} CPU ms: {}", verdict(load.cpu_ms <= BAR));
    }
}

fn load(process: u32, server: SocketAddr, concurrency: usize) -> Load {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async move {
        all(server, concurrency, seconds() / 5.0).await;
        let (before, started) = (cpu_ms(process), Instant::now());
        let mut times = all(server, concurrency, seconds()).await;
        let (took, used) = (started.elapsed().as_secs_f64(), cpu_ms(process) - before);
        let count = times.len() as f64;
        let p50 = us(p50(&mut times));
        let p99 = us(times[times.len() * 99 / 100]);
        Load { rate: count / took, cpu_ms: used / count, p50, p99 }
    })
}

async fn all(server: SocketAddr, concurrency: usize, seconds: f64) -> Vec<Duration> {
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut calls = Vec::new();
    let mut channel = None;
    for number in 0..concurrency {
        if number % ON_ONE == 0 {
            channel = Some(connect(server).await);
        }
        let channel = channel.clone().expect("connected just now");
        calls.push(tokio::spawn(one(channel, until)));
    }
    let mut times = Vec::new();
    for call in calls {
        times.extend(call.await.expect("no panic"));
    }
    times
}

async fn connect(server: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(server).await.expect("the server listens");
    stream.set_nodelay(true).expect("a TCP socket");
    let (channel, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(async move { drop(connection.await) });
    channel
}

/// The same call again and again until then.
async fn one(channel: SendRequest<Bytes>, until: Instant) -> Vec<Duration> {
    let message = message();
    let mut times = Vec::new();
    while Instant::now() < until {
        let started = Instant::now();
        let request =
            axum::http::Request::post("http://node/inference.GRPCInferenceService/ModelInfer")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(())
                .expect("a request");
        let mut ready = channel.clone().ready().await.expect("the connection lives");
        let (answer, mut body) = ready.send_request(request, false).expect("a stream");
        body.send_data(message.clone(), true).expect("it is sent");
        let mut answer = answer.await.expect("an answer").into_body();
        let mut bytes = 0;
        while let Some(data) = answer.data().await {
            let data = data.expect("its data");
            bytes += data.len();
            let _ = answer.flow_control().release_capacity(data.len());
        }
        let trailers = answer.trailers().await.expect("an end").expect("trailers");
        assert_eq!(trailers["grpc-status"], "0", "{trailers:?}");
        assert!(bytes > 4 * WIDTH, "an output came");
        times.push(started.elapsed());
    }
    times
}

/// A message with its five bytes before it.
fn message() -> Bytes {
    let request = ModelInferRequest {
        model_name: "tiny".into(),
        inputs: vec![InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![1, 16],
            ..Default::default()
        }],
        raw_input_contents: vec![vec![0u8; 4 * WIDTH].into()],
        ..Default::default()
    };
    let body = request.encode_to_vec();
    let length = u32::try_from(body.len()).expect("it is small").to_be_bytes();
    [&[0][..], &length, &body].concat().into()
}
