//! Models that answer one request step by step, over HTTP and gRPC, wherever they are.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hansa_tests::mesh::{Answer, Mesh, Node, Spec, header, request};
use hansa_tests::{onnx, python};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The model, as a bundle.
fn repeat() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    onnx::write(folder.path(), &onnx::repeat());
    std::fs::write(folder.path().join("loop.json"), onnx::REPEATS).expect("it is written");
    folder
}

/// Steps that take no time.
fn ask(values: &[i32]) -> Value {
    json!({ "IN": values, "DELAY": vec![0; values.len()], "WAIT": 0 })
}

fn generate(node: &Node, way: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
    let url = format!("{}/v2/models/repeat/{way}", node.url());
    request("POST", &url, headers, body.to_string().as_bytes())
}

/// What server-sent events say.
fn events(answer: &Answer) -> Vec<Value> {
    let text = std::str::from_utf8(&answer.2).expect("text");
    assert_eq!(answer.0, 200, "{text}");
    text.lines().filter_map(event).collect()
}

fn event(line: &str) -> Option<Value> {
    line.strip_prefix("data: ").map(|data| serde_json::from_str(data).expect("JSON"))
}

fn outs(events: &[Value]) -> Vec<i64> {
    events.iter().map(|event| event["OUT"].as_i64().unwrap_or(-1)).collect()
}

fn error(answer: &Answer) -> String {
    let body: Value = serde_json::from_slice(&answer.2).expect("JSON");
    format!("{} {}", answer.0, body["error"].as_str().expect("an error"))
}

/// A request whose events are read as they come; the client leaves when it is dropped.
fn follow(node: &Node, body: &Value, headers: &str) -> Lines<BufReader<TcpStream>> {
    let url = node.url();
    let address = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("it is set");
    let body = body.to_string();
    let head = format!(
        "POST /v2/models/repeat/generate_stream HTTP/1.1\r\nHost: {address}\r\n{headers}\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).expect("it is sent");
    BufReader::new(stream).lines()
}

fn next(lines: &mut Lines<BufReader<TcpStream>>) -> Value {
    let mut lines = lines.map(|line| line.expect("it goes on"));
    lines.find_map(|line| event(&line)).expect("an event")
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One that holds the model, and one that does not.
fn pair(repeat: &TempDir) -> Mesh {
    Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("repeat", repeat.path()),
        Spec::new("austin", "US", "US"),
    ])
}

#[test]
fn each_step_is_an_event_at_who_holds_the_model_and_at_who_does_not() {
    let repeat = repeat();
    let mesh = pair(&repeat);
    for node in [mesh.node("berlin"), mesh.node("austin")] {
        let mut body = ask(&[4, 2, 0]);
        body["id"] = "7".into();
        let answer = generate(node, "generate_stream", &body, &[]);
        let told = events(&answer);
        assert_eq!(header(&answer, "hansa-executed-by"), "berlin");
        assert_eq!(outs(&told), [4, 2, 0]);
        let shown =
            json!({ "model_name": "repeat", "model_version": "1", "id": "7", "OUT": 2, "IDX": 1 });
        assert_eq!(told[1], shown);
        // A state may be given, as a prompt is.
        let mut body = ask(&[4, 2, 0]);
        body["AT"] = 1.into();
        assert_eq!(outs(&events(&generate(node, "generate_stream", &body, &[]))), [2, 0]);
        // Fewer steps; and what has one answer is answered by generate.
        let mut body = ask(&[4, 2, 0]);
        body["parameters"] = json!({ "steps_max": 2 });
        assert_eq!(outs(&events(&generate(node, "generate_stream", &body, &[]))), [4, 2]);
        body["parameters"] = json!({ "steps_max": 1 });
        for body in [body, ask(&[4])] {
            let one = generate(node, "generate", &body, &[]);
            let one: Value = serde_json::from_slice(&one.2).expect("JSON");
            assert_eq!((&one["OUT"], &one["IDX"]), (&json!(4), &json!(0)));
        }
        let refused = error(&generate(node, "generate", &ask(&[4, 2]), &[]));
        assert!(
            refused.starts_with("501 generate expects model to produce exactly 1"),
            "{refused}"
        );
        // Nobody whom the request permits: before anything ran, as any request.
        let refused = generate(node, "generate_stream", &ask(&[4]), &[("Hansa-Locations", "SG")]);
        assert_eq!(refused.0, 403);
        // In the middle: after what came before it.
        let body = json!({ "IN": [4, 2, 0], "DELAY": [0, 0], "WAIT": 0 });
        let told = events(&generate(node, "generate_stream", &body, &[]));
        assert_eq!(outs(&told), [4, 2, -1]);
        let reason = told[2]["error"].as_str().expect("an error");
        assert!(reason.starts_with("step 3: "), "{reason}");
    }
    // A request is counted once, its steps as runs.
    let stats =
        request("GET", &format!("{}/v2/models/repeat/stats", mesh.node("austin").url()), &[], b"");
    let stats: Value = serde_json::from_slice(&stats.2).expect("JSON");
    let stats = &stats["model_stats"][0];
    assert_eq!(stats["inference_stats"]["success"]["count"], 5, "{stats}");
    // What generate has no room for, too.
    assert_eq!(stats["inference_stats"]["fail"]["count"], 3);
    assert_eq!(stats["execution_count"], 3 + 2 + 2 + 1 + 1);
}

