//! What only real processes show: meeting, forwarding, refusing, dying.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hansa_runtime::models;
use hansa_runtime::wheel::Progress;
use hansa_tests::mesh::{Answer, Mesh, Node, Spec, header, launch};
use serde_json::{Value, json};

fn magika() -> std::path::PathBuf {
    models::magika(Progress::Stderr).expect("magika can be fetched").join("model.onnx")
}

/// One request for magika over `rows` rows, its body made once.
fn question(rows: usize) -> Value {
    let row: Vec<i32> = (0..2048).map(|index| index % 257).collect();
    json!({"inputs": [{
        "name": "bytes", "datatype": "INT32", "shape": [rows, 2048], "data": vec![row; rows],
    }]})
}

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.2).expect("JSON")
}

fn ask(node: &Node, headers: &[(&str, &str)]) -> Answer {
    node.infer("magika", &question(1), headers)
}

#[test]
fn a_job_runs_where_its_policy_permits_whichever_peer_it_enters() {
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("magika", magika()),
        Spec::new("dublin", "IE", "US").with("magika", magika()),
        Spec::new("austin", "US", "US"),
    ]);
    for entry in &mesh.nodes {
        for (headers, permitted) in [
            (vec![], vec!["berlin", "dublin"]),
            (vec![("Hansa-Locations", "EU")], vec!["berlin", "dublin"]),
            (vec![("Hansa-Locations", "DE")], vec!["berlin"]),
            (vec![("Hansa-Locations", "IE")], vec!["dublin"]),
            (vec![("Hansa-Control", "EU")], vec!["berlin"]),
            (vec![("Hansa-Operators", "dublin")], vec!["dublin"]),
            (vec![("Hansa-Locations", "EU,!DE")], vec!["dublin"]),
        ] {
            let answer = ask(entry, &headers);
            assert_eq!(answer.0, 200, "{} {headers:?}: {}", entry.name, body(&answer));
            let by = header(&answer, "hansa-executed-by");
            assert!(permitted.contains(&by), "{} {headers:?}: {by}", entry.name);
            let place = if by == "berlin" { "DE" } else { "IE" };
            assert_eq!(header(&answer, "hansa-executed-in"), place);
            assert!(header(&answer, "server-timing").contains("dur="));
        }
        for headers in [
            vec![("Hansa-Locations", "US")],
            vec![("Hansa-Locations", "CH")],
            vec![("Hansa-Locations", "DE"), ("Hansa-Control", "US")],
            vec![("Hansa-Data-Class", "health")],
        ] {
            let answer = ask(entry, &headers);
            assert_eq!(answer.0, 403, "{} {headers:?}", entry.name);
            let refused = body(&answer);
            assert_eq!(refused["code"], "policy_unsatisfiable");
            let counts = refused["failed"].as_object().expect("counts by rule");
            let counted: u64 = counts.values().filter_map(Value::as_u64).sum();
            assert_eq!(counted, 2, "both holders are counted: {refused}");
        }
    }
    // The plan says the same, with reasons.
    let plan = mesh.node("austin").get("/mesh/v1/plan?model=magika&control=EU");
    assert_eq!(plan["plan"]["to"], "berlin", "{plan}");
    let peers = plan["peers"].as_array().expect("peers");
    let of = |name| peers.iter().find(|peer| peer["name"] == name).expect("every peer is named");
    assert_eq!(of("berlin")["rank"], 1);
    assert_eq!(of("dublin")["gated_out"]["rule"], "control");
}

#[test]
fn metadata_of_a_model_is_known_at_every_peer() {
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("magika", magika()),
        Spec::new("austin", "US", "US"),
    ]);
    for node in &mesh.nodes {
        let metadata = node.get("/v2/models/magika");
        assert_eq!(metadata["inputs"][0]["datatype"], "INT32", "{metadata}");
        let digest = metadata["parameters"]["bundle"].as_str().expect("a digest");
        let exact = node.infer(&format!("magika@{digest}"), &question(1), &[]);
        assert_eq!(exact.0, 200, "{}", body(&exact));
        assert_eq!(node.get("/v2/models/magika/versions/2")["code"], "unknown_model");
    }
}

#[test]
fn a_solo_node_runs_what_constrains_nothing_and_refuses_the_rest() {
    let spec = Spec { charter: None, ..Spec::new("solo", "DE", "DE") }.with("magika", magika());
    let mesh = Mesh::with(&[spec]);
    let node = mesh.node("solo");
    assert_eq!(ask(node, &[]).0, 200);
    let refused = ask(node, &[("Hansa-Locations", "DE")]);
    assert_eq!((refused.0, &body(&refused)["failed"]["no_charter"]), (403, &json!(1)));
}

