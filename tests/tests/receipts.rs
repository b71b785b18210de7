//! Receipts of real processes: each answer leaves one, at each peer that took a part; they verify
//! from files alone; no crash loses one that a client was told of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hansa_tests::mesh::{Answer, Mesh, Node, Spec, header, request};
use hansa_tests::{onnx, run, run_json};
use serde_json::{Value, json};

const WIDTH: usize = 64;

fn model(folder: &Path) -> PathBuf {
    onnx::write(folder, &onnx::layers(2, WIDTH, 7))
}

fn question(rows: usize) -> Value {
    let x: Vec<f32> = (0..rows * WIDTH).map(|i| ((i * 37) % 100) as f32 / 50.0 - 1.0).collect();
    json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, WIDTH], "data": x}]})
}

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.2).expect("JSON")
}

/// Whom the mesh believes, as an auditor has it.
fn authorities(mesh: &Mesh) -> PathBuf {
    let path = mesh.folder().join("authorities");
    let key = mesh.authority();
    let line = format!("{key} {{ countries = [\"*\"], operators = [\"*\"] }}\n");
    std::fs::write(&path, line).expect("a file can be written");
    path
}

/// The receipt of `job` at `node`, verified from a file by the command.
fn verified(mesh: &Mesh, node: &Node, job: &str) -> Value {
    let file = mesh.folder().join(format!("{job}.{}", node.name));
    let answer = request("GET", &format!("{}/mesh/v1/receipts/{job}", node.url()), &[], b"");
    assert_eq!(answer.0, 200, "{}", String::from_utf8_lossy(&answer.2));
    std::fs::write(&file, &answer.2).expect("a file can be written");
    verify(mesh, &file)
}

fn verify(mesh: &Mesh, file: &Path) -> Value {
    let (file, authorities) = (file.display().to_string(), authorities(mesh));
    let authorities = authorities.display().to_string();
    let found = run_json(
        mesh.folder(),
        &["receipt", "verify", &file, "--authorities", &authorities, "--json"],
    );
    assert_eq!(found["ok"], true, "{found}");
    found["proven"].clone()
}

/// Stops a node as an operator does, and verifies its log from its folder.
fn audited(mesh: &mut Mesh, name: &str) -> Value {
    mesh.kill(name);
    let log = mesh.folder().join(name).join("data/audit").display().to_string();
    let authorities = authorities(mesh).display().to_string();
    run_json(mesh.folder(), &["audit", "verify", &log, "--authorities", &authorities, "--json"])
}

