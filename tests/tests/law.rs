//! The law while nodes run: what an authority revokes is used no more by anybody, a new charter is
//! taken without a restart, a place that round trips refute is told of, and inputs are not sent to
//! an entry that may not see them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hansa_tests::mesh::{Answer, Behind, Mesh, Node, Spec, header, launch, request};
use hansa_tests::relay::{Relay, free};
use hansa_tests::{hansa, onnx, run, run_json};
use serde_json::{Value, json};

const WIDTH: usize = 16;
/// A payload goes out in datagrams larger than this.
const FULL: u64 = 1_000;

fn question() -> Value {
    let x = vec![0.5f32; WIDTH];
    json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": x}]})
}

fn ask(node: &Node, law: &[(&str, &str)]) -> Answer {
    node.infer("deep", &question(), law)
}

/// Asks until `is_it` says so of status and body; panics after a while.
fn until(node: &Node, law: &[(&str, &str)], is_it: impl Fn(u16, &Value) -> bool) {
    let started = Instant::now();
    loop {
        let (status, _, body) = ask(node, law);
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if is_it(status, &body) {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(40), "{}: {status} {body}", node.name);
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn refused_by(rule: &'static str) -> impl Fn(u16, &Value) -> bool {
    move |status, body| status == 403 && body["failed"].get(rule).is_some()
}

fn holder(name: &'static str, place: &'static str, path: &Path) -> Spec {
    Spec::new(name, place, place).with("deep", path)
}

fn authorities(mesh: &Mesh) -> String {
    let path = mesh.folder().join("authorities");
    let line = format!("{} {{ countries = [\"*\"], operators = [\"*\"] }}\n", mesh.authority());
    std::fs::write(&path, line).expect("a file can be written");
    path.display().to_string()
}

/// The receipt that an answer of `node` tells of, verified from a file.
fn receipt(mesh: &Mesh, node: &Node, answer: &Answer) -> Value {
    let job = header(answer, "hansa-receipt");
    let proof = request("GET", &format!("{}/mesh/v1/receipts/{job}", node.url()), &[], b"");
    let file = text(mesh.folder().join(job));
    std::fs::write(&file, &proof.2).expect("a file can be written");
    let authorities = authorities(mesh);
    let verify = ["receipt", "verify", &file, "--authorities", &authorities, "--json"];
    let found = run_json(mesh.folder(), &verify);
    assert_eq!(found["ok"], true, "{found}");
    found["proven"]["receipt"].clone()
}

/// What a command that succeeds prints.
fn said(folder: &Path, arguments: &[&str]) -> String {
    let done = run(folder, arguments);
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "hansa {arguments:?}: {error}");
    String::from_utf8(done.stdout).expect("text")
}

fn text(path: PathBuf) -> String {
    path.display().to_string()
}

#[test]
fn a_revoked_peer_gets_no_job_from_anybody_until_it_has_another_charter() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = onnx::write(folder.path(), &onnx::layers(2, WIDTH, 7));
    let mesh = Mesh::with(&[
        Spec {
            extra: "[policy]\nrevocations = [\"revoked.txt\"]\n",
            ..Spec::new("zurich", "CH", "CH")
        },
        Spec::new("vienna", "AT", "AT"),
        holder("berlin", "DE", &path),
        holder("paris", "FR", &path),
    ]);
    let de = [("Hansa-Locations", "DE")];
    for entry in ["zurich", "vienna"] {
        until(mesh.node(entry), &de, |status, _| status == 200);
    }
    let charter = mesh.folder().join("berlin/charter.txt");
    let (list, charter_file) = (mesh.folder().join("zurich/revoked.txt"), text(charter.clone()));
    // An empty list first, then the next one of it.
    let first = text(mesh.folder().join("first.txt"));
    let revoke = ["authority", "revoke", "--key", "test.key", "--json"];
    let made = run_json(mesh.folder(), &[&revoke[..], &["--first", "--out", &first]].concat());
    assert_eq!(made["epoch"], 1, "{made}");
    let out = text(list);
    let more = ["--previous", &first, "--charter", &charter_file, "--out", &out];
    let made = run_json(mesh.folder(), &[&revoke[..], &more].concat());
    assert_eq!((&made["epoch"], made["serials"].as_array().map(Vec::len)), (&json!(2), Some(1)));
    let shown =
        said(mesh.folder(), &["authority", "inspect", &out, "--authority", mesh.authority()]);
    assert!(shown.contains("epoch 2") && shown.contains("verified: test.example"), "{shown}");

    // The one reads it from its file, the other hears of it.
    for entry in ["zurich", "vienna"] {
        until(mesh.node(entry), &de, refused_by("revoked"));
        until(mesh.node(entry), &[("Hansa-Locations", "FR")], |status, _| status == 200);
    }
    // A file that is no charter changes nothing; another charter does, while the node runs.
    std::fs::write(&charter, "not a charter\n").expect("it can be written");
    let id = mesh.node("berlin").peer_id();
    let issue = ["authority", "issue", "--key", "test.key", "--operator", "Test GmbH"];
    let more = ["--subject", id, "--location", "DE", "--control", "DE", "--out", &charter_file];
    said(mesh.folder(), &[&issue[..], &more].concat());
    for entry in ["zurich", "vienna"] {
        until(mesh.node(entry), &de, |status, _| status == 200);
    }
}

