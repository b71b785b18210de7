//! Money between real processes: who may run a job that may cost so much, what its answer says that it
//! costs, and that nobody is paid more.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hansa_tests::mesh::{Answer, Mesh, Node, Spec, header};
use hansa_tests::{onnx, run, run_json};
use serde_json::{Value, json};

const WIDTH: usize = 64;
const CHEAP: &str = "[price]\ncurrency = \"EUR\"\nper_device_second = 0.01\nper_gb = 0.1\n";
const DEAR: &str = "[price]\ncurrency = \"EUR\"\nper_device_second = 900\n";
const FOREIGN: &str = "[price]\ncurrency = \"USD\"\nper_device_second = 0.01\n";

/// A model of `layers` layers.
fn model(folder: &Path, layers: usize) -> PathBuf {
    onnx::write(folder, &onnx::layers(layers, WIDTH, 7))
}

/// The same spec at a price.
fn at(spec: Spec, extra: &'static str) -> Spec {
    Spec { extra, ..spec }
}

fn question(rows: usize) -> Value {
    let x: Vec<f32> = (0..rows * WIDTH).map(|i| ((i * 37) % 100) as f32 / 50.0 - 1.0).collect();
    json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, WIDTH], "data": x}]})
}

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.2).expect("JSON")
}

/// Who ran it, and what it cost in millionths of which currency.
fn bill(answer: &Answer) -> (&str, u64, &str) {
    assert_eq!(answer.0, 200, "{}", body(answer));
    let price = header(answer, "hansa-price");
    let (amount, currency) = price.split_once(' ').unwrap_or(("0.000000", ""));
    let micros = amount.replace('.', "").parse().expect("six decimal places");
    (header(answer, "hansa-executed-by"), micros, currency)
}

