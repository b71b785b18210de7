//! kill -9 of a node with 200 jobs in flight at it: what becomes of them, how soon, and whether the
//! dead node is thought of again. The second holder of the model joins when all jobs are at the
//! first, so that every one of them is lost with it.
//!
//! Bars: all answered, with the outputs of an unkilled run; no plan sends to the dead node, and
//! nothing more is lost at it, later than 1 s after its first failure.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Client, Reply, infer_request, verdict};
use hansa_runtime::models;
use hansa_runtime::wheel::Progress;
use hansa_tests::mesh::{Mesh, Spec};
use serde_json::Value;

/// In flight when the node dies…
const IN_FLIGHT: usize = 200;
/// …and this many more, answered before, while the other holder joins.
const EARLIER: usize = 60;
const ROWS: usize = 32;
const COLUMNS: usize = 2_048;
/// Jobs of different content; each is run several times.
const KINDS: usize = 20;
const HEADERS: &str = "Hansa-Locations: EU\r\nHansa-Deadline-Ms: 120000\r\n";
/// How soon after its first failure a dead node is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(1);

fn main() {
    let model = models::magika(Progress::Stderr).expect("magika can be fetched").join("model.onnx");
    let holder = |name, place| Spec::new(name, place, place).with("magika", &model);
    let mut mesh = Mesh::with(&[Spec::new("austin", "US", "US"), holder("berlin", "DE")]);
    let requests: Vec<Vec<u8>> = (0..KINDS).map(request).collect();
    let mut client = Client::connect(mesh.node("austin"));
    let expected: Vec<Reply> = requests.iter().map(|request| client.send(request)).collect();
    assert!(expected.iter().all(|reply| reply.status == 200), "the unkilled run is answered");

    let answered = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..EARLIER + IN_FLIGHT)
            .map(|nth| {
                let mut client = Client::connect(mesh.node("austin"));
                let (request, answered) = (&requests[nth % KINDS], &answered);
                scope.spawn(move || {
                    let reply = client.send(request);
                    answered.fetch_add(1, Ordering::SeqCst);
                    (reply, Instant::now())
                })
            })
            .collect();
        mesh.start(&holder("paris", "FR"));
        while mesh.node("austin").alive().len() != 3 || answered.load(Ordering::SeqCst) < EARLIER {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut watcher =
            Watcher { client: Client::connect(mesh.node("austin")), seen: Vec::new() };
        mesh.kill("berlin");
        let killed = Instant::now();
        let in_flight = jobs.len() - answered.load(Ordering::SeqCst);
        let over = &over;
        let watching = scope.spawn(move || {
            while !over.load(Ordering::SeqCst) {
                watcher.look();
                std::thread::sleep(Duration::from_millis(10));
            }
            watcher.seen
        });
        let replies: Vec<_> = jobs.into_iter().map(|job| job.join().expect("it ends")).collect();
        let same = |nth: usize, reply: &Reply| {
            reply.status == 200 && reply.tensors() == expected[nth % KINDS].tensors()
        };
        let correct = replies.iter().enumerate().filter(|(nth, (reply, _))| same(*nth, reply));
        let correct = correct.count();
        let refused = replies.iter().filter(|(reply, _)| reply.status != 200).count();
        let last = replies.iter().map(|(_, at)| *at).max().expect("jobs");
        let other =
            replies.iter().filter(|(r, _)| r.header("hansa-executed-by") == "paris").count();
        // New jobs find the other at once.
        let fresh = (0..100).map(|nth| client.send(&requests[nth % KINDS]));
        let fresh = fresh.filter(|reply| reply.header("hansa-executed-by") == "paris").count();
        std::thread::sleep(2 * LEFT_ALONE);
        over.store(true, Ordering::SeqCst);
        let seen = watching.join().expect("it ends");

        println!(
            "{in_flight} in flight at the kill, {} jobs in all: {correct} correct, {refused} typed \
             errors, {} wrong ({})",
            replies.len(),
            replies.len() - correct - refused,
            verdict(correct == replies.len() && in_flight + 2 >= IN_FLIGHT)
        );
        println!(
            "{other} run by the other holder; last answer {:.2} s after the kill; new jobs \
             answered by the other: {fresh} of 100",
            (last - killed).as_secs_f64()
        );
        report(&seen, killed);
    });
}

fn report(seen: &[Sight], killed: Instant) {
    let before = seen.first().map_or(0.0, |sight| sight.lost);
    let first = seen.iter().find(|sight| sight.lost > before).expect("the loss is counted").at;
    let most = seen.last().map_or(0.0, |sight| sight.lost);
    let grew = seen.windows(2).filter(|pair| pair[1].lost > pair[0].lost).map(|pair| pair[1].at);
    let grew = grew.max().expect("the loss is counted");
    let planned = seen.iter().filter(|sight| sight.to == "berlin").map(|sight| sight.at).max();
    let late = |at: Instant| at > first + LEFT_ALONE;
    println!(
        "first failure {:.0} ms after the kill; {} losses, the last {:.0} ms after the first; \
         last plan for the dead node {}: nothing later than 1 s after the first failure ({})",
        (first - killed).as_secs_f64() * 1e3,
        most - before,
        (grew - first).as_secs_f64() * 1e3,
        planned.map_or("never".into(), |at| {
            format!("{:.0} ms after the kill", (at - killed).as_secs_f64() * 1e3)
        }),
        verdict(!late(grew) && !planned.is_some_and(late))
    );
}

fn request(kind: usize) -> Vec<u8> {
    let value =
        |index: usize| i32::try_from((index * (kind + 3) + index / 7) % 257).expect("small");
    let data: Vec<u8> = (0..ROWS * COLUMNS).flat_map(|index| value(index).to_le_bytes()).collect();
    infer_request("magika", ("bytes", "INT32", &[ROWS, COLUMNS]), &data, HEADERS)
}

/// What the entry says at one moment.
struct Sight {
    at: Instant,
    /// Peers lost so far, one for each job that was lost with one.
    lost: f64,
    /// Where a new job would go.
    to: String,
}

struct Watcher {
    client: Client,
    seen: Vec<Sight>,
}

impl Watcher {
    fn look(&mut self) {
        let metrics = self.client.get("/metrics").body;
        let metrics = String::from_utf8(metrics).expect("text");
        let lost = metrics.lines().find_map(|line| line.strip_prefix("hansa_peers_lost_total "));
        let lost = lost.map_or(0.0, |lost| lost.parse().expect("a number"));
        let plan = self.client.get("/mesh/v1/plan?model=magika&locations=EU").body;
        let plan: Value = serde_json::from_slice(&plan).expect("JSON");
        let to = plan["plan"]["to"].as_str().unwrap_or_default().to_owned();
        self.seen.push(Sight { at: Instant::now(), lost, to });
    }
}
