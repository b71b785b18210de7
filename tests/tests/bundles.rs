//! Bundles travel between real processes: pulled from several holders, resumed after a crash,
//! refused to whom the policy keeps out, and never taken in when they are not what the digest says.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hansa_runtime::bundle::{Bundle, BundleDigest};
use hansa_runtime::models;
use hansa_runtime::wheel::Progress;
use hansa_tests::mesh::{Answer, Mesh, Node, Spec, header, launch, request};
use hansa_tests::{run, run_json};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

fn magika() -> PathBuf {
    models::magika(Progress::Stderr).expect("magika can be fetched")
}

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.2).expect("JSON")
}

/// A job that only `node` itself may run.
fn run_at(node: &Node, model: &str) -> Answer {
    let row: Vec<i32> = (0..2048).map(|index| index % 257).collect();
    let question = json!({"inputs": [{
        "name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": row,
    }]});
    node.infer(model, &question, &[("Hansa-Operators", &node.name)])
}

fn assert_runs(node: &Node, model: &str) {
    let answer = run_at(node, model);
    assert_eq!(answer.0, 200, "{}", body(&answer));
    assert_eq!(header(&answer, "hansa-executed-by"), node.name);
}

/// magika with a file of so many MiB beside it, in a folder of its own.
fn heavy(folder: &Path, mib: u64) -> (PathBuf, BundleDigest) {
    std::fs::create_dir_all(folder).expect("a folder");
    std::fs::copy(magika().join("model.onnx"), folder.join("model.onnx")).expect("a model");
    let mut state = 88_172_645_463_325_252u64;
    let words = (0..mib * MIB / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    std::fs::write(folder.join("weights.bin"), words.collect::<Vec<u8>>()).expect("weights");
    let digest = Bundle::open(folder).expect("a bundle").digest;
    (folder.to_owned(), digest)
}

/// What `node` says of the model now.
fn told(node: &Node, model: &str) -> Value {
    let held = node.get("/mesh/v1/models");
    let models = held["models"].as_array().expect("models");
    let is_it = |held: &&Value| held["name"] == model || held["bundle"] == model;
    models.iter().find(is_it).cloned().unwrap_or(Value::Null)
}

fn await_state(node: &Node, model: &str, state: &str) -> Value {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let told = told(node, model);
        if told["state"] == state {
            return told;
        }
        assert!(Instant::now() < patience, "not {state}: {told}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until more than so many bytes of `heavy` are at `node`, and some are missing; says how many.
fn await_bytes(node: &Node, bytes: u64) -> u64 {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let told = told(node, "heavy");
        let done = told["bytes_done"].as_u64().unwrap_or(0);
        if done > bytes {
            assert!(told["bytes"].as_u64().expect("bytes") > done, "too fast to interrupt: {told}");
            return done;
        }
        assert!(Instant::now() < patience && told["state"] == "pulling", "{told}");
    }
}

fn pull(node: &Node, model: &str) -> Answer {
    post(node, "pull", &json!({ "model": model }))
}

fn post(node: &Node, what: &str, body: &Value) -> Answer {
    let url = format!("{}/mesh/v1/models/{what}", node.url());
    let headers = [("content-type", "application/json")];
    request("POST", &url, &headers, body.to_string().as_bytes())
}

fn delete(node: &Node, model: &str) -> Answer {
    request("DELETE", &format!("{}/mesh/v1/models/{model}", node.url()), &[], b"")
}

#[test]
fn a_node_pulls_a_model_from_two_holders_and_runs_it_itself_also_after_a_restart() {
    let mut mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("magika", magika()),
        Spec::new("paris", "FR", "FR").with("magika", magika()),
        Spec::new("austin", "US", "US"),
    ]);
    let austin = mesh.node("austin");
    assert_eq!(run_at(austin, "magika").0, 403, "it does not hold the model yet");
    let pulled =
        run_json(mesh.folder(), &["models", "pull", "magika", "--via", &austin.url(), "--json"]);
    assert_eq!(pulled["state"], "serving", "{pulled}");
    assert_runs(austin, "magika");
    let bytes = pulled["bytes"].as_u64().expect("bytes");
    let sent = ["berlin", "paris"].map(|name| mesh.node(name).metric("hansa_bundle_bytes_sent"));
    assert!(sent.iter().all(|sent| *sent > 0), "both had a part: {sent:?} of {bytes}");
    assert_eq!(sent.iter().sum::<u64>(), bytes, "and nothing was sent twice");
    // The mesh hears of the new holder.
    let patience = Instant::now() + Duration::from_secs(10);
    while mesh.node("paris").get("/mesh/v1/plan?model=magika&operators=austin")["plan"]["to"]
        != "austin"
    {
        assert!(Instant::now() < patience, "paris does not hear of it");
    }
    let refused = delete(mesh.node("berlin"), "magika");
    assert_eq!((refused.0, &body(&refused)["code"]), (409, &json!("configured")));
    assert!(body(&refused)["error"].as_str().expect("text").contains("hansa.toml"));

    ["berlin", "paris", "austin"].into_iter().for_each(|name| mesh.kill(name));
    let austin = mesh.restart("austin");
    assert_runs(austin, "magika");
    assert_eq!(austin.metric("hansa_bundle_bytes_pulled"), 0);
    let removed = delete(austin, "magika");
    assert_eq!(removed.0, 200, "{}", body(&removed));
    assert_eq!(austin.get("/mesh/v1/models"), json!({ "models": [] }));
    assert_eq!(run_at(austin, "magika").0, 404);
    assert_eq!(delete(austin, "magika").0, 404);
    let left = mesh.folder().join("austin/data/bundles");
    assert_eq!(std::fs::read_dir(left).expect("a folder").count(), 0);
}

