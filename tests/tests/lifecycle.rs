//! Models come, change and go while jobs run, and no job notices: a repository's folder that is
//! polled, one that is loaded from by name; what is configured and not there; who waits for whom.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hansa_tests::mesh::{Answer, Mesh, Node, Spec, header, launch, request};
use hansa_tests::onnx::{self, Message};
use hansa_tests::run_json;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

/// A model whose answers tell which one it is.
fn model(seed: u64) -> Message {
    onnx::layers(2, 16, seed)
}

fn question() -> Value {
    let x = vec![0.5; 16];
    json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": x}]})
}

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.2).unwrap_or(Value::Null)
}

/// Puts a version into a repository at once, as a move within a file system does.
fn put(models: &Path, name: &str, version: &str, model: &Message) {
    let (half, whole) = (models.join(".half"), models.join(name).join(version));
    fs::create_dir_all(&half).expect("a folder");
    onnx::write(&half, model);
    fs::create_dir_all(whole.parent().expect("a model's")).expect("a folder");
    fs::rename(&half, whole).expect("it moves");
}

/// A node with a repository of its own; gives the node and the folder.
fn with_repository(mesh: &mut Mesh, spec: &Spec, fill: impl FnOnce(&Path)) -> PathBuf {
    let config = mesh.prepare(spec);
    let models = config.parent().expect("a home").join("models");
    fs::create_dir_all(&models).expect("a folder");
    fill(&models);
    mesh.nodes.push(launch(spec.name, &config));
    models
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Version that answers, and what it answers.
type Told = (String, Value);

/// Asks the nodes without a pause while `work` goes on. All must answer; gives what they told, each
/// answer that differs from the one before.
fn under_traffic(nodes: &[&Node], name: &str, work: impl FnOnce(&Mutex<Vec<Told>>)) -> Vec<Told> {
    let (told, is_over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let asked = thread::scope(|scope| {
        let askers: Vec<_> = nodes
            .iter()
            .flat_map(|node| [node; 2])
            .map(|node| {
                scope.spawn(|| {
                    let mut asked = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        let answer = node.infer(name, &question(), &[]);
                        let body = body(&answer);
                        assert_eq!(answer.0, 200, "via {}, after {asked}: {body}", node.name);
                        let version = body["model_version"].as_str().expect("one").to_owned();
                        let data = body["outputs"][0]["data"].clone();
                        let mut told = told.lock().expect("no asker panics with it");
                        if told.iter().all(|known: &Told| known.1 != data || known.0 != version) {
                            told.push((version, data));
                        }
                        asked += 1;
                    }
                    asked
                })
            })
            .collect();
        let over = Over(&is_over);
        work(&told);
        drop(over);
        askers.into_iter().map(|asker| asker.join().expect("every job is answered")).sum::<u32>()
    });
    eprintln!("{asked} jobs were answered");
    told.into_inner().expect("no asker panicked")
}

/// The traffic ends however the work does.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn versions(told: &Mutex<Vec<Told>>) -> Vec<String> {
    told.lock().expect("no asker panics").iter().map(|told| told.0.clone()).collect()
}

const POLLED: &str = "[repository]\ndir = \"models\"\ncontrol = \"poll\"\npoll_s = 1\n";

