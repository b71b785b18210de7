//! Batches scattered over real processes: that they give what one peer gives for the whole, where
//! their rows may go, and what happens when a peer dies among them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hansa_runtime::models;
use hansa_runtime::wheel::Progress;
use hansa_tests::mesh::{Answer, Mesh, Node, Spec, header, request};
use hansa_tests::onnx;
use serde_json::{Value, json};

fn magika() -> PathBuf {
    models::magika(Progress::Stderr).expect("magika can be fetched").join("model.onnx")
}

fn silero() -> PathBuf {
    models::silero_vad(Progress::Stderr).expect("silero can be fetched").join("model.onnx")
}

/// An input: name, datatype, shape, bytes.
type Input = (&'static str, &'static str, Vec<usize>, Vec<u8>);

/// So many rows for magika, each of other bytes.
fn files(rows: usize) -> Vec<Input> {
    let byte = |i: usize| i32::try_from((i / 2048 * 7919 + i % 2048 * 31 + i % 7) % 257).unwrap();
    let data = (0..rows * 2048).flat_map(|i| byte(i).to_le_bytes()).collect();
    vec![("bytes", "INT32", vec![rows, 2048], data)]
}

/// So many sounds for silero-vad, each with a state of its own, which lies along axis 1.
fn sounds(rows: usize) -> Vec<Input> {
    let floats = |count: usize, step: f32, size: f32| -> Vec<u8> {
        (0..count).flat_map(|i| ((i as f32 * step).sin() * size).to_le_bytes()).collect()
    };
    vec![
        ("sr", "INT64", vec![], 16_000i64.to_le_bytes().to_vec()),
        ("state", "FP32", vec![2, rows, 128], floats(2 * rows * 128, 0.7, 0.1)),
        ("input", "FP32", vec![rows, 576], floats(rows * 576, 0.013, 0.5)),
    ]
}

/// Asks with binary tensors and for binary tensors.
fn ask(url: &str, model: &str, inputs: &[Input], headers: &[(&str, &str)]) -> Answer {
    let describe = |(name, datatype, shape, data): &Input| {
        json!({"name": name, "datatype": datatype, "shape": shape,
               "parameters": {"binary_data_size": data.len()}})
    };
    let inputs_json: Vec<Value> = inputs.iter().map(describe).collect();
    let parameters = json!({"binary_data_output": true});
    let mut body =
        json!({"inputs": inputs_json, "parameters": parameters}).to_string().into_bytes();
    let length = body.len().to_string();
    inputs.iter().for_each(|(_, _, _, data)| body.extend_from_slice(data));
    let mut all = vec![("Inference-Header-Content-Length", &*length)];
    all.extend_from_slice(headers);
    request("POST", &format!("{url}/v2/models/{model}/infer"), &all, &body)
}

fn send(node: &Node, model: &str, inputs: &[Input], split: &str) -> Answer {
    ask(&node.url(), model, inputs, &[("Hansa-Split", split), ("Hansa-Deadline-Ms", "60000")])
}

fn error(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.2).expect("JSON")
}

/// Shapes and numbers of the outputs, in their order.
fn outputs(answer: &Answer) -> Vec<(Value, Vec<f32>)> {
    assert_eq!(answer.0, 200, "{}", String::from_utf8_lossy(&answer.2));
    let length: usize = header(answer, "inference-header-content-length").parse().expect("binary");
    let (json, mut data) = answer.2.split_at(length);
    let json: Value = serde_json::from_slice(json).expect("JSON");
    let mut outputs = Vec::new();
    for output in json["outputs"].as_array().expect("outputs") {
        let size = output["parameters"]["binary_data_size"].as_u64().expect("a size");
        let (own, rest) = data.split_at(usize::try_from(size).expect("a size"));
        let floats = own.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
        outputs.push((output["shape"].clone(), floats));
        data = rest;
    }
    outputs
}