#[test]
fn a_peer_outside_the_policy_gets_no_byte() {
    let only_eu = "[policy.serve]\nlocations = \"EU\"\n";
    let stranger = Spec { charter: None, ..Spec::new("stranger", "DE", "DE") };
    let mesh = Mesh::with(&[
        Spec { extra: only_eu, ..Spec::new("berlin", "DE", "DE") }.with("magika", magika()),
        Spec::new("austin", "US", "US"),
        Spec { extra: "[policy.send]\nlocations = \"FR\"\n", ..Spec::new("lyon", "FR", "FR") },
        stranger,
        Spec::new("paris", "FR", "FR"),
    ]);
    for (name, why) in [("austin", "its location"), ("stranger", "charter")] {
        let node = mesh.node(name);
        assert_eq!(pull(node, "magika").0, 202);
        let failed = await_state(node, "magika", "failed");
        let error = failed["error"].as_str().expect("a reason");
        assert!(error.contains("does not serve") && error.contains(why), "{name}: {error}");
        let via = ["models", "pull", "magika", "--via", &node.url()];
        let told = run(mesh.folder(), &via);
        assert_eq!(told.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&told.stderr).contains("does not serve"));
    }
    // Its own law forbids to ask: said at once.
    let refused = pull(mesh.node("lyon"), "magika");
    let told = body(&refused);
    assert_eq!((refused.0, &told["failed"]["location"]), (403, &json!(1)), "{told}");
    assert_eq!(mesh.node("berlin").metric("hansa_bundle_bytes_sent"), 0);
    assert_eq!(pull(mesh.node("paris"), "magika").0, 202);
    await_state(mesh.node("paris"), "magika", "serving");
    assert_runs(mesh.node("paris"), "magika");
}

#[test]
fn a_puller_that_is_killed_goes_on_where_it_was_and_fetches_only_what_was_missing() {
    let mut mesh = Mesh::new();
    let (folder, digest) = heavy(&mesh.folder().join("heavy"), 192);
    for (name, place) in [("berlin", "DE"), ("paris", "FR")] {
        mesh.start(&Spec::new(name, place, place).with("heavy", &folder));
    }
    mesh.start(&Spec::new("austin", "US", "US"));
    mesh.await_all(Duration::from_secs(10));
    let austin = mesh.node("austin");
    assert_eq!(pull(austin, "heavy").0, 202);
    let done = await_bytes(austin, 40 * MIB);
    mesh.kill("austin");
    let austin = mesh.restart("austin");
    let served = await_state(austin, "heavy", "serving");
    let total = served["bytes"].as_u64().expect("bytes");
    assert_eq!(served["bundle"], digest.to_string());
    let fetched = austin.metric("hansa_bundle_bytes_pulled");
    eprintln!("{done} of {total} bytes were here at the kill, {fetched} came after it");
    assert!(fetched > 0 && fetched <= total - done, "{fetched} of {total}, {done} were here");
    assert_runs(austin, "heavy");
    let copy = mesh.folder().join(format!("austin/data/bundles/{digest:x}/files"));
    assert_eq!(Bundle::open(&copy).expect("a bundle").digest, digest);
}