/// Waits until a job is answered: stages need a moment to be known everywhere.
fn await_answer(mut ask: impl FnMut() -> Answer) -> Answer {
    let started = Instant::now();
    loop {
        let answer = ask();
        if answer.0 == 200 {
            return answer;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{}", body(&answer));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Refused since every holder asks too much.
fn too_dear(answer: &Answer, holders: u64) {
    let told = body(answer);
    assert_eq!((answer.0, &told["code"]), (403, &json!("policy_unsatisfiable")), "{told}");
    assert_eq!(told["failed"], json!({"price": holders}), "{told}");
}

fn charged(nodes: &[&Node]) -> u64 {
    nodes.iter().map(|node| node.metric("hansa_charged_micros_total")).sum()
}

#[test]
fn a_job_goes_to_whom_it_can_pay_and_its_answer_says_the_price() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = model(folder.path(), 4);
    let holder = |name, place| Spec::new(name, place, place).with("deep", &path);
    let mesh = Mesh::with(&[
        at(holder("berlin", "DE"), CHEAP),
        at(holder("paris", "FR"), DEAR),
        at(holder("austin", "US"), FOREIGN),
        Spec::new("zurich", "CH", "CH"),
        at(Spec::new("oslo", "NO", "NO"), "[policy]\nmax_price = \"0 EUR\"\n"),
    ]);
    let (entry, berlin) = (mesh.node("zurich"), mesh.node("berlin"));
    let ask = |max: &str| entry.infer("deep", &question(3), &[("Hansa-Max-Price", max)]);
    let mut paid = 0;
    for _ in 0..20 {
        let answer = ask("0.001 EUR");
        let (by, micros, currency) = bill(&answer);
        assert_eq!((by, currency), ("berlin", "EUR"));
        assert!((1..=1_000).contains(&micros), "{micros}");
        paid += micros;
    }
    // As a parameter it means the same, and what was paid is what was charged.
    let mut asked = question(3);
    asked["parameters"] = json!({"max_price": "0.001 EUR"});
    let answer = entry.infer("deep", &asked, &[]);
    assert_eq!(bill(&answer).0, "berlin");
    paid += bill(&answer).1;
    assert_eq!(entry.metric("hansa_paid_micros_total"), paid);
    assert_eq!(charged(&[berlin]), paid);
    // In the other's currency, the other.
    let answer = ask("0.001 USD");
    assert_eq!((bill(&answer).0, bill(&answer).2), ("austin", "USD"));
    too_dear(&ask("0 EUR"), 3);
    too_dear(&ask("5 GBP"), 3);
    // An entry's own limit is not widened by a request.
    let narrow = mesh.node("oslo");
    too_dear(&narrow.infer("deep", &question(1), &[]), 3);
    too_dear(&narrow.infer("deep", &question(1), &[("Hansa-Max-Price", "9 EUR")]), 3);
    // By the node that asks a price for it, its own apps pay like others.
    let own = berlin.infer("deep", &question(1), &[("Hansa-Max-Price", "0.001 EUR")]);
    assert_eq!((bill(&own).0, bill(&own).2), ("berlin", "EUR"));
    let own = mesh.node("paris").infer("deep", &question(1), &[("Hansa-Max-Price", "0.001 EUR")]);
    assert_eq!(bill(&own).0, "berlin");

    let plan = entry.get("/mesh/v1/plan?model=deep&max_price=0.001%20EUR");
    let peer = |name: &str| {
        let peers = plan["peers"].as_array().expect("peers");
        peers.iter().find(|peer| peer["name"] == name).cloned().expect("a peer")
    };
    assert_eq!(plan["plan"]["to"], "berlin", "{plan}");
    assert_eq!(peer("paris")["gated_out"]["rule"], "price", "{plan}");
    assert_eq!(peer("austin")["gated_out"]["detail"], "it asks USD, and the job's limit is in EUR");
    assert!(peer("berlin")["price_micros"]["EUR"].as_u64() > Some(0), "{plan}");
    let forms = plan["forms"].as_array().expect("forms");
    let chosen: Vec<&Value> = forms.iter().filter(|form| form["chosen"] == true).collect();
    assert_eq!((chosen.len(), &chosen[0]["form"]), (1, &json!("forward")), "{plan}");

    // And by the commands.
    let url = entry.url();
    let words = ["--via", &url, "--max-price", "0.001 EUR"];
    let shown = run(folder.path(), &[&["plan", "deep"][..], &words].concat());
    let shown = String::from_utf8(shown.stdout).expect("text");
    assert!(shown.contains("goes to berlin") && shown.contains("it would ask"), "{shown}");
    let input = format!("x={}", question(1)["inputs"][0]["data"]).replace("x=[", "x=[[") + "]";
    let words = [&["infer", "deep", "--input", &input, "--json"][..], &words].concat();
    let done = run_json(folder.path(), &words);
    assert!(done["price"].as_str().expect("a price").ends_with(" EUR"), "{done}");
    let peers = run(folder.path(), &["peers", "--via", &url]);
    let peers = String::from_utf8(peers.stdout).expect("text");
    assert!(peers.contains("900 EUR/s") && peers.contains("0.1 EUR/GB"), "{peers}");
}

#[test]
fn a_deadline_that_leaves_time_sends_the_job_to_the_cheaper_and_it_stays_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = model(folder.path(), 4);
    let mesh = Mesh::with(&[
        at(Spec::new("berlin", "DE", "DE").with("deep", &path), DEAR),
        at(Spec::new("paris", "FR", "FR").with("deep", &path), CHEAP),
        Spec::new("zurich", "CH", "CH"),
    ]);
    // Also through the dear one itself, which could run it at once.
    for entry in [mesh.node("zurich"), mesh.node("berlin")] {
        for _ in 0..10 {
            let answer = entry.infer("deep", &question(1), &[("Hansa-Deadline-Ms", "20000")]);
            assert_eq!(bill(&answer).0, "paris", "via {}", entry.name);
        }
    }
    let hasty = mesh.node("berlin").infer("deep", &question(1), &[]);
    assert_eq!(bill(&hasty).0, "berlin");
}

#[test]
fn the_parts_of_a_split_stay_together_within_the_limit() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = model(folder.path(), 6);
    let (file, out) = (path.display().to_string(), folder.path().join("stages"));
    let dir = out.display().to_string();
    run_json(folder.path(), &["models", "cut", &file, "--stages", "2", "--out", &dir, "--json"]);
    let stage = |number: usize| out.join(format!("stage-{number}"));
    let mesh = Mesh::with(&[
        at(Spec::new("berlin", "DE", "DE").with("deep", stage(0)).with("whole", &path), CHEAP),
        at(Spec::new("paris", "FR", "FR").with("deep", stage(1)).with("whole", &path), CHEAP),
        at(Spec::new("lyon", "FR", "FR").with("deep", stage(1)).with("whole", &path), DEAR),
        Spec::new("zurich", "CH", "CH"),
    ]);
    let entry = mesh.node("zurich");
    let payees = [mesh.node("berlin"), mesh.node("paris")];
    let staged = |max: &str| {
        let headers = [("Hansa-Max-Price", max), ("Hansa-Split", "stages")];
        entry.infer("deep", &question(3), &headers)
    };
    await_answer(|| staged("0.002 EUR"));
    for _ in 0..10 {
        let before = charged(&payees);
        let answer = staged("0.002 EUR");
        let (by, micros, currency) = bill(&answer);
        assert_eq!((by, currency), ("berlin, paris", "EUR"));
        // What both stages charge is what the entry is told, and both asked something.
        assert_eq!(charged(&payees) - before, micros);
        assert!((2..=2_000).contains(&micros), "{micros}");
    }
    let told = body(&staged("0.000001 EUR"));
    assert!(told["failed"]["price"].as_u64() > Some(0), "{told}");
    let plan = entry.get("/mesh/v1/plan?model=deep&split=stages&max_price=0.002%20EUR");
    let peers = plan["peers"].as_array().expect("peers");
    let lyon = peers.iter().find(|peer| peer["name"] == "lyon").expect("a peer");
    assert_eq!(lyon["gated_out"]["rule"], "price", "{plan}");
    let paris = peers.iter().find(|peer| peer["name"] == "paris").expect("a peer");
    assert!(paris["gated_out"].is_null() && paris["stages"][0]["from"].is_u64(), "{plan}");

    let rows = |max: &str| {
        let headers = [("Hansa-Max-Price", max), ("Hansa-Split", "rows")];
        entry.infer("whole", &question(64), &headers)
    };
    let before = charged(&payees);
    let answer = rows("0.05 EUR");
    let (by, micros, currency) = bill(&answer);
    let by: std::collections::BTreeSet<&str> = by.split(", ").collect();
    assert_eq!((by, currency), (["berlin", "paris"].into(), "EUR"));
    assert_eq!(charged(&payees) - before, micros);
    let told = body(&rows("0.000001 EUR"));
    assert!(told["failed"]["price"].as_u64() > Some(0), "{told}");
}