#[test]
fn every_answer_leaves_receipts_that_verify_offline_wherever_it_ran() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = model(folder.path());
    let holder = |name, place, control| Spec::new(name, place, control).with("deep", &path);
    let mut mesh = Mesh::with(&[
        Spec::new("zurich", "CH", "CH"),
        holder("berlin", "DE", "DE"),
        holder("paris", "FR", "FR"),
        holder("dublin", "IE", "US"),
    ]);
    let entry = mesh.node("zurich");
    let ask = |node: &Node, rows, law: &[(&str, &str)]| node.infer("deep", &question(rows), law);

    // Forwarded: the entry's receipt names the executor's by its leaf.
    let answer = ask(entry, 1, &[("Hansa-Locations", "DE")]);
    assert_eq!(answer.0, 200, "{}", body(&answer));
    let job = header(&answer, "hansa-receipt");
    let proven = verified(&mesh, entry, job);
    let receipt = &proven["receipt"];
    assert_eq!((&receipt["job"], &receipt["outcome"]), (&json!(job), &json!("answered")));
    assert_eq!(receipt["rejected"], json!({"location": 2}), "{receipt}");
    assert_eq!(receipt["parts"][0]["party"]["location"], "DE");
    let at_berlin = verified(&mesh, mesh.node("berlin"), job);
    let own = &at_berlin["receipt"];
    assert_eq!(own["work"]["used"]["rows"], 1, "{own}");
    assert_eq!(at_berlin["leaf"], receipt["parts"][0]["receipt"]);
    assert_eq!(own["path"][0]["location"], "CH");
    assert_eq!(own["policy"], receipt["policy"], "the same law, read alike");
    // Each committed to the same payloads under a salt of its own.
    assert!(own["input"].is_string() && own["input"] != receipt["input"]);

    // Where it was submitted.
    let answer = ask(mesh.node("paris"), 2, &[("Hansa-Locations", "FR")]);
    let proven = verified(&mesh, mesh.node("paris"), header(&answer, "hansa-receipt"));
    assert_eq!(proven["receipt"]["work"]["used"]["rows"], 2);
    assert_eq!(proven["receipt"]["parts"], json!([]));

    // Scattered: one receipt covers the tree, each share's peer keeps its own.
    let answer = ask(entry, 24, &[("Hansa-Split", "rows"), ("Hansa-Locations", "EU")]);
    assert_eq!(answer.0, 200, "{}", body(&answer));
    let job = header(&answer, "hansa-receipt");
    let proven = verified(&mesh, entry, job);
    let parts = proven["receipt"]["parts"].as_array().expect("parts").clone();
    let rows: u64 = parts.iter().filter_map(|part| part["used"]["rows"].as_u64()).sum();
    assert_eq!(rows, 24, "{parts:?}");
    for part in &parts {
        let peer = part["party"]["peer"].as_str().expect("a peer");
        let node = mesh.nodes.iter().find(|node| node.peer_id() == peer).expect("one of them");
        let own = verified(&mesh, node, part["job"].as_str().expect("a job"));
        assert_eq!(own["receipt"]["parent"], job, "{own}");
    }

    // Refused: that is evidence, too.
    let answer = ask(entry, 1, &[("Hansa-Locations", "US")]);
    assert_eq!(answer.0, 403, "{}", body(&answer));
    let proven = verified(&mesh, entry, header(&answer, "hansa-receipt"));
    let receipt = &proven["receipt"];
    assert_eq!((&receipt["outcome"], &receipt["verdict"]), (&json!("refused"), &json!("refused")));
    assert_eq!(receipt["rejected"], json!({"location": 3}));

    // In the answer itself.
    let answer = ask(entry, 1, &[("Hansa-Receipt", "inline")]);
    let told = body(&answer);
    let file = mesh.folder().join("inline");
    std::fs::write(&file, told["parameters"]["receipt"].as_str().expect("a proof")).unwrap();
    let proven = verify(&mesh, &file);
    assert_eq!(proven["receipt"]["job"], header(&answer, "hansa-receipt"));

    // What may not be kept is not committed to.
    let answer = ask(entry, 1, &[("Hansa-Retention", "none")]);
    let proven = verified(&mesh, entry, header(&answer, "hansa-receipt"));
    assert_eq!(proven["receipt"]["input"], Value::Null);

    // What the entry's receipts add up to, as its API, its metrics and an auditor say.
    let usage = entry.get("/mesh/v1/usage");
    let totals = &usage["totals"];
    assert_eq!((&totals["jobs"], &usage["log"]["lost"]), (&json!(5), &json!(0)), "{usage}");
    assert_eq!(totals["outcomes"], json!({"answered": 4, "refused": 1}));
    assert_eq!(totals["all"]["rows"], 27, "{usage}");
    assert_eq!(entry.metric("hansa_usage_rows_total"), 27);
    let of_germany = entry.get("/mesh/v1/usage?country=DE");
    assert_eq!(of_germany["totals"]["countries"]["DE"], totals["countries"]["DE"]);
    let wrong = entry.get("/mesh/v1/usage?land=DE");
    assert!(wrong["error"].as_str().expect("a reason").contains("known are since"), "{wrong}");
    let report = audited(&mut mesh, "zurich");
    assert_eq!((&report["ok"], &report["defects"]), (&json!(true), &json!([])), "{report}");
    assert_eq!(report["size"].as_u64().unwrap() + report["unsigned"].as_u64().unwrap(), 5);
    let log = mesh.folder().join("zurich/data/audit").display().to_string();
    let shown = run_json(mesh.folder(), &["audit", "show", &log, "--json"]);
    assert_eq!(shown["countries"], totals["countries"], "{shown}");
}