#[test]
fn every_step_leaves_its_own_receipt_and_all_together_keep_the_deadline() {
    let repeat = repeat();
    let mesh = pair(&repeat);
    let austin = mesh.node("austin");
    let headers = [("Hansa-Receipt", "inline")];
    let told = events(&generate(austin, "generate_stream", &ask(&[4, 2, 0]), &headers));
    let mut proofs: Vec<&str> =
        told.iter().map(|event| event["receipt"].as_str().expect("a proof")).collect();
    proofs.sort_unstable();
    proofs.dedup();
    assert_eq!(proofs.len(), 3);
    let long = vec![400_000; 512];
    let body = json!({ "IN": vec![1; 512], "DELAY": long, "WAIT": 0 });
    let begun = Instant::now();
    let told =
        events(&generate(austin, "generate_stream", &body, &[("Hansa-Deadline-Ms", "3000")]));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let (last, answers) = told.split_last().expect("events");
    assert!(!answers.is_empty() && answers.len() < 512, "{}", answers.len());
    assert_eq!(last["code"], "deadline");
}

#[test]
fn all_steps_together_cost_no_more_than_the_request_may() {
    let repeat = repeat();
    let price = "[price]\ncurrency = \"EUR\"\nper_device_second = 1\n";
    let dear = Spec { extra: price, ..Spec::new("berlin", "DE", "DE") };
    let mesh = Mesh::with(&[dear.with("repeat", repeat.path()), Spec::new("austin", "US", "US")]);
    let (berlin, austin) = (mesh.node("berlin"), mesh.node("austin"));
    let body = json!({ "IN": vec![1; 512], "DELAY": vec![200_000; 512], "WAIT": 0 });
    let told = events(&generate(austin, "generate_stream", &body, &[("Hansa-Max-Price", "1 EUR")]));
    let (last, answers) = told.split_last().expect("events");
    assert!(!answers.is_empty() && answers.len() < 512, "{}", answers.len());
    assert_eq!(last["failed"], json!({ "price": 1 }), "{last}");
    let paid = austin.metric("hansa_paid_micros_total");
    assert!((1..=1_000_000).contains(&paid), "{paid}");
    assert_eq!(paid, berlin.metric("hansa_charged_micros_total"));
}

#[test]
fn a_node_that_drains_ends_a_request_that_it_has_begun() {
    let repeat = repeat();
    let mesh = pair(&repeat);
    let berlin = mesh.node("berlin");
    let values: Vec<i64> = (0..40).collect();
    let body = json!({ "IN": values, "DELAY": vec![40_000; 40], "WAIT": 0 });
    let mut lines = follow(berlin, &body, "Hansa-Deadline-Ms: 60000\r\n");
    let first = next(&mut lines);
    let id = berlin.process.id().to_string();
    std::process::Command::new("kill").args(["-TERM", &id]).status().expect("kill");
    let drains = || std::fs::read_to_string(&berlin.log).is_ok_and(|log| log.contains("draining"));
    until("it drains", drains);
    let rest = (1..40).map(|_| next(&mut lines));
    let told: Vec<Value> = [first].into_iter().chain(rest).collect();
    assert_eq!(outs(&told), values);
}