#[test]
fn a_holder_that_dies_mid_transfer_is_replaced_by_the_other() {
    let mut mesh = Mesh::new();
    let (folder, digest) = heavy(&mesh.folder().join("heavy"), 128);
    for (name, place) in [("berlin", "DE"), ("paris", "FR")] {
        mesh.start(&Spec::new(name, place, place).with("heavy", &folder));
    }
    mesh.start(&Spec::new("austin", "US", "US"));
    mesh.await_all(Duration::from_secs(10));
    assert_eq!(pull(mesh.node("austin"), "heavy").0, 202);
    await_bytes(mesh.node("austin"), 20 * MIB);
    mesh.kill("berlin");
    let austin = mesh.node("austin");
    let served = await_state(austin, "heavy", "serving");
    assert_eq!(Some(austin.metric("hansa_bundle_bytes_pulled")), served["bytes"].as_u64());
    assert_eq!(austin.metric("hansa_bundle_liars"), 0, "to die is not to lie");
    let copy = mesh.folder().join(format!("austin/data/bundles/{digest:x}/files"));
    assert_eq!(Bundle::open(&copy).expect("a bundle").digest, digest);
}

#[test]
fn a_node_that_may_fetches_what_a_job_needs_and_says_when_to_come_back() {
    let mut mesh = Mesh::new();
    let (folder, _) = heavy(&mesh.folder().join("heavy"), 64);
    mesh.start(&Spec::new("berlin", "DE", "DE").with("heavy", &folder));
    let demanded = "hold = \"demanded\"";
    mesh.start(&Spec { runtime: demanded, ..Spec::new("austin", "US", "US") });
    mesh.start(&Spec::new("boston", "US", "US"));
    let tight = "hold = \"demanded\"\n\
                 devices = [{ provider = \"cpu\", id = 0, memory_mib = 8 }]";
    mesh.start(&Spec { runtime: tight, ..Spec::new("dallas", "US", "US") });
    mesh.await_all(Duration::from_secs(10));
    let austin = mesh.node("austin");
    // Whoever permits berlin is served by berlin, and nothing is fetched.
    let anywhere = json!({"inputs": [{
        "name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": vec![0; 2048],
    }]});
    let answer = austin.infer("heavy", &anywhere, &[]);
    assert_eq!((answer.0, header(&answer, "hansa-executed-by")), (200, "berlin"));
    assert_eq!(austin.get("/mesh/v1/models"), json!({ "models": [] }));
    assert_eq!(run_at(mesh.node("boston"), "heavy").0, 403, "its operator wants no other models");
    let refused = run_at(austin, "heavy");
    let told = body(&refused);
    assert_eq!((refused.0, &told["code"]), (503, &json!("loading")), "{told}");
    assert!(told["percent"].as_u64().is_some_and(|percent| percent <= 100), "{told}");
    assert!(header(&refused, "retry-after").parse::<u32>().expect("seconds") > 0);
    // Others are served meanwhile.
    assert_eq!(header(&austin.infer("heavy", &anywhere, &[]), "hansa-executed-by"), "berlin");
    await_state(austin, "heavy", "serving");
    assert_runs(austin, "heavy");
    // What does not fit is not fetched.
    let dallas = mesh.node("dallas");
    assert_eq!(run_at(dallas, "heavy").0, 503);
    let failed = await_state(dallas, "heavy", "failed");
    assert!(failed["error"].as_str().expect("a reason").contains("memory_mib"), "{failed}");
    assert_eq!(dallas.metric("hansa_bundle_bytes_pulled"), 0);
    assert_eq!(run_at(dallas, "heavy").0, 403);
}

/// Turns over a byte of every MiB of the file, as a disk that rots would.
fn rot(file: &Path) {
    let bytes = std::fs::metadata(file).expect("a file").len();
    let mut file = std::fs::File::options().write(true).open(file).expect("a file");
    for at in (0..bytes).step_by(1 << 20) {
        file.seek(SeekFrom::Start(at)).expect("a place");
        file.write_all(b"\xff\x00\xff\x00\xff").expect("bytes");
    }
}

#[test]
fn a_holder_that_sends_corrupted_chunks_is_found_out_and_avoided() {
    let mut mesh = Mesh::new();
    let (good, digest) = heavy(&mesh.folder().join("good"), 32);
    let (bad, _) = heavy(&mesh.folder().join("bad"), 32);
    mesh.start(&Spec::new("berlin", "DE", "DE").with("heavy", &good));
    mesh.start(&Spec::new("liar", "FR", "FR").with("heavy", &bad));
    mesh.start(&Spec::new("austin", "US", "US"));
    // This one may take from the liar alone.
    let extra = "[policy.send]\noperators = \"liar\"\n";
    mesh.start(&Spec { extra, ..Spec::new("lonely", "US", "US") });
    mesh.await_all(Duration::from_secs(10));
    rot(&bad.join("weights.bin"));

    let austin = mesh.node("austin");
    assert_eq!(pull(austin, "heavy").0, 202);
    await_state(austin, "heavy", "serving");
    assert_eq!(austin.metric("hansa_bundle_liars"), 1, "the liar was asked and found out, once");
    let copy = mesh.folder().join(format!("austin/data/bundles/{digest:x}/files"));
    assert_eq!(Bundle::open(&copy).expect("a bundle").digest, digest);
    assert_runs(austin, "heavy");

    let lonely = mesh.node("lonely");
    assert_eq!(pull(lonely, "heavy").0, 202);
    let failed = await_state(lonely, "heavy", "failed");
    let error = failed["error"].as_str().expect("a reason");
    assert!(error.contains("no holder is left"), "{error}");
    assert!(error.contains("not what the manifest says"), "{error}");
    assert_eq!(run_at(lonely, "heavy").0, 403, "it serves nothing");
}