#[test]
fn each_stage_of_a_chain_keeps_a_receipt_that_the_entrys_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = onnx::write(folder.path(), &onnx::layers(6, WIDTH, 7)).display().to_string();
    let out = folder.path().join("stages");
    let dir = out.display().to_string();
    run_json(folder.path(), &["models", "cut", &whole, "--stages", "3", "--out", &dir, "--json"]);
    let stage = |name, place, number: usize| {
        Spec::new(name, place, place).with("deep", out.join(format!("stage-{number}")))
    };
    let mesh = Mesh::with(&[
        Spec::new("zurich", "CH", "CH"),
        stage("berlin", "DE", 0),
        stage("paris", "FR", 1),
        stage("dublin", "IE", 2),
    ]);
    let started = Instant::now();
    let answer = loop {
        let answer = mesh.node("zurich").infer("deep", &question(2), &[]);
        if answer.0 == 200 {
            break answer;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{}", body(&answer));
        std::thread::sleep(Duration::from_millis(50));
    };
    let job = header(&answer, "hansa-receipt");
    let proven = verified(&mesh, mesh.node("zurich"), job);
    let parts = proven["receipt"]["parts"].as_array().expect("parts").clone();
    let places: Vec<_> = parts.iter().map(|part| &part["party"]["location"]).collect();
    assert_eq!(places, ["DE", "FR", "IE"], "{parts:?}");
    for (part, name) in parts.iter().zip(["berlin", "paris", "dublin"]) {
        let own = verified(&mesh, mesh.node(name), job);
        assert_eq!(own["leaf"], part["receipt"], "{own}");
        assert_eq!(own["receipt"]["work"]["used"], part["used"]);
        let next = own["receipt"]["parts"].as_array().expect("parts");
        assert_eq!(next.len(), usize::from(name != "dublin"), "{own}");
    }
}

/// A file of numpy with one row of numbers.
fn npy(path: &Path, row: &[f32]) {
    let shape = format!("'shape': (1, {})", row.len());
    let head = format!("{{'descr': '<f4', 'fortran_order': False, {shape}, }}");
    let head = format!("{head:<117}\n");
    let bytes = row.iter().flat_map(|value| value.to_le_bytes());
    let file = b"\x93NUMPY\x01\x00\x76\x00".iter().copied().chain(head.bytes()).chain(bytes);
    std::fs::write(path, file.collect::<Vec<u8>>()).expect("a file can be written");
}

#[test]
fn a_payload_is_shown_to_be_the_one_that_is_meant_until_the_salt_is_erased() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = model(folder.path());
    let mesh = Mesh::with(&[Spec::new("berlin", "DE", "DE").with("deep", &path)]);
    let node = mesh.node("berlin");
    npy(&mesh.folder().join("x.npy"), &[0.5; WIDTH]);
    npy(&mesh.folder().join("other.npy"), &[0.25; WIDTH]);
    let infer = ["infer", "deep", "--via", &node.url(), "--input", "x=@x.npy", "--output", "out"];
    let done = run_json(mesh.folder(), &[&infer[..], &["--json"]].concat());
    let job = done["receipt"].as_str().expect("a receipt");
    let proven = verified(&mesh, node, job);
    assert!(proven["receipt"]["output"].is_string(), "{proven}");

    let salts = format!("{}/mesh/v1/receipts/{job}/salt", node.url());
    let told = |method: &str, host: &[(&str, &str)]| request(method, &salts, host, b"");
    let answer = body(&told("GET", &[]));
    let salt = answer["salt"].as_str().expect("a salt").to_owned();
    assert_eq!(told("GET", &[("Host", "node.example")]).0, 403);
    let (proof, authorities) = (format!("{job}.berlin"), authorities(&mesh).display().to_string());
    let verify = |more: &[&str]| {
        let verify = ["receipt", "verify", &proof, "--authorities", &authorities, "--json"];
        let ran = run(mesh.folder(), &[&verify[..], more].concat());
        let said: Value = serde_json::from_slice(&ran.stdout).unwrap_or(Value::Null);
        (ran.status.code(), said["defects"][0].as_str().unwrap_or_default().to_owned())
    };
    let output = std::fs::read_dir(mesh.folder().join("out")).expect("a folder").next();
    let output = output.expect("an output").expect("an entry").file_name();
    let output = output.to_str().expect("a name").strip_suffix(".npy").expect("a file of numpy");
    let output = format!("{output}=@out/{output}.npy");
    let opened = ["--salt", &salt, "--input", "x=@x.npy", "--output", &output];
    assert_eq!(verify(&opened).0, Some(0), "{}", verify(&opened).1);
    for wrong in [
        ["--salt", &salt, "--input", "x=@other.npy"],
        ["--salt", &salt, "--input", "y=@x.npy"],
        ["--salt", &"0".repeat(64), "--output", &output],
    ] {
        let (code, defect) = verify(&wrong);
        assert!(code == Some(1) && defect.contains("not the "), "{wrong:?}: {code:?} {defect}");
    }
    assert_eq!(told("DELETE", &[]).0, 200);
    assert_eq!(body(&told("GET", &[]))["salt"], Value::Null);
    assert_eq!(verify(&[]).0, Some(0));
    let unknown = format!("{}/mesh/v1/receipts/{}/salt", node.url(), "0".repeat(32));
    assert_eq!(request("GET", &unknown, &[], b"").0, 404);
}

