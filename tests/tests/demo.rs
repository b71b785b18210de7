//! `hansa demo` as a stranger and a program run it.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hansa_tests::{hansa, run, run_json};
use serde_json::{Value, json};

#[test]
fn the_demo_answers_through_every_node_and_breaks_no_policy() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = run(folder.path(), &["demo", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text.lines().count(), 1, "one object on one line: {text}");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["violations"], 0);
    let nodes = report["nodes"].as_array().expect("nodes");
    let places: Vec<_> = nodes.iter().map(|node| node["location"].as_str().unwrap()).collect();
    assert_eq!(places, ["DE", "FR", "IE", "US", "SG"]);
    let jobs = report["jobs"].as_array().expect("jobs");
    for node in nodes {
        let through = |job: &&Value| job["via"] == node["name"] && job["outcome"] == "ok";
        assert!(jobs.iter().any(|job| through(&job)), "nothing went through {node}");
        assert_closed(node["http"].as_str().expect("an address"));
    }
    for job in jobs {
        match job["policy"].as_str().expect("a policy") {
            "in CH" | "in US" if job["model"] == "magika" => assert_eq!(job["outcome"], "refused"),
            // Two of its stages stand elsewhere.
            "in EU" if job["model"] == "reader" => assert_eq!(job["outcome"], "refused"),
            _ if job["model"] == "reader" => {
                assert_eq!(job["executed_by"], "dublin, virginia, singapore");
                assert_eq!(job["top"], "“OPEN PORTS”");
            }
            _ => assert_eq!(job["outcome"], "ok", "{job}"),
        }
        if job["policy"] == "in DE" {
            assert_eq!(job["executed_by"], "berlin");
        }
        if job["policy"] == "in EU, by rows" {
            let by = job["executed_by"].as_str().expect("names");
            assert!(by.contains(", "), "the batch is spread: {by}");
        }
        assert!(job["latency_ms"].as_f64().expect("a number") > 0.0);
    }
    let rust = jobs.iter().find(|job| job["top"].as_str().unwrap_or("").starts_with("rust"));
    assert!(rust.is_some(), "a Rust source is known for one");
    let killed = &report["killed"];
    assert!(killed["in_flight"].as_u64().expect("a number") > 0);
    assert_eq!(killed["in_flight"], killed["answered"]);

    // Every answer and every refusal left a receipt, which anyone verifies with what the JSON names.
    let receipts = &report["receipts"];
    assert_eq!((&receipts["verified"], &receipts["defects"]), (&receipts["given"], &json!([])));
    assert!(receipts["of_executors"].as_u64() > Some(0), "{receipts}");
    let authorities = report["authorities_file"].as_str().expect("a file");
    for job in jobs {
        let file = job["receipt_file"].as_str().unwrap_or_else(|| panic!("no receipt of {job}"));
        let verify = ["receipt", "verify", file, "--authorities", authorities, "--json"];
        let proven = run_json(folder.path(), &verify);
        assert_eq!(
            (&proven["ok"], &proven["proven"]["receipt"]["job"]),
            (&json!(true), &job["receipt"])
        );
    }
}

#[test]
fn a_kept_demo_stays_until_interrupted_and_leaves_nothing_behind() {
    for signal in ["-INT", "-TERM", "-KILL"] {
        let (mut demo, report) = keep();
        assert_eq!((&report["jobs"], &report["killed"]), (&Value::Array(vec![]), &Value::Null));
        let nodes = report["nodes"].as_array().expect("nodes").clone();
        assert_eq!(nodes.len(), 5);
        std::thread::sleep(Duration::from_millis(300));
        assert!(demo.try_wait().expect("a child").is_none(), "it stays up");
        let pid = demo.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
        demo.wait().expect("it ends");
        nodes.iter().for_each(|node| assert_closed(node["http"].as_str().expect("an address")));
    }
}

/// Starts `demo --keep` and reads its line.
fn keep() -> (Child, Value) {
    let mut demo = Command::new(hansa())
        .args(["demo", "--keep", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("hansa starts");
    let mut line = String::new();
    let out = demo.stdout.take().expect("piped");
    BufReader::new(out).read_line(&mut line).expect("a line");
    (demo, serde_json::from_str(&line).expect("JSON"))
}

/// Nobody listens at `url` any more, or will not in a moment.
fn assert_closed(url: &str) {
    let address = url.trim_start_matches("http://");
    let patience = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < patience, "a node still listens at {address}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