#[test]
fn versions_come_change_and_go_in_a_polled_folder_and_no_job_fails() {
    let mut mesh = Mesh::new();
    let polled = Spec { extra: POLLED, ..Spec::new("berlin", "DE", "DE") };
    let models = with_repository(&mut mesh, &polled, |models| {
        put(models, "m", "1", &model(1));
        put(models, "broken", "1", &Message(b"no model".to_vec()));
    });
    mesh.start(&Spec::new("paris", "FR", "FR"));
    mesh.await_all(PATIENCE);
    let (berlin, paris) = (mesh.node("berlin"), mesh.node("paris"));
    until("paris knows the model", || paris.infer("m", &question(), &[]).0 == 200);
    // What does not load is told, and keeps the node from being ready for a balancer that is strict.
    let index = || request("POST", &format!("{}/v2/repository/index", berlin.url()), &[], b"");
    let row = |name: &str| {
        let rows = body(&index());
        rows.as_array().expect("rows").iter().find(|row| row["name"] == name).cloned()
    };
    assert_eq!(row("broken").expect("a row")["state"], "UNAVAILABLE");
    let ready = |path: &str| request("GET", &format!("{}{path}", berlin.url()), &[], b"").0;
    assert_eq!((ready("/v2/health/ready"), ready("/health/ready")), (503, 200));
    fs::remove_dir_all(models.join("broken")).expect("it goes");
    until("the node is ready", || ready("/v2/health/ready") == 200);
    assert_eq!(row("broken"), None);

    let told = under_traffic(&[berlin, paris], "m", |told| {
        put(&models, "m", "2", &model(2));
        until("version 2 answers", || versions(told).contains(&"2".to_owned()));
        // The same version with other content.
        fs::rename(models.join("m/2"), models.join(".old")).expect("it moves");
        put(&models, "m", "2", &model(3));
        until("the new version 2 answers", || versions(told).len() == 3);
        // One that does not load leaves what is there.
        put(&models, "m", "3", &Message(b"no model".to_vec()));
        until("version 3 is tried", || ready("/v2/health/ready") == 503);
        thread::sleep(Duration::from_secs(2));
        // Back to the first.
        fs::remove_dir_all(models.join("m/3")).expect("it goes");
        fs::remove_dir_all(models.join("m/2")).expect("it goes");
        until("version 1 is served", || row("m").expect("a row")["version"] == "1");
        thread::sleep(Duration::from_secs(2));
    });
    let answers: Vec<&str> = told.iter().map(|told| &*told.0).collect();
    assert_eq!(answers, ["1", "2", "2"]);
    assert_ne!(told[1].1, told[2].1);

    // How it is served is its configuration's to say.
    let two = "version_policy { all { } } max_batch_size: 4";
    put(&models, "m", "2", &model(2));
    fs::write(models.join("m/config.pbtxt"), two).expect("it is written");
    let of = |version: &str| {
        let url = format!("{}/v2/models/m/versions/{version}/infer", berlin.url());
        request("POST", &url, &[], question().to_string().as_bytes()).0
    };
    until("both are served", || (of("1"), of("2")) == (200, 200));
    let load = format!("{}/v2/repository/models/m/load", berlin.url());
    let refused = request("POST", &load, &[], b"");
    assert_eq!(refused.0, 409, "{}", body(&refused));
    fs::remove_dir_all(models.join("m")).expect("it goes");
    until("it is gone", || berlin.infer("m", &question(), &[]).0 == 404);
}

const EXPLICIT: &str = "[repository]\ndir = \"models\"\ncontrol = \"explicit\"\n";

