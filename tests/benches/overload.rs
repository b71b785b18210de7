//! Twice what a node can do, for a while: what it still answers, how it refuses the rest, what memory
//! that takes, and how soon it is itself again. The node on one core, its clients on another.
//!
//! `HANSA_BENCH_SECONDS` says for how long; 600 is the bar's. Linux only: it pins with `taskset`.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{CLIENT_CORE, Client, SERVER_CORE, infer_request, pin, seconds, us, verdict};
use hansa_runtime::models;
use hansa_runtime::wheel::Progress;
use hansa_tests::mesh::{Mesh, Spec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Connections that the load comes over. More than may wait at the node, so that it must refuse.
const CONNECTIONS: usize = 1_600;
/// Requests in flight while its capacity is measured.
const AT_CAPACITY: usize = 16;

/// One answer: its status, how long it took, whether it says when to come back.
struct Answer {
    status: u16,
    took: Duration,
    says_when: bool,
}

fn main() {
    let magika = models::magika(Progress::Stderr).expect("magika").join("model.onnx");
    pin(std::process::id(), SERVER_CORE);
    let mesh = Mesh::with(&[Spec::new("berlin", "DE", "DE").with("magika", &magika)]);
    pin(std::process::id(), CLIENT_CORE);
    let node = mesh.node("berlin");
    let process = node.process.id();
    let address: SocketAddr = node.url().trim_start_matches("http://").parse().expect("an address");
    let request = infer_request("magika", ("bytes", "INT32", &[1, 2_048]), &vec![0; 4 * 2_048], "");
    let request: Arc<[u8]> = request.into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");

    let peak = runtime.block_on(closed(address, request.clone(), AT_CAPACITY, 5.0));
    let lone = runtime.block_on(closed(address, request.clone(), 1, 2.0));
    println!("capacity: {peak:.0}/s; one at a time {lone:.0}/s");

    let before = resident_kib(process);
    let offered = 2.0 * peak;
    let watch = std::thread::spawn(move || {
        let (started, mut seen) = (Instant::now(), Vec::new());
        while started.elapsed().as_secs_f64() < seconds() {
            std::thread::sleep(Duration::from_secs(1));
            seen.push(resident_kib(process));
        }
        seen
    });
    let (answers, unsent) = runtime.block_on(open(address, request.clone(), offered, seconds()));
    let seen = watch.join().expect("no panic");

    let served = answers.iter().filter(|answer| answer.status == 200).count();
    let goodput = served as f64 / seconds();
    let mut refusals: Vec<&Answer> = answers.iter().filter(|answer| answer.status != 200).collect();
    refusals.sort_by_key(|answer| answer.took);
    let polite =
        refusals.iter().all(|refused| matches!(refused.status, 429 | 503) && refused.says_when);
    let p99 = refusals.get(refusals.len() * 99 / 100).map_or(0.0, |answer| us(answer.took) / 1e3);
    println!(
        "offered {offered:.0}/s for {:.0} s over {CONNECTIONS} connections ({unsent} found none free): \
         {goodput:.0}/s answered, {:.2} of capacity; bar 0.9: {}",
        seconds(),
        goodput / peak,
        verdict(goodput >= 0.9 * peak)
    );
    println!(
        "{} refused, each a 429 or 503 with Retry-After: {}; p99 {p99:.1} ms, bar 50: {}",
        refusals.len(),
        verdict(polite),
        verdict(p99 <= 50.0)
    );
    // Flat from when queues and arenas have filled.
    let (early, late) = (seen[seen.len() / 4], *seen.last().expect("a second at least"));
    println!(
        "resident: {} MiB before, {} after a quarter of the time, {} at the end; grows by {:.1} %: {}",
        before / 1_024,
        early / 1_024,
        late / 1_024,
        100.0 * (late as f64 / early as f64 - 1.0),
        verdict(late as f64 <= 1.05 * early as f64)
    );

    let (over, mut client) = (Instant::now(), Client::connect(node));
    let usual = Duration::from_secs_f64(2.0 / lone);
    loop {
        let started = Instant::now();
        let reply = client.send(&request);
        if reply.status == 200 && started.elapsed() <= usual {
            break;
        }
        assert!(over.elapsed() < Duration::from_secs(60), "it does not recover");
    }
    let took = over.elapsed().as_secs_f64();
    println!("itself again after {took:.2} s; bar 5: {}", verdict(took <= 5.0));
}

fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("a size");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Answers a second, with so many requests always in flight.
async fn closed(server: SocketAddr, request: Arc<[u8]>, at_once: usize, seconds: f64) -> f64 {
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let tasks: Vec<_> = (0..at_once)
        .map(|_| {
            let request = request.clone();
            tokio::spawn(async move {
                let (mut stream, mut count) = (connect(server).await, 0);
                while Instant::now() < until {
                    let answer = ask(&mut stream, &request).await;
                    assert_eq!(answer.status, 200, "nothing is refused below capacity");
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        count += task.await.expect("no panic");
    }
    f64::from(count) / seconds
}

/// Requests at a steady rate, whatever becomes of them: every answer, and how many found no connection
/// free.
async fn open(
    server: SocketAddr,
    request: Arc<[u8]>,
    rate: f64,
    seconds: f64,
) -> (Vec<Answer>, usize) {
    let (answers, mut told) = mpsc::unbounded_channel();
    let (free, mut idle) = mpsc::unbounded_channel();
    for _ in 0..CONNECTIONS {
        free.send(connect(server).await).expect("it is open");
    }
    let unsent = Arc::new(AtomicUsize::new(0));
    let (started, mut sent) = (Instant::now(), 0u32);
    while started.elapsed().as_secs_f64() < seconds {
        while f64::from(sent) < started.elapsed().as_secs_f64() * rate {
            sent += 1;
            let Ok(mut stream) = idle.try_recv() else {
                unsent.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let (request, answers, free) = (request.clone(), answers.clone(), free.clone());
            tokio::spawn(async move {
                let answer = ask(&mut stream, &request).await;
                let _ = (answers.send(answer), free.send(stream));
            });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(answers);
    let mut all = Vec::new();
    while let Some(answer) = told.recv().await {
        all.push(answer);
    }
    (all, unsent.load(Ordering::Relaxed))
}

async fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).await.expect("the server listens");
    stream.set_nodelay(true).expect("a TCP socket");
    stream
}

async fn ask(stream: &mut TcpStream, request: &[u8]) -> Answer {
    let started = Instant::now();
    stream.write_all(request).await.expect("the node takes it");
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4 << 10]);
    loop {
        let count = stream.read(&mut buffer).await.expect("an answer");
        assert!(count > 0, "the connection ends");
        bytes.extend_from_slice(&buffer[..count]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let header = |name: &str| {
            head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim)
        };
        let length: usize =
            header("content-length").and_then(|text| text.parse().ok()).expect("a length");
        if bytes.len() < end + 4 + length {
            continue;
        }
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let says_when = header("retry-after").is_some();
        return Answer { status, took: started.elapsed(), says_when };
    }
}
