//! Where jobs go when several peers could run them: quotes, reservations, hedges, between real
//! processes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hansa_tests::mesh::{Answer, Mesh, Node, Spec, header, request};
use serde_json::{Value, json};

fn magika() -> std::path::PathBuf {
    hansa_runtime::models::magika(hansa_runtime::wheel::Progress::Stderr)
        .expect("magika can be fetched")
        .join("model.onnx")
}

/// A request for magika over `rows` rows.
fn question(rows: usize) -> Value {
    let row: Vec<i32> = (0..2048).map(|index| index % 257).collect();
    json!({"inputs": [{
        "name": "bytes", "datatype": "INT32", "shape": [rows, 2048], "data": vec![row; rows],
    }]})
}

/// What a counter of a node stands at.
fn counter(node: &Node, name: &str) -> u64 {
    let answer = request("GET", &format!("{}/metrics", node.url()), &[], b"");
    let text = String::from_utf8(answer.2).expect("text");
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// Sends `each` jobs of so many rows to each of `entries`, all at once.
fn storm(entries: &[&Node], each: usize, rows: usize) -> Vec<Answer> {
    let body = question(rows).to_string();
    std::thread::scope(|scope| {
        let jobs: Vec<_> = entries
            .iter()
            .flat_map(|entry| std::iter::repeat_n(entry.url(), each))
            .map(|url| {
                let body = &body;
                scope.spawn(move || {
                    let url = format!("{url}/v2/models/magika/infer");
                    // Whole jobs: a batch that is split needs no choice.
                    let headers = [("Hansa-Deadline-Ms", "60000"), ("Hansa-Split", "never")];
                    request("POST", &url, &headers, body.as_bytes())
                })
            })
            .collect();
        jobs.into_iter().map(|job| job.join().expect("a job ends")).collect()
    })
}

fn run_by(answers: &[Answer], name: &str) -> usize {
    answers.iter().filter(|answer| header(answer, "hansa-executed-by") == name).count()
}

#[test]
fn long_jobs_of_entries_that_know_nothing_of_each_other_spread_by_quotes() {
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("magika", magika()),
        Spec::new("paris", "FR", "FR").with("magika", magika()),
        Spec::new("austin", "US", "US"),
        Spec::new("boston", "US", "US"),
    ]);
    let entries = [mesh.node("austin"), mesh.node("boston")];
    // Short jobs are not worth a question.
    let short = storm(&entries, 4, 1);
    assert!(short.iter().all(|answer| answer.0 == 200));
    assert_eq!(counter(entries[0], "hansa_quotes_asked_total"), 0);
    let long = storm(&entries, 4, 24);
    assert!(long.iter().all(|answer| answer.0 == 200));
    assert!(counter(entries[0], "hansa_quotes_asked_total") >= 4);
    let berlin = run_by(&long, "berlin");
    assert!((2..=6).contains(&berlin), "{berlin} of 8 jobs ran in berlin");
    // What was kept for jobs that went elsewhere is free again, or soon will be.
    let alone = storm(&entries[..1], 1, 24);
    assert_eq!(alone[0].0, 200);
}

/// A process that gets a tenth of the time: it answers pings, and is slow at everything.
fn slowed<T>(node: &Node, work: impl FnOnce() -> T) -> T {
    let signal = |name: &str| {
        let pid = node.process.id().to_string();
        let sent = std::process::Command::new("kill").args([name, &pid]).status();
        assert!(sent.expect("kill runs").success());
    };
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                signal("-STOP");
                std::thread::sleep(Duration::from_millis(180));
                signal("-CONT");
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let outcome = work();
        is_over.store(true, Ordering::SeqCst);
        outcome
    })
}

#[test]
fn a_job_at_a_slow_peer_is_hedged_and_answered_by_another() {
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("magika", magika()),
        Spec::new("paris", "FR", "FR").with("magika", magika()),
        Spec::new("austin", "US", "US"),
    ]);
    let austin = mesh.node("austin");
    assert!(storm(&[austin], 8, 2).iter().all(|answer| answer.0 == 200));
    let hedges = "hansa_hedges_total";
    let before = counter(austin, hedges);
    // Where the machine itself is slow, so is what is expected of paris: then it is tried again.
    let (mut hedged, mut berlin, mut answers) = (0, 0, Vec::new());
    for _ in 0..5 {
        answers = slowed(mesh.node("paris"), || {
            (0..4).flat_map(|_| storm(&[austin], 4, 3)).collect::<Vec<Answer>>()
        });
        assert!(answers.iter().all(|answer| answer.0 == 200));
        (hedged, berlin) = (counter(austin, hedges) - before, run_by(&answers, "berlin"));
        if hedged > 0 {
            break;
        }
    }
    // Or paris was found out before it got one.
    let well = hedged > 0 || berlin == answers.len();
    assert!(well, "no job was hedged; berlin ran {berlin} of {}", answers.len());
    assert!(berlin > answers.len() / 2, "berlin ran {berlin} of {}", answers.len());
}