#[test]
fn a_place_that_round_trips_refute_is_told_of_and_refused_where_evidence_is_demanded() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = onnx::write(folder.path(), &onnx::layers(2, WIDTH, 7));
    // All of them are on this machine, so that who says it is in Singapore cannot be.
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE"),
        holder("singapore", "SG", &path),
        holder("paris", "FR", &path),
    ]);
    let entry = mesh.node("berlin");
    until(entry, &[("Hansa-Locations", "SG")], |status, _| status == 200);
    let strict = |place| [("Hansa-Locations", place), ("Hansa-Rtt-Evidence", "required")];
    until(entry, &strict("SG"), refused_by("contradicted"));
    until(entry, &strict("FR"), |status, _| status == 200);
    let seen = entry.get("/mesh/v1/peers");
    let peers = seen["peers"].as_array().expect("a list");
    let of = |name: &str| peers.iter().find(|peer| peer["name"] == name).expect("a peer");
    assert_eq!(of("singapore")["rtt_evidence"], "contradicted");
    assert_eq!(of("paris")["rtt_evidence"], "plausible");
    let shown = said(mesh.folder(), &["peers", "--via", &entry.url()]);
    assert!(shown.contains("SG (contradicted by its round trips)"), "{shown}");
    let started = Instant::now();
    while entry.metric("hansa_peers_contradicted") != 1 {
        assert!(started.elapsed() < Duration::from_secs(20), "it is not counted");
        std::thread::sleep(Duration::from_millis(100));
    }
    // Where no evidence is demanded it still works, and the receipt says what was found.
    for (place, is_contradicted) in [("SG", true), ("FR", false)] {
        let answer = ask(entry, &[("Hansa-Locations", place)]);
        let receipt = receipt(&mesh, entry, &answer);
        assert_eq!(receipt["parts"][0]["party"]["contradicted"], is_contradicted, "{receipt}");
    }
}

#[test]
fn a_charter_that_too_few_authorities_signed_is_refused_until_another_signs() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = onnx::write(folder.path(), &onnx::layers(2, WIDTH, 7));
    let mut mesh = Mesh::new();
    let new = ["authority", "new", "second.key", "--name", "second.example", "--json"];
    let made = run_json(mesh.folder(), &new);
    let second = format!(
        "[[authority]]\nname = \"second.example\"\nkey = {}\n\
         may_assert = {{ countries = [\"*\"], operators = [\"*\"] }}\n",
        made["key"]
    );
    for spec in [Spec::new("zurich", "CH", "CH"), holder("berlin", "DE", &path)] {
        let config = mesh.prepare(&spec);
        let text = std::fs::read_to_string(&config).expect("a config") + &second;
        std::fs::write(&config, text).expect("it can be written");
        mesh.nodes.push(launch(spec.name, &config));
    }
    mesh.await_all(Duration::from_secs(10));
    let (entry, two) = (mesh.node("zurich"), [("Hansa-Signatures-Min", "2")]);
    until(entry, &[("Hansa-Signatures-Min", "1")], |status, _| status == 200);
    until(entry, &two, refused_by("signatures"));
    let charter = text(mesh.folder().join("berlin/charter.txt"));
    let cosign = ["authority", "issue", "--key", "second.key", "--cosign", &charter];
    said(mesh.folder(), &[&cosign[..], &["--out", &charter]].concat());
    until(entry, &two, |status, _| status == 200);
    until(entry, &[two[0], ("Hansa-Authorities", "!second.example")], refused_by("signatures"));
    until(entry, &[("Hansa-Authorities", "third.example")], refused_by("authority"));
}