#[test]
fn a_peer_without_a_charter_is_sent_nothing_and_not_served() {
    let spec = Spec { charter: None, ..Spec::new("stranger", "DE", "DE") };
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("magika", magika()),
        spec.clone().with("magika", magika()),
        Spec { name: "other", ..spec },
        Spec::new("austin", "US", "US"),
    ]);
    for _ in 0..10 {
        assert_eq!(header(&ask(mesh.node("austin"), &[]), "hansa-executed-by"), "berlin");
    }
    let refused = ask(mesh.node("other"), &[]);
    assert_eq!(refused.0, 403, "{}", body(&refused));
    assert_eq!(body(&refused)["code"], "not_served");
}

#[test]
fn every_job_in_flight_at_a_killed_node_is_answered_by_another() {
    let mut mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("magika", magika()),
        Spec::new("paris", "FR", "FR").with("magika", magika()),
        Spec::new("austin", "US", "US"),
    ]);
    // Only berlin at first, so that all of them are in flight there when it dies.
    const JOBS: usize = 200;
    let headers =
        [("Hansa-Locations", "DE,FR"), ("Hansa-Deadline-Ms", "60000"), ("Hansa-Split", "never")];
    let text = question(8);
    let url = mesh.node("austin").url();
    let victims = {
        let first = mesh.node("austin").infer("magika", &text, &headers);
        header(&first, "hansa-executed-by").to_owned()
    };
    let answered = AtomicUsize::new(0);
    let outcomes: Vec<Answer> = std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..JOBS)
            .map(|_| {
                let (text, url, answered) = (text.to_string(), &url, &answered);
                scope.spawn(move || {
                    let path = format!("{url}/v2/models/magika/infer");
                    let answer =
                        hansa_tests::mesh::request("POST", &path, &headers, text.as_bytes());
                    answered.fetch_add(1, Ordering::SeqCst);
                    answer
                })
            })
            .collect();
        while answered.load(Ordering::SeqCst) < 5 {
            std::thread::sleep(Duration::from_millis(1));
        }
        mesh.kill(&victims);
        jobs.into_iter().map(|job| job.join().expect("a job ends")).collect()
    });
    for outcome in &outcomes {
        assert_eq!(outcome.0, 200, "{}", body(outcome));
    }
    // And the dead node gets no new job: all are answered at once, by the other.
    let started = Instant::now();
    for _ in 0..50 {
        let answer = ask(mesh.node("austin"), &headers);
        assert_eq!(answer.0, 200);
        assert_ne!(header(&answer, "hansa-executed-by"), victims);
    }
    assert!(started.elapsed() < Duration::from_secs(10), "the dead node is still asked");
}

#[test]
fn a_job_that_only_a_killed_node_may_run_is_refused_within_its_deadline() {
    let mut mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("magika", magika()),
        Spec::new("paris", "FR", "FR").with("magika", magika()),
        Spec::new("austin", "US", "US"),
    ]);
    mesh.kill("berlin");
    let started = Instant::now();
    let headers = [("Hansa-Locations", "DE"), ("Hansa-Deadline-Ms", "5000")];
    let answer = ask(mesh.node("austin"), &headers);
    assert!([403, 502, 503, 504].contains(&answer.0), "{}: {}", answer.0, body(&answer));
    assert!(body(&answer)["error"].is_string());
    assert!(started.elapsed() < Duration::from_secs(6));
}

#[test]
fn a_joiner_through_one_address_is_routable_from_everywhere_within_two_seconds() {
    let mut mesh = Mesh::with(&[
        Spec::new("one", "DE", "DE"),
        Spec::new("two", "FR", "FR"),
        Spec::new("three", "IE", "US"),
        Spec::new("four", "US", "US"),
    ]);
    mesh.start(&Spec::new("five", "SG", "SG").with("magika", magika()));
    let took = mesh.await_all(Duration::from_secs(2));
    for node in &mesh.nodes {
        assert_eq!(header(&ask(node, &[]), "hansa-executed-by"), "five");
    }
    eprintln!("a joiner was routable from every node after {took:?}");
}