#[test]
fn a_model_that_the_config_names_by_digest_comes_when_somebody_holds_it() {
    let mut mesh = Mesh::new();
    let digest = Bundle::open(&magika()).expect("a bundle").digest;
    let extra = format!("[[model]]\nname = \"magika\"\nversion = \"1\"\nbundle = \"{digest}\"\n");
    mesh.start(&Spec { extra: extra.leak(), ..Spec::new("austin", "US", "US") });
    let austin = mesh.node("austin");
    assert_eq!(austin.get("/health/ready"), Value::Null, "it is up meanwhile");
    await_state(austin, "magika", "waiting");
    assert_eq!(delete(austin, "magika").0, 409);
    mesh.start(&Spec::new("berlin", "DE", "DE").with("magika", magika()));
    await_state(mesh.node("austin"), "magika", "serving");
    assert_runs(mesh.node("austin"), "magika");
}

#[test]
fn a_model_is_added_listed_and_removed_by_command() {
    let mut mesh = Mesh::with(&[Spec::new("austin", "US", "US")]);
    let via = mesh.node("austin").url();
    let path = magika().display().to_string();
    let add = ["models", "add", &path, "--name", "types", "--version", "3", "--via", &via];
    let added = run_json(mesh.folder(), &[&add[..], &["--json"]].concat());
    assert_eq!((&added["state"], &added["version"]), (&json!("serving"), &json!("3")));
    assert_runs(mesh.node("austin"), "types");
    let listed = run(mesh.folder(), &["models", "ls", "--via", &via]);
    let table = String::from_utf8(listed.stdout).expect("text");
    assert!(table.contains("types") && table.contains("serving"), "{table}");
    let again = ["models", "add", &path, "--name", "other", "--via", &via];
    let refused = run(mesh.folder(), &again);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("same bundle as `types`"));
    let nothing = run(mesh.folder(), &["models", "add", "/nowhere", "--name", "x", "--via", &via]);
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("does not exist"));
    mesh.kill("austin");
    let via = mesh.restart("austin").url();
    assert_runs(mesh.node("austin"), "types");
    let removed = run_json(mesh.folder(), &["models", "rm", "types", "--via", &via, "--json"]);
    assert_eq!(removed["removed"][0]["name"], "types", "{removed}");
    let listed = run_json(mesh.folder(), &["models", "ls", "--via", &via, "--json"]);
    assert_eq!(listed, json!({ "models": [] }));
    assert_eq!(
        run(mesh.folder(), &["models", "ls", "--via", "127.0.0.1:1"]).status.code(),
        Some(69)
    );
}

#[test]
fn an_api_that_others_reach_changes_no_models() {
    let mesh = Mesh::new();
    let config = mesh.prepare(&Spec::new("austin", "US", "US"));
    let text = std::fs::read_to_string(&config).expect("a config");
    let text = text.replace("http = \"127.0.0.1:0\"", "http = \"0.0.0.0:0\"\nplaintext = true");
    std::fs::write(&config, text).expect("a config");
    let mut node = launch("austin", &config);
    let port = node.url().rsplit(':').next().expect("a port").to_owned();
    node.addresses["http"] = format!("http://127.0.0.1:{port}").into();
    let gift = json!({ "path": magika(), "name": "types" });
    let answers = [pull(&node, "x"), post(&node, "add", &gift), delete(&node, "x")];
    for answer in answers {
        assert_eq!((answer.0, &body(&answer)["code"]), (403, &json!("admin_only")));
    }
    assert_eq!(node.get("/mesh/v1/models"), json!({ "models": [] }));
    // A page whose name leads here by DNS speaks of itself.
    let solo = Mesh::with(&[Spec::new("berlin", "DE", "DE")]);
    let url = format!("{}/mesh/v1/models/pull", solo.node("berlin").url());
    let headers = [("host", "evil.example"), ("content-type", "application/json")];
    assert_eq!(request("POST", &url, &headers, b"{\"model\":\"x\"}").0, 403);
    // And what a web page may send without asking is not taken anywhere.
    let plain = request("POST", &format!("{}/mesh/v1/models/add", node.url()), &[], b"{}");
    assert_eq!(plain.0, 403);
}