#[test]
fn a_purpose_goes_only_to_those_that_promise_it_and_inputs_only_to_an_entry_that_may_see_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = onnx::write(folder.path(), &onnx::layers(2, WIDTH, 7));
    let berlin = holder("berlin", "DE", &path);
    let mesh = Mesh::with(&[
        Spec { extra: "[policy]\npurposes = [\"care\"]\n", ..berlin },
        holder("zurich", "CH", &path),
    ]);
    let entry = mesh.node("zurich");
    until(entry, &[("Hansa-Purpose", "care")], |status, _| status == 200);
    let by = ask(entry, &[("Hansa-Purpose", "care")]);
    assert_eq!(header(&by, "hansa-executed-by"), "berlin");
    until(entry, &[("Hansa-Purpose", "advertising")], refused_by("purpose"));

    let (authorities, input) = (authorities(&mesh), format!("x={}", json!([vec![0.5; WIDTH]])));
    let infer = |via: &Node| {
        std::process::Command::new(hansa())
            .args(["infer", "deep", "--in", "DE", "--via", &via.url(), "--input", &input])
            .args(["--authorities", &authorities])
            .output()
            .expect("it runs")
    };
    let refused = infer(entry);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("nothing was sent"), "{said}");
    assert!(said.contains("location CH"), "{said}");
    let done = infer(mesh.node("berlin"));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn when_the_only_permitted_peer_dies_with_a_job_it_is_refused_by_counts_and_seen_by_nobody_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = onnx::write(folder.path(), &onnx::layers(2, WIDTH, 7));
    let specs = [
        Spec::new("zurich", "CH", "CH"),
        holder("berlin", "DE", &path),
        holder("paris", "FR", &path),
        Spec::new("vienna", "AT", "AT"),
    ];
    let (control, data) = (free(specs.len()), free(specs.len()));
    let relay = |members: &[SocketAddr]| {
        Relay::start(members, |_, _| Duration::from_millis(1)).expect("a relay")
    };
    let (control_relay, data_relay) = (relay(&control), relay(&data));
    let mut mesh = Mesh::new();
    for (index, spec) in specs.into_iter().enumerate() {
        let behind = Behind {
            control: (control[index], control_relay.fronts[index]),
            data: (data[index], data_relay.fronts[index]),
        };
        mesh.start(&Spec { behind: Some(behind), ..spec });
    }
    mesh.await_all(Duration::from_secs(30));
    let (entry, berlin, others) = (0, 1, [2, 3]);
    for place in ["DE", "FR"] {
        until(mesh.node("zurich"), &[("Hansa-Locations", place)], |status, _| status == 200);
    }

    let rows = 16_384;
    let payload = (rows * WIDTH * size_of::<f32>()) as u64;
    let x = vec![0.5f32; rows * WIDTH];
    let input = json!({"name": "x", "datatype": "FP32", "shape": [rows, WIDTH], "data": x});
    let question = json!({"inputs": [input]});
    let body = question.to_string().into_bytes();
    // It takes the job in and never answers: what a peer is like in the moment before it dies.
    mesh.node("berlin").signal("STOP");
    let relays = [&control_relay, &data_relay];
    let carried = |peer| relays.map(|relay| relay.carried(entry, peer));
    let (to_berlin, to_others) = (data_relay.carried(entry, berlin), others.map(carried));
    // Asking forgets what was before.
    let _ = others.map(|peer| data_relay.largest(entry, peer));
    let url = format!("{}/v2/models/deep/infer", mesh.node("zurich").url());
    let asking = std::thread::spawn(move || {
        request("POST", &url, &[("Hansa-Locations", "DE"), ("Hansa-Split", "never")], &body)
    });
    let started = Instant::now();
    while data_relay.carried(entry, berlin) == to_berlin {
        assert!(started.elapsed() < Duration::from_secs(20), "the job is not sent");
        std::thread::sleep(Duration::from_millis(1));
    }
    mesh.kill("berlin");
    let answer = asking.join().expect("it is answered");
    let told: Value = serde_json::from_slice(&answer.2).expect("JSON");
    assert_eq!(answer.0, 503, "{told}");
    assert_eq!(told["failed"], json!({"location": 1, "unreachable": 1}));
    // What the entry sent to others meanwhile is what idle peers say to each other: in all less than
    // a hundredth of the payload, and no datagram of the size in which a payload goes out.
    for (peer, before) in others.into_iter().zip(to_others) {
        for (relay, before) in relays.into_iter().zip(before) {
            let sent = relay.carried(entry, peer) - before;
            assert!(sent < payload / 100, "{sent} bytes reached another peer, {peer}");
        }
        let largest = data_relay.largest(entry, peer);
        eprintln!("to {peer}: {:?} bytes in all, datagrams of {largest} at most", carried(peer));
        assert!(largest < FULL, "a datagram of {largest} bytes reached another peer, {peer}");
    }
    // The refusal, too, is on record, with the peer that had the job and what came of that.
    let receipt = receipt(&mesh, mesh.node("zurich"), &answer);
    assert_eq!(receipt["rejected"], told["failed"], "{receipt}");
    assert_eq!(receipt["parts"][0]["party"]["location"], "DE", "{receipt}");
    assert_eq!(receipt["parts"][0]["outcome"], "failed", "{receipt}");
    // And where it is permitted the same job is seen by the relay.
    let (to_paris, paris) = ([("Hansa-Locations", "FR")], others[0]);
    let before = data_relay.carried(entry, paris);
    let (status, _, _) = mesh.node("zurich").infer("deep", &question, &to_paris);
    assert_eq!(status, 200);
    assert!(data_relay.carried(entry, paris) - before > payload);
    assert!(data_relay.largest(entry, paris) > FULL);
}