#[test]
fn a_node_that_is_told_to_stop_answers_what_it_has_and_leaves_at_once() {
    let mut mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("magika", magika()),
        Spec::new("austin", "US", "US"),
    ]);
    let url = format!("{}/v2/models/magika/infer", mesh.node("austin").url());
    let text = question(256).to_string();
    let job =
        std::thread::spawn(move || hansa_tests::mesh::request("POST", &url, &[], text.as_bytes()));
    let berlin = mesh.node("berlin");
    let patience = Instant::now() + Duration::from_secs(20);
    while !metrics(berlin).contains("hansa_engine_running{model=\"magika\"} 1") {
        assert!(Instant::now() < patience && !job.is_finished(), "the job is seen running");
    }
    terminate(berlin);
    let answer = job.join().expect("a job ends");
    assert_eq!(answer.0, 200, "{}", body(&answer));
    let berlin = &mut mesh.nodes[0];
    assert!(berlin.process.wait().expect("it ends").success());
    let austin = mesh.node("austin");
    assert_eq!(austin.alive(), ["austin"], "it said goodbye");
}

fn metrics(node: &Node) -> String {
    let answer = hansa_tests::mesh::request("GET", &format!("{}/metrics", node.url()), &[], b"");
    String::from_utf8(answer.2).expect("text")
}

fn terminate(node: &Node) {
    let status =
        std::process::Command::new("kill").args(["-TERM", &node.process.id().to_string()]).status();
    assert!(status.expect("kill runs").success());
}

#[test]
fn a_restarted_node_is_taken_back_at_once() {
    let mut mesh = Mesh::with(&[Spec::new("berlin", "DE", "DE"), Spec::new("paris", "FR", "FR")]);
    let config = mesh.folder().join("paris").join("hansa.toml");
    mesh.kill("paris");
    mesh.nodes.pop();
    let addresses = config.with_file_name("data").join("addresses.json");
    std::fs::remove_file(addresses).expect("a killed node leaves its addresses");
    mesh.nodes.push(launch("paris", &config));
    mesh.await_all(Duration::from_secs(5));
}

#[test]
fn a_request_is_traced_across_peers() {
    let mesh = Mesh::with(&[
        Spec {
            extra: "[telemetry]\nlog = \"debug\"\nformat = \"json\"\n",
            ..Spec::new("berlin", "DE", "DE")
        }
        .with("magika", magika()),
        Spec {
            extra: "[telemetry]\nlog = \"debug\"\nformat = \"json\"\n",
            ..Spec::new("austin", "US", "US")
        },
    ]);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    assert_eq!(ask(mesh.node("austin"), &[("traceparent", &parent)]).0, 200);
    for node in &mesh.nodes {
        let log = std::fs::read_to_string(&node.log).expect("a log");
        assert!(log.contains(trace), "{}'s log names the trace", node.name);
    }
}

#[test]
fn on_one_network_mdns_alone_suffices() {
    let extra = "[telemetry]\nlog = \"debug,libp2p_mdns=trace\"\n";
    let specs = [("one", "DE"), ("two", "FR"), ("three", "IE")].map(|(name, place)| Spec {
        mdns: true,
        extra,
        ..Spec::new(name, place, place)
    });
    Mesh::with(&specs);
}

#[test]
fn who_listens_hears_of_peers_that_come_and_go_and_of_the_end() {
    let mut mesh = Mesh::with(&[Spec::new("berlin", "DE", "DE"), Spec::new("paris", "FR", "FR")]);
    let url = format!("{}/mesh/v1/events", mesh.node("berlin").url());
    let answer = ureq::get(&url).call().expect("a stream");
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let (heard, hears) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut kind = String::new();
        for line in
            std::io::BufRead::lines(std::io::BufReader::new(answer.into_body().into_reader()))
        {
            let Ok(line) = line else { return };
            if let Some(event) = line.strip_prefix("event: ") {
                kind = event.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                let data: Value = serde_json::from_str(data).expect("JSON");
                let _ = heard.send((kind.clone(), data));
            }
        }
    });
    let patience = Duration::from_secs(60);
    let await_event = |kind: &str, member: &str, value: Value| {
        let started = Instant::now();
        loop {
            let left = patience.saturating_sub(started.elapsed());
            let (found, data) = hears.recv_timeout(left).expect("an event");
            if found == kind && data[member] == value {
                return data;
            }
        }
    };
    assert_eq!(await_event("peer", "name", json!("paris"))["liveness"], "alive");
    mesh.kill("paris");
    assert_eq!(await_event("peer", "liveness", json!("suspect"))["name"], "paris");
    let berlin = mesh.node("berlin").process.id().to_string();
    std::process::Command::new("kill").args(["-TERM", &berlin]).status().expect("kill");
    await_event("node", "draining", json!(true));
    assert!(hears.recv_timeout(patience).is_err(), "the stream ends");
}
