//! The clients that apps have, unmodified.

use hansa_runtime::models;
use hansa_runtime::wheel::Progress;
use hansa_tests::mesh::{Mesh, Spec, launch};
use hansa_tests::python;

#[test]
fn tritonclient_works_against_a_node_that_does_not_hold_the_model() {
    let model = models::magika(Progress::Stderr).expect("magika can be fetched").join("model.onnx");
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("magika", &model),
        Spec::new("austin", "US", "US"),
    ]);
    let url = mesh.node("austin").url();
    let address = url.trim_start_matches("http://");
    // The bar is 10,000; the suite's time allows a tenth, and more by this variable.
    let requests = std::env::var("HANSA_TRITON_REQUESTS").unwrap_or_else(|_| "1000".into());
    let said =
        python::script("triton_http.py", &[address, &model.display().to_string(), &requests]);
    eprintln!("{said}");
}

#[test]
fn the_whole_protocol_works_over_grpc_and_http_wherever_the_model_is() {
    let models = python::triton_models();
    let [simple, identity, numbers] =
        ["simple", "simple_identity", "custom_identity_int32"].map(|name| {
            let file = models.join(format!("{name}.onnx"));
            (name, file)
        });
    let sequence = models.join("simple_dyna_sequence");
    let folder = tempfile::tempdir().expect("a folder");
    let silero = models::silero_vad(Progress::Stderr).expect("silero-vad can be fetched");
    let file = silero.join("model.onnx");
    std::fs::copy(&file, folder.path().join("model.onnx")).expect("it is copied");
    let states = r#"{ "states": { "stateN": "state" } }"#;
    std::fs::write(folder.path().join("sequence.json"), states).expect("it is written");
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE")
            .with(simple.0, &simple.1)
            .with(identity.0, &identity.1)
            .with(numbers.0, &numbers.1)
            .with("simple_dyna_sequence", &sequence)
            .with("silero", folder.path()),
        Spec::new("austin", "US", "US"),
    ]);
    let node = mesh.node("austin");
    let (url, grpc) = (node.url(), node.addresses["grpc"].as_str().expect("an address"));
    let file = file.display().to_string();
    let said = python::script("triton_grpc.py", &[url.trim_start_matches("http://"), grpc, &file]);
    eprintln!("{said}");
}

#[test]
fn classes_have_their_labels_wherever_the_model_is_and_only_these_are_fetched() {
    let simple = python::triton_models().join("simple.onnx");
    let mut labels: Vec<String> = (0..15).map(|number| number.to_string()).collect();
    labels[14] = "fourteen small ones".into();
    let labels = labels.join("\n");
    let put = |path: std::path::PathBuf, text: &[u8]| {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("it is made");
        std::fs::write(path, text).expect("it is written");
    };
    let model = std::fs::read(&simple).expect("a model");
    // One as a bundle has its labels, one as a repository of Triton's has them.
    let folder = tempfile::tempdir().expect("a folder");
    put(folder.path().join("model.onnx"), &model);
    put(folder.path().join("labels/OUTPUT0.txt"), labels.as_bytes());
    let mut mesh = Mesh::new();
    let berlin = Spec {
        extra: "[repository]\ndir = \"models\"\n",
        ..Spec::new("berlin", "DE", "DE").with("bundled", folder.path())
    };
    let config = mesh.prepare(&berlin);
    let models = config.parent().expect("a home").join("models").join("configured");
    put(models.join("1/model.onnx"), &model);
    // Its last line ends, so that it is another bundle: one has one name.
    put(models.join("classes.txt"), format!("{labels}\n").as_bytes());
    let said = "max_batch_size: 8\noutput { name: \"OUTPUT0\" data_type: TYPE_INT32 dims: [ 16 ] \
                label_filename: \"classes.txt\" }\n";
    put(models.join("config.pbtxt"), said.as_bytes());
    mesh.nodes.push(launch("berlin", &config));
    mesh.start(&Spec::new("austin", "US", "US"));
    mesh.await_all(std::time::Duration::from_secs(30));
    let node = mesh.node("austin");
    let (url, grpc) = (node.url(), node.addresses["grpc"].as_str().expect("an address"));
    let http = url.trim_start_matches("http://");
    python::script("triton_labels.py", &[http, grpc, "bundled", "configured"]);
    let sent = mesh.node("berlin").metric("hansa_bundle_bytes_sent_total");
    assert_eq!(sent, 2 * labels.len() as u64 + 1, "each file once, and nothing else");
}
