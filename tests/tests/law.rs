//! The law while nodes run: what an authority revokes is used no more by anybody, a new charter is
//! taken without a restart, a place that round trips refute is told of, and inputs are not sent to
//! an entry that may not see them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hansa_tests::mesh::{Answer, Mesh, Node, Spec};
use hansa_tests::{hansa, onnx, run, run_json};
use serde_json::{Value, json};

const WIDTH: usize = 16;

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
    assert_eq!(hansa_tests::mesh::header(&by, "hansa-executed-by"), "berlin");
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
