//! Models find their places by themselves: nodes that may take up what jobs want and nobody serves,
//! and a model that fits none of them is cut for several.

use std::time::{Duration, Instant};

use hansa_tests::mesh::{Answer, Mesh, Spec, header};
use hansa_tests::onnx;
use serde_json::{Value, json};

const WIDTH: usize = 512; // A layer of 1 MiB.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes up what is wanted, within so many MiB for models.
const DEMANDED_6_MIB: &str = "hold = \"demanded\"\n\
                              devices = [{ provider = \"cpu\", id = 0, memory_mib = 6 }]";

fn question() -> Value {
    let x: Vec<f32> = (0..WIDTH).map(|i| ((i * 37) % 100) as f32 / 50.0 - 1.0).collect();
    json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": x}]})
}

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.2).expect("JSON")
}

fn floats(answer: &Answer) -> Vec<f64> {
    let body = body(answer);
    let data = body["outputs"][0]["data"].as_array().expect("data").clone();
    data.iter().map(|value| value.as_f64().expect("a number")).collect()
}

/// Asks twice a second until a job is answered; all before are told to come back, or that nobody
/// holds it.
fn await_answer(mut ask: impl FnMut() -> Answer) -> Answer {
    let started = Instant::now();
    loop {
        let answer = ask();
        if answer.0 == 200 {
            eprintln!("answered after {:.1?}", started.elapsed());
            return answer;
        }
        assert!(matches!(answer.0, 403 | 404 | 503), "{} {}", answer.0, body(&answer));
        assert!(started.elapsed() < PATIENCE, "{} {}", answer.0, body(&answer));
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn a_model_that_fits_no_node_is_cut_and_taken_up_by_those_that_may_have_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = onnx::write(folder.path(), &onnx::layers(12, WIDTH, 7));
    let alone = Mesh::with(&[Spec::new("oslo", "NO", "NO").with("deep", &whole)]);
    let expected = floats(&alone.node("oslo").infer("deep", &question(), &[]));
    drop(alone);
    // Weights may not leave Europe.
    let extra = "[policy.serve]\nlocations = \"EU,CH\"\n";
    let takes =
        |name, place| Spec { runtime: DEMANDED_6_MIB, extra, ..Spec::new(name, place, place) };
    let mesh = Mesh::with(&[
        takes("berlin", "DE").with("deep", &whole),
        takes("paris", "FR"),
        takes("vienna", "AT"),
        takes("austin", "US"),
        Spec::new("zurich", "CH", "CH"),
    ]);
    let entry = mesh.node("zurich");
    let answer = await_answer(|| entry.infer("deep", &question(), &[]));
    let apart = floats(&answer).into_iter().zip(&expected).map(|(a, b)| (a - b).abs());
    assert!(apart.fold(0.0, f64::max) < 1e-5);
    let mut by: Vec<&str> = header(&answer, "hansa-executed-by").split(", ").collect();
    by.sort_unstable();
    assert_eq!(by, ["berlin", "paris", "vienna"]);
    assert_eq!(mesh.node("berlin").metric("hansa_models_cut_total"), 1);
    assert_eq!(mesh.node("austin").metric("hansa_bundle_bytes_pulled"), 0);
    assert_eq!(entry.get("/mesh/v1/models"), json!({ "models": [] }), "its operator wants none");
}

#[test]
fn a_model_goes_where_the_law_of_the_jobs_wants_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = onnx::write(folder.path(), &onnx::layers(3, WIDTH, 7));
    let takes = |name, place| Spec { runtime: DEMANDED_6_MIB, ..Spec::new(name, place, place) };
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("deep", &model),
        takes("vienna", "AT"),
        takes("paris", "FR"),
        Spec::new("graz", "AT", "AT"),
        Spec::new("zurich", "CH", "CH"),
    ]);
    let entry = mesh.node("zurich");
    let ask = |headers: &[(&str, &str)]| entry.infer("deep", &question(), headers);
    assert_eq!(header(&ask(&[]), "hansa-executed-by"), "berlin");
    let refused = ask(&[("Hansa-Locations", "AT")]);
    assert_eq!((refused.0, &body(&refused)["code"]), (403, &json!("policy_unsatisfiable")));
    let answer = await_answer(|| ask(&[("Hansa-Locations", "AT")]));
    assert_eq!(header(&answer, "hansa-executed-by"), "vienna");
    assert_eq!(mesh.node("paris").metric("hansa_models_demanded_total"), 0);
    assert_eq!(mesh.node("graz").metric("hansa_models_demanded_total"), 0);
}