#[test]
fn models_are_loaded_by_name_anew_and_unloaded_and_no_job_fails() {
    let mut mesh = Mesh::new();
    let explicit = Spec { extra: EXPLICIT, ..Spec::new("oslo", "NO", "NO") };
    let models = with_repository(&mut mesh, &explicit, |models| put(models, "m", "1", &model(1)));
    let oslo = mesh.node("oslo");
    let change = |what: &str, parameters: Value| {
        let url = format!("{}/v2/repository/models/m/{what}", oslo.url());
        let body = json!({ "parameters": parameters }).to_string();
        request("POST", &url, &[], body.as_bytes())
    };
    assert_eq!(oslo.infer("m", &question(), &[]).0, 404);
    assert_eq!(change("load", json!({})).0, 200);
    let told = under_traffic(&[oslo], "m", |told| {
        until("it answers", || versions(told).len() == 1);
        // Anew and otherwise, three times.
        for instances in [2, 1, 2] {
            let config = json!({ "max_batch_size": 8, "instance_group": { "count": instances } });
            let loaded = change("load", json!({ "config": config.to_string() }));
            assert_eq!(loaded.0, 200, "{}", body(&loaded));
        }
        put(&models, "m", "2", &model(2));
        assert_eq!(change("load", json!({})).0, 200);
        until("version 2 answers", || versions(told).contains(&"2".to_owned()));
    });
    assert_eq!(told.len(), 2);

    // Every job that was taken before it is unloaded is answered; after that nobody has the model.
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let mut last = 200;
            while !is_over.load(Ordering::Relaxed) {
                let answer = oslo.infer("m", &question(), &[]);
                assert!(matches!(answer.0, 200 | 404), "{} {}", answer.0, body(&answer));
                assert!(last != 404 || answer.0 == 404, "once gone it stays gone");
                last = answer.0;
            }
            last
        });
        let over = Over(&is_over);
        thread::sleep(Duration::from_millis(300));
        assert_eq!(change("unload", json!({})).0, 200);
        assert_eq!(oslo.infer("m", &question(), &[]).0, 404, "at once");
        thread::sleep(Duration::from_millis(300));
        drop(over);
        assert_eq!(asker.join().expect("no job fails otherwise"), 404);
    });
    assert_eq!(change("load", json!({})).0, 200);
    assert_eq!(oslo.infer("m", &question(), &[]).0, 200, "at once");

    for (parameters, reason) in [
        (json!({ "file:1/model.onnx": "AAAA" }), "files do not come with a load"),
        (json!({ "config": "{\"optimization\": {}}" }), "optimization"),
        (json!({ "config": "max_batch_size: 1" }), "config"),
        (json!({ "priority": 1 }), "config is known"),
    ] {
        let refused = change("load", parameters);
        assert_eq!(refused.0, 400);
        assert!(body(&refused)["error"].as_str().expect("a text").contains(reason));
    }
}

#[test]
fn a_node_is_ready_by_the_protocol_only_with_all_that_its_config_names() {
    let mut mesh = Mesh::new();
    let extra = "[[model]]\nname = \"absent\"\nbundle = \
                 \"sha256:0000000000000000000000000000000000000000000000000000000000000000\"\n";
    mesh.start(&Spec { extra, ..Spec::new("oslo", "NO", "NO") });
    let ready =
        |path: &str| request("GET", &format!("{}{path}", mesh.node("oslo").url()), &[], b"").0;
    assert_eq!((ready("/health/ready"), ready("/v2/health/ready")), (200, 503));
    assert_eq!(ready("/v2/health/live"), 200);
}