#[test]
fn what_was_tried_in_vain_and_tried_again_is_in_one_receipt() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = model(folder.path());
    let holder = |name| Spec::new(name, "DE", "DE").with("deep", &path);
    let mesh = Mesh::with(&[Spec::new("zurich", "CH", "CH"), holder("berlin"), holder("munich")]);
    let entry = mesh.node("zurich");
    // A job that may cost only so much is never run twice at once: it is retried, others are hedged.
    let limited: &[_] = &[("Hansa-Max-Price", "1 EUR")];
    for (law, why, came) in [(&[][..], "hedge", "cancelled"), (limited, "retry", "failed")] {
        let started = Instant::now();
        // Whoever ran the last few jobs takes the next one, too, and does not answer.
        let first = loop {
            let answers: Vec<_> = (0..5).map(|_| entry.infer("deep", &question(1), law)).collect();
            let by = header(&answers[0], "hansa-executed-by").to_owned();
            let same = |answer: &Answer| header(answer, "hansa-executed-by") == by;
            if answers.iter().all(|answer| answer.0 == 200 && same(answer)) {
                break by;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{}", body(&answers[0]));
            std::thread::sleep(Duration::from_millis(200));
        };
        mesh.node(&first).signal("STOP");
        let answer = entry.infer("deep", &question(1), law);
        mesh.node(&first).signal("CONT");
        assert_eq!(answer.0, 200, "{}", body(&answer));
        let proven = verified(&mesh, entry, header(&answer, "hansa-receipt"));
        let receipt = &proven["receipt"];
        let parts: Vec<_> = receipt["parts"].as_array().into_iter().flatten().collect();
        let told = |at: usize, keys: [&str; 2]| keys.map(|key| parts[at][key].clone());
        assert_eq!(parts.len(), 2, "{receipt}");
        assert_eq!(told(0, ["why", "outcome"]), ["planned", came], "{receipt}");
        assert_eq!(told(1, ["why", "outcome"]), [why, "answered"], "{receipt}");
        assert_eq!(parts[0]["party"]["operator"], first.as_str());
        assert_ne!(parts[0]["party"]["peer"], parts[1]["party"]["peer"]);
        assert_eq!(receipt["outcome"], "answered");
    }
}

#[test]
fn peers_of_other_operators_cosign_and_proofs_say_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = model(folder.path());
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("deep", &path),
        Spec::new("paris", "FR", "FR"),
        Spec::new("zurich", "CH", "CH"),
    ]);
    let berlin = mesh.node("berlin");
    let answer = berlin.infer("deep", &question(1), &[]);
    let job = header(&answer, "hansa-receipt");
    let started = Instant::now();
    let proven = loop {
        let proven = verified(&mesh, berlin, job);
        if proven["cosigned"].as_array().is_some_and(|cosigned| cosigned.len() == 2) {
            break proven;
        }
        assert!(started.elapsed() < Duration::from_secs(40), "{proven}");
        std::thread::sleep(Duration::from_millis(500));
    };
    let mut operators: Vec<&str> = proven["cosigned"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|cosigned| cosigned["operator"].as_str())
        .collect();
    operators.sort_unstable();
    assert_eq!(operators, ["paris", "zurich"], "{proven}");
}