fn assert_same(answer: &Answer, whole: &Answer) {
    for ((shape, floats), (expected, others)) in outputs(answer).iter().zip(outputs(whole)) {
        assert_eq!(*shape, expected);
        let apart = floats.iter().zip(&others).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-5, "{apart}");
        let first = &others[..others.len().min(2)];
        assert!(others.windows(2).any(|pair| pair != first), "all the same shows nothing");
    }
}

fn executed_by(answer: &Answer) -> BTreeSet<&str> {
    header(answer, "hansa-executed-by").split(", ").collect()
}

/// What a counter of a node stands at.
fn counter(node: &Node, name: &str) -> u64 {
    let answer = request("GET", &format!("{}/metrics", node.url()), &[], b"");
    let text = String::from_utf8(answer.2).expect("text");
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn a_batch_scattered_over_four_nodes_is_the_unsplit_batch() {
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("magika", magika()),
        Spec::new("paris", "FR", "FR").with("magika", magika()),
        Spec::new("dublin", "IE", "US").with("magika", magika()),
        Spec::new("vienna", "AT", "AT").with("magika", magika()),
        Spec::new("zurich", "CH", "CH"),
    ]);
    let batch = files(512);
    for entry in [mesh.node("zurich"), mesh.node("berlin")] {
        let whole = send(entry, "magika", &batch, "never");
        assert_eq!(executed_by(&whole).len(), 1);
        let before = counter(entry, "hansa_rows_shards_total");
        for split in ["rows", "auto"] {
            let answer = send(entry, "magika", &batch, split);
            assert_same(&answer, &whole);
            assert!(executed_by(&answer).len() > 1, "{split}: {:?}", executed_by(&answer));
            assert!(header(&answer, "hansa-executed-in").contains(", "));
        }
        assert!(counter(entry, "hansa_rows_shards_total") >= before + 4);
    }
    // What is small stays whole, and the plan says both before anything is sent.
    let entry = mesh.node("zurich");
    let few = files(2);
    let small = send(entry, "magika", &few, "auto");
    assert_same(&small, &send(entry, "magika", &few, "rows"));
    assert_eq!(executed_by(&small).len(), 1);
    assert_eq!(entry.get("/mesh/v1/plan?model=magika&rows=2")["plan"]["kind"], "forward");
    let plan = entry.get("/mesh/v1/plan?model=magika&rows=512&bytes=4194304");
    let (chosen, shares) = (&plan["plan"], plan["plan"]["shares"].as_array());
    assert_eq!(chosen["kind"], "rows", "{plan}");
    let rows: u64 = shares.expect("shares").iter().filter_map(|s| s["rows"].as_u64()).sum();
    assert_eq!(rows, 512, "{plan}");
    assert!(chosen["cost_us"].as_u64() < chosen["alone_us"].as_u64(), "{plan}");
}

#[test]
fn a_batch_whose_state_has_its_rows_on_another_axis_is_put_together_right() {
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("vad", silero()),
        Spec::new("paris", "FR", "FR").with("vad", silero()),
        Spec::new("vienna", "AT", "AT").with("vad", silero()),
    ]);
    let batch = sounds(41);
    let entry = mesh.node("paris");
    let whole = send(entry, "vad", &batch, "never");
    let split = send(entry, "vad", &batch, "rows");
    assert_same(&split, &whole);
    assert_eq!(outputs(&split)[1].0, json!([2, 41, 128]));
    assert!(executed_by(&split).len() > 1);
}