#[test]
fn who_asks_the_same_gets_the_kept_answer_unless_nothing_may_be_kept() {
    let mut mesh = Mesh::new();
    let extra = "[[model]]\nname = \"m\"\npath = \"model.onnx\"\ncache = true\n";
    let config = mesh.prepare(&Spec { extra, ..Spec::new("berlin", "DE", "DE") });
    onnx::write(config.parent().expect("a home"), &model(1));
    mesh.nodes.push(launch("berlin", &config));
    mesh.start(&Spec::new("paris", "FR", "FR"));
    mesh.await_all(PATIENCE);
    let (berlin, paris) = (mesh.node("berlin"), mesh.node("paris"));
    let runs = || {
        let stats = berlin.get("/v2/models/m/stats");
        stats["model_stats"][0]["execution_count"].as_u64().expect("a number")
    };
    let provider = |node: &Node, answer: &Answer| {
        let id = header(answer, "hansa-receipt").to_owned();
        let (_, _, receipt) =
            request("GET", &format!("{}/mesh/v1/receipts/{id}", node.url()), &[], b"");
        let path = mesh.folder().join("receipt.txt");
        fs::write(&path, receipt).expect("it is written");
        let path = path.display().to_string();
        let authorities = mesh.folder().join("authorities");
        let trusted =
            format!("{} {{ countries = [\"*\"], operators = [\"*\"] }}\n", mesh.authority());
        fs::write(&authorities, trusted).expect("it is written");
        let authorities = authorities.display().to_string();
        let arguments = ["receipt", "verify", &path, "--authorities", &authorities, "--json"];
        run_json(mesh.folder(), &arguments).to_string()
    };
    until("paris knows the model", || paris.infer("m", &question(), &[]).0 == 200);
    let first = berlin.infer("m", &question(), &[]);
    let before = runs();
    for node in [berlin, paris, berlin] {
        let again = node.infer("m", &question(), &[]);
        assert_eq!((again.0, &body(&again)["outputs"]), (200, &body(&first)["outputs"]));
    }
    assert_eq!((runs(), berlin.metric("hansa_answers_reused_total") >= 3), (before, true));
    let again = berlin.infer("m", &question(), &[]);
    assert!(provider(berlin, &again).contains("\"provider\":\"cache\""), "its receipt says so");
    for headers in [("Hansa-Retention", "none"), ("Hansa-Purpose", "care")] {
        let reused = berlin.metric("hansa_answers_reused_total");
        berlin.infer("m", &question(), &[headers]);
        assert_eq!(berlin.metric("hansa_answers_reused_total"), reused, "{headers:?}");
    }
    let kept_out = berlin.infer("m", &question(), &[("Hansa-Retention", "none")]);
    assert_eq!(kept_out.0, 200);
    assert_eq!(runs(), before + 2, "each of the two that keep nothing ran");
    // Only who may use the peer that ran it gets its answer.
    let elsewhere = paris.infer("m", &question(), &[("Hansa-Locations", "FR")]);
    assert_eq!(elsewhere.0, 403, "{}", body(&elsewhere));
}

#[test]
fn an_urgent_job_overtakes_where_it_waits_also_on_another_peer() {
    let mut mesh = Mesh::new();
    let extra =
        "[[model]]\nname = \"counter\"\npath = \"counter.onnx\"\nbatch = { priorities = 2 }\n";
    let spec = Spec { extra, ..Spec::new("berlin", "DE", "DE") };
    let config = mesh.prepare(&spec);
    let path = config.with_file_name("counter.onnx");
    fs::write(path, onnx::counter()).expect("a model");
    mesh.nodes.push(launch("berlin", &config));
    mesh.start(&Spec::new("paris", "FR", "FR"));
    mesh.await_all(PATIENCE);
    let (berlin, paris) = (mesh.node("berlin"), mesh.node("paris"));
    let ready = format!("{}/v2/models/counter/ready", paris.url());
    until("paris knows the model", || request("GET", &ready, &[], b"").0 == 200);
    // Counts for as long as it may, unless it is to count to less.
    let count = |to: i64, priority: u64, deadline_ms: &str| {
        let input = json!({"name": "count", "datatype": "INT64", "shape": [], "data": [to]});
        let body = json!({"inputs": [input], "parameters": {"priority": priority}});
        let answer = paris.infer("counter", &body, &[("Hansa-Deadline-Ms", deadline_ms)]);
        (answer.0, Instant::now())
    };
    let waiting = |count| {
        until("it waits at berlin", || berlin.metric("hansa_engine_queued") == count);
    };
    thread::scope(|scope| {
        let first = scope.spawn(|| count(i64::MAX, 0, "8000"));
        until("the first one runs", || berlin.metric("hansa_engine_running") == 1);
        let ordinary = scope.spawn(|| count(i64::MAX, 0, "16000"));
        waiting(1);
        let urgent = scope.spawn(|| count(1, 1, "30000"));
        waiting(2);
        let [first, ordinary, urgent] =
            [first, ordinary, urgent].map(|job| job.join().expect("it is answered"));
        // The first runs for as long as it may, so that the urgent one waited for it.
        assert_eq!([first.0, ordinary.0, urgent.0], [504, 504, 200]);
        assert!(urgent.1 < ordinary.1, "it waits for no less urgent one");
    });
}