#[test]
fn no_crash_loses_a_receipt_that_a_client_was_told_of() {
    let kills: usize = std::env::var("HANSA_LOG_KILLS").map_or(4, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().expect("a folder");
    let path = model(folder.path());
    let mut mesh = Mesh::with(&[Spec::new("berlin", "DE", "DE").with("deep", &path)]);
    let mut told: Vec<String> = Vec::new();
    for kill in 0..kills {
        let url = format!("{}/v2/models/deep/infer", mesh.node("berlin").url());
        let stop = AtomicBool::new(false);
        let question = question(1).to_string();
        std::thread::scope(|scope| {
            let client = || {
                let mut told = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    told.extend(try_infer(&url, &question));
                }
                told
            };
            let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
            // From the first write of a batch to a while after a checkpoint.
            std::thread::sleep(Duration::from_millis(150 + (kill as u64 * 173) % 1_400));
            mesh.kill("berlin");
            stop.store(true, Ordering::Relaxed);
            let ended = clients.into_iter().map(|client| client.join().expect("no panic"));
            told.extend(ended.flatten());
        });
        let log = mesh.folder().join("berlin/data/audit").display().to_string();
        let report = run(mesh.folder(), &["audit", "verify", &log, "--json"]);
        let report: Value = serde_json::from_slice(&report.stdout).expect("JSON");
        // A torn last batch was acknowledged to nobody; the next start cuts it off.
        let torn =
            |defect: &Value| defect.as_str().is_some_and(|text| text.contains("cuts it off"));
        let defects = report["defects"].as_array().expect("a list");
        assert!(defects.iter().all(torn), "{report}");
        mesh.revive("berlin");
    }
    assert!(told.len() > kills, "{} answers in {kills} lives", told.len());
    let report = audited(&mut mesh, "berlin");
    assert_eq!(report["ok"], true, "{report}");
    let log = mesh.folder().join("berlin/data/audit").display().to_string();
    let exported = run(mesh.folder(), &["audit", "export", &log, "--format", "jsonl"]);
    let kept: BTreeMap<String, ()> = String::from_utf8_lossy(&exported.stdout)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .filter_map(|receipt| Some((receipt["receipt"]["job"].as_str()?.to_owned(), ())))
        .collect();
    let lost: Vec<&String> = told.iter().filter(|job| !kept.contains_key(*job)).collect();
    assert!(lost.is_empty(), "{} of {} are lost, such as {:?}", lost.len(), told.len(), lost[0]);
    eprintln!("{kills} kills, {} receipts told of, {} kept, none lost", told.len(), kept.len());
}

/// The receipt that an answer tells of, if there is an answer.
fn try_infer(url: &str, question: &str) -> Option<String> {
    let config = ureq::Agent::config_builder().http_status_as_error(false).build();
    let agent: ureq::Agent = config.into();
    let answer = agent.post(url).send(question).ok()?;
    let job = answer.headers().get("hansa-receipt")?.to_str().ok()?;
    (answer.status() == 200).then(|| job.to_owned())
}

/// Bounds how far the files of a running node may grow: its disk is full.
fn limit(node: &Node, bytes: &str) {
    let pid = node.process.id().to_string();
    let limited =
        Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}")]).status();
    assert!(limited.expect("prlimit is part of util-linux").success());
}

#[test]
fn a_full_disk_refuses_jobs_that_must_leave_a_receipt_and_flags_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = model(folder.path());
    let strict = Spec { extra: "[audit]\nfail_closed = true\n", ..Spec::new("berlin", "DE", "DE") };
    let mesh = Mesh::with(&[
        strict.with("deep", &path),
        Spec::new("paris", "FR", "FR").with("deep", &path),
    ]);
    let (strict, lax) = (mesh.node("berlin"), mesh.node("paris"));
    let ask = |node: &Node, law: &[(&str, &str)]| {
        let home = if node.name == "berlin" { "DE" } else { "FR" };
        let law: Vec<_> = law.iter().copied().chain([("Hansa-Locations", home)]).collect();
        node.infer("deep", &question(1), &law)
    };
    for node in [strict, lax] {
        assert_eq!(ask(node, &[]).0, 200);
        limit(node, "1:unlimited");
    }
    let refused = ask(strict, &[]);
    assert_eq!((refused.0, &body(&refused)["code"]), (503, &json!("no_receipt")));
    assert!(!header(&refused, "retry-after").is_empty());
    let flagged = ask(lax, &[]);
    assert_eq!((flagged.0, header(&flagged, "hansa-receipt")), (200, "none"));
    let refused = ask(lax, &[("Hansa-Receipt", "required")]);
    assert_eq!((refused.0, &body(&refused)["code"]), (503, &json!("no_receipt")));
    assert!(lax.get("/mesh/v1/usage")["log"]["lost"].as_u64() > Some(0));
    // There is room again: both go on by themselves.
    for node in [strict, lax] {
        limit(node, "unlimited");
        let started = Instant::now();
        while header(&ask(node, &[]), "hansa-receipt").len() != 32 {
            assert!(started.elapsed() < Duration::from_secs(10), "{}", node.get("/mesh/v1/usage"));
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    assert_eq!(ask(lax, &[("Hansa-Receipt", "required")]).0, 200);
}