#[test]
fn no_row_goes_where_the_policy_forbids() {
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("magika", magika()),
        Spec::new("austin", "US", "US").with("magika", magika()),
        Spec::new("boston", "US", "US").with("magika", magika()),
        Spec::new("vienna", "AT", "AT").with("magika", magika()),
    ]);
    let batch = files(200);
    for entry in [mesh.node("austin"), mesh.node("berlin")] {
        for (key, value) in [("Hansa-Locations", "EU"), ("Hansa-Control", "EU")] {
            for split in ["rows", "auto"] {
                let headers = [(key, value), ("Hansa-Split", split)];
                let answer = ask(&entry.url(), "magika", &batch, &headers);
                let places: BTreeSet<&str> =
                    header(&answer, "hansa-executed-in").split(", ").collect();
                assert!(places.is_subset(&["DE", "AT"].into()), "{places:?}");
                assert!(split == "auto" || places.len() == 2, "{places:?}");
                assert_eq!(outputs(&answer)[0].0, json!([200, 214]));
            }
        }
    }
}

#[test]
fn a_split_that_cannot_be_is_refused_and_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let fixed = onnx::write(folder.path(), &onnx::identity(1, &[2, 4]));
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("magika", magika()).with("fixed", &fixed),
        Spec::new("paris", "FR", "FR").with("magika", magika()).with("fixed", &fixed),
    ]);
    let entry = mesh.node("berlin");
    let refused = |model, inputs: &[Input], headers: &[(&str, &str)], status, word: &str| {
        let headers = [&[("Hansa-Split", "rows")][..], headers].concat();
        let answer = ask(&entry.url(), model, inputs, &headers);
        let told = error(&answer);
        assert_eq!((answer.0, &told["code"]), (status, &json!("unsplittable")), "{told}");
        assert!(told["error"].as_str().expect("a text").contains(word), "{told}");
    };
    refused("magika", &files(1), &[], 400, "one row");
    refused("magika", &files(8), &[("Hansa-Locations", "DE")], 403, "only one peer");
    let x: Vec<u8> = [1f32; 8].iter().flat_map(|value| value.to_le_bytes()).collect();
    refused("fixed", &[("x", "FP32", vec![2, 4], x)], &[], 400, "apart");
    let nobody = [("Hansa-Split", "rows"), ("Hansa-Locations", "US")];
    let answer = ask(&entry.url(), "magika", &files(8), &nobody);
    assert_eq!((answer.0, &error(&answer)["code"]), (403, &json!("policy_unsatisfiable")));
}

#[test]
fn a_peer_that_is_killed_amid_a_batch_costs_only_its_own_rows() {
    let mut mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("magika", magika()),
        Spec::new("paris", "FR", "FR").with("magika", magika()),
        Spec::new("vienna", "AT", "AT").with("magika", magika()),
        Spec::new("zurich", "CH", "CH"),
    ]);
    let batch = files(600);
    let whole = send(mesh.node("zurich"), "magika", &batch, "never");
    let (url, shards) = (mesh.node("zurich").url(), "hansa_rows_shards_total");
    let before = counter(mesh.node("zurich"), shards);
    let job = std::thread::spawn({
        let batch = batch.clone();
        let headers = [("Hansa-Split", "rows"), ("Hansa-Deadline-Ms", "60000")];
        move || ask(&url, "magika", &batch, &headers)
    });
    let patience = Instant::now() + Duration::from_secs(20);
    while counter(mesh.node("zurich"), shards) == before {
        assert!(Instant::now() < patience, "the batch is not split");
        std::thread::sleep(Duration::from_millis(2));
    }
    // Its rows have arrived and run; they take a fifth of a second or more.
    std::thread::sleep(Duration::from_millis(50));
    mesh.kill("vienna");
    let answer = job.join().expect("a job ends");
    assert_same(&answer, &whole);
    assert!(!executed_by(&answer).contains("vienna"), "{:?}", executed_by(&answer));
    assert!(counter(mesh.node("zurich"), "hansa_peers_lost_total") > 0, "it was killed too late");
    // The next batch does without.
    let next = send(mesh.node("zurich"), "magika", &batch, "rows");
    assert_same(&next, &whole);
    assert_eq!(executed_by(&next), ["berlin", "paris"].into());
}