#[test]
fn when_the_client_leaves_the_step_that_runs_is_stopped_and_no_other_is_begun() {
    let repeat = repeat();
    let mesh = pair(&repeat);
    let berlin = mesh.node("berlin");
    for entry in [berlin, mesh.node("austin")] {
        let endless = json!({ "IN": [1, 2, 3], "DELAY": [0, u32::MAX, 0], "WAIT": 0 });
        let mut lines = follow(entry, &endless, "Hansa-Deadline-Ms: 600000\r\n");
        assert_eq!(next(&mut lines)["OUT"], 1);
        until("its second step runs", || berlin.metric("hansa_engine_running") == 1);
        let ran = berlin.metric("hansa_executed_total");
        drop(lines);
        until("it is stopped", || berlin.metric("hansa_engine_running") == 0);
        assert_eq!(berlin.metric("hansa_executed_total"), ran, "nothing else was run");
        assert_eq!(outs(&events(&generate(entry, "generate_stream", &ask(&[5]), &[]))), [5]);
    }
}

#[test]
fn a_client_that_does_not_read_keeps_its_steps_from_being_made() {
    let repeat = repeat();
    let mesh = pair(&repeat);
    let berlin = mesh.node("berlin");
    // More than any buffer between: answers of 512 steps have a padding that the id makes.
    let body = json!({
        "IN": vec![1; 512], "DELAY": vec![0; 512], "WAIT": 0, "id": "x".repeat(100_000),
    });
    let mut lines = follow(mesh.node("austin"), &body, "");
    assert_eq!(next(&mut lines)["OUT"], 1);
    let runs = || berlin.metric("hansa_executed_total");
    let mut before = 0;
    until("it stands still", || {
        std::thread::sleep(Duration::from_millis(300));
        std::mem::replace(&mut before, runs()) == runs()
    });
    assert!(before < 512, "{before} steps are made ahead");
    assert_eq!((1..512).filter(|_| next(&mut lines)["OUT"] == 1).count(), 511);
    assert_eq!(runs(), 512);
}

#[test]
fn it_goes_on_when_a_peer_that_runs_its_steps_dies() {
    let repeat = repeat();
    let mut mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("repeat", repeat.path()),
        Spec::new("paris", "FR", "FR").with("repeat", repeat.path()),
        Spec::new("austin", "US", "US"),
    ]);
    let values: Vec<i32> = (0..60).collect();
    let body = json!({ "IN": values, "DELAY": vec![60_000; 60], "WAIT": 0 });
    let mut lines = follow(mesh.node("austin"), &body, "Hansa-Deadline-Ms: 60000\r\n");
    let mut told = Vec::new();
    for _ in 0..5 {
        told.push(next(&mut lines));
    }
    let runs = |mesh: &Mesh, name| mesh.node(name).metric("hansa_executed_total");
    let [first, other] = match runs(&mesh, "berlin") >= runs(&mesh, "paris") {
        true => ["berlin", "paris"],
        false => ["paris", "berlin"],
    };
    let before = runs(&mesh, other);
    mesh.kill(first);
    while told.len() < 60 {
        told.push(next(&mut lines));
    }
    assert!(runs(&mesh, other) > before, "{other} ran the others");
    assert_eq!(outs(&told), values.iter().map(|value| i64::from(*value)).collect::<Vec<_>>());
}

#[test]
fn tritonclient_streams_at_who_holds_the_model_and_at_who_does_not() {
    let (repeat, once) = (repeat(), tempfile::tempdir().expect("a folder"));
    let once = onnx::write(once.path(), &onnx::lookup(100));
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("repeat", repeat.path()).with("once", &once),
        Spec::new("austin", "US", "US"),
    ]);
    for node in [mesh.node("berlin"), mesh.node("austin")] {
        let (url, grpc) = (node.url(), node.addresses["grpc"].as_str().expect("an address"));
        python::script("triton_loops.py", &[url.trim_start_matches("http://"), grpc]);
    }
    let berlin = mesh.node("berlin");
    until("what ran for streams that ended is stopped", || {
        berlin.metric("hansa_engine_running") == 0
    });
}
